"""A profile on demand: what the devices and the host do in a few steps, and how fast they are.

    scripts/train.py --config=configs/digits_mlp.py --workdir=/tmp/run --profile=300:400

traces from step 300 to step 400 (completed updates), for https://ui.perfetto.dev, and afterwards times up
to as many steps without tracing, which slows them down, and without an evaluation. `profile.json` then
says what a step takes and how much of the devices' peak it uses (playbook, "Optimizing the input
pipeline"). Neither changes a bit of the run. The workdir must be a local one; TensorFlow is not needed.
"""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import jax
from etils import epath
from ml_collections import ConfigDict

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import parallel
from playbook_jax.tracking import peak_flops

FILE, FOLDER = "profile.json", "profile"
_TRACE = "perfetto_trace.json.gz"


def parse(text: str) -> range:
    """Returns the steps that "A:B" means, from A completed updates to B.

    Raises:
      UsageError: it is not of this form, or empty, or begins at 0.
    """
    parts = text.split(":")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--profile={text}: give two steps, as in --profile=100:110")
    steps = range(*map(int, parts))
    if not steps:
        raise UsageError(f"--profile={text} has no steps; the second number must be the larger one")
    if steps.start < 1:
        raise UsageError(f"--profile={text}: the first step compiles; begin at 1 or later")
    return steps


