"""What a study will take, from a few real steps of its program, made as its workers will make them.

The preview starts as many processes as there will be workers, each in its worker's place, for what runs
beside them slows them down. A process makes what a trial is made of, and tells what each part took.
"""

import contextlib
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from playbook_jax import trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.runtime import progress
from playbook_jax.studies.execution import device_placement, pack_choice

_ANSWER = "measured: "  # begins the last line; libraries may print too
_SHOWN = 300  # characters of what went wrong


@dataclasses.dataclass(frozen=True)
class Work:
    """What there is to do.

    Attributes:
      config: a trial's training config as JSON has it, of those that share the most frequent program.
      counts: of the trials that are to run, how many share a program, for each program.
      steps: how many updates a trial makes, on average.
      evaluations: how many evaluations.
      saves: how many checkpoints.
      workers: how many processes there will be at most.
      pack: how many trials run in one program, or `pack_choice.AUTO`.
    """

    config: Mapping[str, Any]
    counts: Sequence[int]
    steps: float
    evaluations: float
    saves: float
    workers: int
    pack: int | str = pack_choice.ALONE


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the parts of a trial take, in seconds; of a pack, all of its trials together.

    Attributes:
      start: until a worker is ready to compile.
      compilation: of a program, what had been compiled before included.
      step: an update.
      evaluation: an evaluation of all periodic metrics.
      checkpoint: a checkpoint.
      trial: a trial of one step, with its one evaluation and its one checkpoint.
      lanes: how many trials run in one program.
      device: on what it was measured.
    """

    start: float
    compilation: float
    step: float
    evaluation: float
    checkpoint: float
    trial: float
    lanes: int
    device: str


def seconds(work: Work, costs: Costs) -> tuple[float, float]:
    """Returns how long a study takes, its report not counted: until all have compiled, and from then on."""
    per_job = (
        costs.trial
        + costs.step * max(0.0, work.steps - 1)
        + costs.evaluation * max(0.0, work.evaluations - 1)
        + costs.checkpoint * max(0.0, work.saves - 1)
    )
    # A worker keeps to the programs that it has compiled, while there are trials for them.
    programs = math.ceil(len(work.counts) / work.workers)
    rounds = pack_choice.rounds(work.counts, costs.lanes, work.workers)
    return costs.start + programs * costs.compilation, rounds * per_job


def measure(work: Work) -> Costs:
    """Returns what the parts of a trial take where all workers are busy: the mean over them.

    To be called before this process takes hold of the devices.

    Raises:
      UsageError: the processes fail; says how.
    """
    if work.pack == pack_choice.AUTO:  # as at a launch, where one worker chooses for all
        work = dataclasses.replace(work, **_ask(work, 1)[0])
    found = [Costs(**answer) for answer in _ask(work, work.workers)]
    means = {
        field.name: statistics.fmean(getattr(costs, field.name) for costs in found)
        for field in dataclasses.fields(Costs)
        if field.type is float
    }
    return dataclasses.replace(found[0], **means)


def _ask(work: Work, count: int) -> list[dict[str, Any]]:
    """Returns what each of so many processes answers: the pack that it chose, or the costs of one."""
    processes: list[subprocess.Popen] = []
    try:
        for index in range(count):
            processes.append(_start(device_placement.place(index, work.workers)))
        for process in processes:  # all of them before any is waited for
            with contextlib.suppress(BrokenPipeError):  # what it printed before it ended says why
                process.stdin.write(json.dumps(dataclasses.asdict(work)))
                process.stdin.close()
        return [_answer(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


def _start(place: device_placement.Place) -> subprocess.Popen:
    return place.start(
        "playbook_jax.studies.execution.measurement",
        str(time.time()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _answer(process: subprocess.Popen) -> dict[str, Any]:
    lines = process.stdout.read().strip().splitlines() or ["it printed nothing"]
    if process.wait() or not lines[-1].startswith(_ANSWER):
        raise UsageError(f"the measurement fails: {lines[-1][:_SHOWN]}")
    return json.loads(lines[-1].removeprefix(_ANSWER))


def describe(work: Work, costs: Costs) -> str:
    """Returns what a study will take and on what that was measured, in words, two lines."""
    before, after = seconds(work, costs)
    alone = costs.lanes == pack_choice.ALONE
    workers = "1 worker" if work.workers == 1 else f"{work.workers} workers"
    one = "a trial" if alone else f"a pack of {costs.lanes} trials"
    rounds = pack_choice.rounds(work.counts, costs.lanes, work.workers)
    text = (
        f"about {progress.format_seconds(before + after)} with {workers} and without the report: "
        f"{_short(before)} until all have started and compiled, then {_short(after)}, "
        f"{_short(after / rounds)} {one}\n"
        f"measured now on {costs.device}, {workers} at once: "
    )
    if len(work.counts) > 1:
        text += f"of {len(work.counts)} programs, the one that most trials share; "
    parts = {
        "to compile": costs.compilation,
        "a step" if alone else f"a step of all {costs.lanes}": costs.step,
        "an evaluation": costs.evaluation,
        "a checkpoint": costs.checkpoint,
    }
    return text + ", ".join(f"{what} {_short(value)}" for what, value in parts.items())


def _short(value: float) -> str:
    if value < 1:
        return f"{value * 1e6:.2g} µs" if value < 1e-4 else f"{value * 1e3:.3g} ms"
    return f"{value:.1f} s" if value < 10 else progress.format_seconds(value)


def _choose(work: Work, config: ConfigDict) -> int:
    """Returns how many trials a launch would run in one program."""
    from playbook_jax.training import step_time

    found = pack_choice.explore(
        pack_choice.widths(max(work.counts)),
        lambda lanes: step_time.measure(config, lanes),
        step_time.OUT_OF_MEMORY,
    )
    if pack_choice.ALONE not in found.seconds:
        raise UsageError("there is not enough memory for a single trial")
    return pack_choice.choose(found.seconds, work.counts, work.workers)


def _one_step(config: ConfigDict, lanes: int) -> float:
    """Runs a real trial of one step, or one in each lane, and removes it; returns the seconds."""
    from playbook_jax import config as config_lib
    from playbook_jax.training import loop as loop_lib, packing

    # With no warmup to lengthen it, and at a rate at which nothing diverges.
    one = {"max_train_steps": 1, "hparams.warmup_steps": 0, "hparams.post_warmup_steps": 0}
    config = config_lib.override(config, one | {"hparams.learning_rate": 0.0})
    with tempfile.TemporaryDirectory() as directory:
        workdirs = [f"{directory}/{lane}" for lane in range(lanes)]
        begin = time.perf_counter()
        if lanes == pack_choice.ALONE:
            status = loop_lib.train(config, workdirs[0])
        else:
            status = packing.train([packing.Lane(config, workdir) for workdir in workdirs])[0]
        taken = time.perf_counter() - begin
    if status["state"] not in (trial_lib.COMPLETE, trial_lib.INFEASIBLE):
        raise UsageError(f"a trial of one step is {status['state']}: {status['reason']}")
    return taken


def _parts(config: ConfigDict, lanes: int) -> Iterator[tuple[str, float]]:
    """Yields what an evaluation and the checkpoints of all lanes take."""
    import jax
    import numpy as np

    from playbook_jax import checkpoints
    from playbook_jax.runtime import parallel
    from playbook_jax.training import lanes as lanes_lib, program as program_lib

    width = pack_choice.lanes_of(lanes)
    program = program_lib.get(config, width)

    def same(tree: Any) -> Any:
        return lanes_lib.join(width, {0: tree})

    state = program.init(same(np.uint32(0)), same(np.uint32(0)))
    due = () if width is None else (np.ones(lanes, bool),)
    _, copy, variants = program.settle(state, *due)
    hparams = program.values({0: config}).hparams

    def evaluate() -> None:
        jax.block_until_ready(program.start_evaluations(variants, hparams))

    yield "evaluation", _second_time(evaluate)
    one = lanes_lib.part(width, parallel.first(copy), 0)
    options = {"keep_best": config.checkpoint.keep_best, "mode": config.checkpoint.mode}
    with (
        tempfile.TemporaryDirectory() as directory,
        checkpoints.Checkpoints(directory, **options) as saved,
    ):
        steps = iter((1, 2))

        def save() -> None:
            step = next(steps)
            saved.offer(checkpoints.Candidate(step, -step, one))
            saved.save(step, one)
            saved.wait()

        yield "checkpoint", lanes * _second_time(save)


def _second_time(function: Callable[[], None]) -> float:
    function()
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _respond(work: Work, began: float) -> dict[str, Any]:
    """Returns what this process, which was started at the time `began`, has to tell."""
    from playbook_jax import config as config_lib
    from playbook_jax.runtime import compilation_cache
    from playbook_jax.training import loop as loop_lib

    compilation_cache.enable()
    config = loop_lib.validate(config_lib.from_dict(work.config))
    if work.pack == pack_choice.AUTO:
        return {"pack": _choose(work, config)}
    return dataclasses.asdict(_costs(config, work.pack, start=time.time() - began))


def _costs(config: ConfigDict, lanes: int, start: float) -> Costs:
    import jax

    from playbook_jax.training import step_time

    first, trial = (_one_step(config, lanes) for _ in range(2))
    devices = jax.local_devices()
    device = f"{len(devices)} × {devices[0].device_kind}"
    if devices[0].platform == "cpu" and hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
        device = f"{cores} CPU core{'s' * (cores != 1)} each"
    return Costs(
        start=start,
        compilation=max(0.0, first - trial),
        step=step_time.measure(config, pack_choice.lanes_of(lanes)),
        **dict(_parts(config, lanes)),
        trial=trial,
        lanes=lanes,
        device=device,
    )


def main(core: str, began: str) -> None:
    """Measures what standard input says; see `places.Place.start`."""
    device_placement.keep_to(core)
    try:
        answer = _respond(Work(**json.loads(sys.stdin.read())), float(began))
    except UsageError as error:
        sys.exit(str(error))
    print(_ANSWER + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