def timed_steps(stop: int, count: int, eval_every: int, total: int) -> tuple[int, int]:
    """Returns which steps are to be timed after a trace: up to `count`, and none with an evaluation.

    Where every step is evaluated, they are; where the run is over, the two steps are the same.
    """
    next_evaluation = (stop // eval_every + 1) * eval_every
    begin = stop if next_evaluation > stop + 1 else next_evaluation
    # The last step of a run is evaluated too.
    end = min(begin + count, (begin // eval_every + 1) * eval_every - 1, total - 1)
    return (begin, end) if end > begin else (stop, min(stop + count, total))


class Profiler:
    """Profiles one run, or does nothing where no steps are to be profiled.

    On several hosts each has to be given the same steps; host 0 traces and writes.

    Attributes:
      profile: what `profile.json` holds, once it is made.
    """

    profile: dict[str, Any] | None = None

    def __init__(
        self,
        steps: range | None = None,
        config: ConfigDict | None = None,
        peak: float | None = None,
    ) -> None:
        """Checks what is asked for.

        Args:
          steps: from which number of completed updates to which; None for no profile.
          config: the complete training config, where there are steps.
          peak: operations a second that one device could do; None: what is known of its kind.

        Raises:
          UsageError: the run ends before the steps do, or the peak is none.
        """
        if peak is not None and (not steps or peak <= 0):
            raise UsageError(f"--peak_flops={peak:g} must be above 0, and goes with --profile=A:B")
        self._steps, self._config, self._peak = steps, config, peak
        if steps and steps.stop > (total := config_lib.total_steps(config)):
            raise UsageError(
                f"--profile={steps.start}:{steps.stop} goes beyond the run's last step, {total:,}"
            )
        self._writes = parallel.host_index() == 0
        self._tracing = False
        self._times: dict[int, tuple[float, float]] = {}  # of arrival at and leave from a step
        self._flops: float | None = None
        self._boundaries: tuple[int, ...] = ()

    def start(self, directory: epath.PathLike, step: int) -> None:
        """Takes the trial directory, and the step from which this process goes on."""
        self._directory = epath.Path(directory)
        if not self._steps:
            return
        # The first call of a process compiles, wherever it goes on from.
        start, stop = max(self._steps.start, step + 1), self._steps.stop
        if start < stop:
            timed = timed_steps(
                stop,
                stop - start,
                self._config.eval_every_steps,
                config_lib.total_steps(self._config),
            )
            self._boundaries = (start, stop, *timed)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Ends a trace that the run's own end has cut short; it can be read."""
        if self._tracing:
            jax.profiler.stop_trace()

    def boundaries(self, step: int) -> list[int]:
        """Returns the steps after `step` at which `at` has to be called.

        Those are where the trace begins and ends, and where the timing without it does.
        """
        return [boundary for boundary in self._boundaries if boundary > step]

    def at(self, step: int, unfinished: Any) -> None:
        """Starts, ends or evaluates the profile where `step` is the place for it.

        Args:
          step: the number of completed updates.
          unfinished: a tree of what the devices may still be computing.
        """
        if step not in self._boundaries:
            return
        jax.block_until_ready(unfinished)
        start, stop, _, end = self._boundaries
        arrived = time.monotonic()
        if step == start and self._writes:
            folder = os.fspath(self._directory / FOLDER)
            jax.profiler.start_trace(folder, create_perfetto_trace=True)
            self._tracing = True
        if step == stop and self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
        # Starting and writing a trace take their time, which counts nowhere.
        self._times[step] = (arrived, time.monotonic())
        if step == end and self._writes:
            self._write()

    def note(self, run_steps: Callable, arguments: tuple[Any, ...]) -> None:
        """Counts the operations of a call of the devices that is about to be made."""
        if self._boundaries and self._flops is None:
            self._flops = flops_per_step(run_steps, arguments)

    def _step_seconds(self, first: int, last: int) -> float:
        return (self._times[last][0] - self._times[first][1]) / (last - first)

    def _write(self) -> None:
        traced, timed = self._boundaries[:2], self._boundaries[2:]
        first, last = timed if timed[0] < timed[1] else traced
        every = self._config.eval_every_steps
        traces = sorted(Path(self._directory / FOLDER).glob(f"**/{_TRACE}"))
        self.profile = measure(
            self._step_seconds(first, last),
            batch_size=self._config.batch_size,
            flops=self._flops,
            peak=self._peak,
        ) | {
            "timed_steps": (first, last),
            "evaluations": last // every - first // every,
            "traced_steps": traced,
            "traced_step_seconds": self._step_seconds(*traced),
            "trace": os.path.relpath(traces[-1], self._directory),
        }
        trial.write_json(self._directory / FILE, self.profile)

    def describe(self) -> list[str]:
        """Returns what to say at the end of the run: what was found, or why nothing was."""
        if not self._steps or not self._writes:
            return []
        if not self.profile:
            steps = f"{self._steps.start:,} to {self._steps.stop:,}"
            return [f"No profile: this process did not make the steps {steps}"]
        return ["Profile:", *table(self.profile, self._directory)]


def flops_per_step(run_steps: Callable, arguments: tuple[Any, ...]) -> float:
    """Returns the floating-point operations of one update, on all devices of all hosts together.

    By XLA's analysis of the program as the model states it, before any backend replaces parts of it:
    2 m n k for a product of matrices, one for each sum or comparison. It counts the body of a loop
    once, which for the loop over the updates is what is wanted, and too little for a model that loops
    over its own layers.

    Args:
      run_steps: a program of one device, run on all of them (see `train_step.make_run_steps`).
      arguments: its arguments. Shapes will not do: on several hosts pmap takes no others.
    """
    return run_steps.lower(*arguments).cost_analysis()["flops"] * parallel.all_devices_count()


def measure(
    step_seconds: float, *, batch_size: int, flops: float, peak: float | None = None
) -> dict[str, Any]:
    """Returns what follows from the time of a step.

    Model FLOP utilization is what the model needs of what the devices could do in the same time
    (https://arxiv.org/abs/2204.02311, appendix B); None where their peak is unknown.

    Args:
      step_seconds: of an update.
      batch_size: of all devices together.
      flops: of an update, on all of them.
      peak: operations a second that one device could do; None: what is known of its kind.
    """
    kind, devices = jax.devices()[0].device_kind, parallel.all_devices_count()
    peak = peak or peak_flops.of(kind)
    return {
        "step_seconds": step_seconds,
        "steps_per_second": 1 / step_seconds,
        "examples_per_second": batch_size / step_seconds,
        "flops_per_step": flops,
        "flops_per_second": flops / step_seconds,
        "device_kind": kind,
        "devices": devices,
        "peak_flops_per_device": peak,
        "model_flop_utilization": flops / step_seconds / (peak * devices) if peak else None,
    }


def table(profile: dict[str, Any], directory: epath.PathLike) -> list[str]:
    """Returns the lines that say what the profile of a trial directory has found."""
    first, last = profile["timed_steps"]
    how = "not traced" if profile["timed_steps"] != profile["traced_steps"] else "traced, so slower"
    included = ", evaluations included" if profile["evaluations"] else ""
    peak, used = profile["peak_flops_per_device"], profile["model_flop_utilization"]
    utilization = (
        f"{100 * used:.3g} % of {profile['devices']} × {_si(peak)}FLOP/s ({profile['device_kind']})"
        if used
        else f"unknown: the peak of {profile['device_kind']!r} is; give it as --peak_flops"
    )
    rows = {
        "step time": f"{_si(profile['step_seconds'])}s (steps {first:,} to {last:,}, {how}{included})",
        "throughput": f"{profile['examples_per_second']:,.0f} examples/s",
        "model FLOPs": f"{_si(profile['flops_per_step'])}FLOP a step, "
        f"{_si(profile['flops_per_second'])}FLOP/s",
        "utilization": utilization,
        "trace": f"{os.path.join(directory, profile['trace'])} (open it at https://ui.perfetto.dev)",
    }
    return [f"  {name:<12}{text}" for name, text in rows.items()]


def _si(value: float) -> str:
    """Returns "1.23 G" and the like."""
    exponent = min(5, max(-3, math.floor(math.log10(value) / 3))) if value else 0
    return (
        f"{value / 1000**exponent:.3g} {('n', 'µ', 'm', '', 'k', 'M', 'G', 'T', 'P')[exponent + 3]}"
    )
