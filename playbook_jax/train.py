"""The training run, from a config to a finished trial directory.

A run trains for a fixed number of steps, evaluates at fixed step intervals, keeps the latest and the
best checkpoints, and chooses the best one when it is over. It is a function of its config and seed:
stopped anywhere and started again, it ends the same. The devices never wait for the host: what a
stretch of steps has left is read while the next one runs.
"""

import collections
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from playbook_jax import (
    checkpoints,
    clock,
    config as config_lib,
    divergence,
    evaluation,
    failure,
    input_pipeline,
    parallel,
    profiling,
    program as program_lib,
    provenance,
    tensorboard,
    train_step,
    transfer,
    trial,
)
from playbook_jax.errors import InputError, UsageError
from playbook_jax.train_step import TrainState

# Done steps, all steps, and a word on how it goes.
Progress = Callable[[int, int, str], None]

# Calls of the device that may be unfinished. Enough that it never waits; on several virtual CPU
# devices, more than 16 abort the process.
_CALLS_IN_FLIGHT = 8


def validate(config: ConfigDict) -> ConfigDict:
    """Returns the config with its optional keys, after every check that `train` makes of it.

    Files are looked at later: the workdir, and what `initialize_from` names, which a resumed run
    does not need.

    Raises:
      UsageError: the config can't be run; nothing has been written.
    """
    config = config_lib.complete(config)
    program_lib.get(config)
    return config


def train(
    config: ConfigDict,
    workdir: epath.PathLike,
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    command: list[str] | None = None,
    profiler: profiling.Profiler | None = None,
    view: tensorboard.View | None = None,
) -> dict[str, Any]:
    """Runs one trial to its end, going on where an earlier run of it was stopped.

    Args:
      config: the training config.
      workdir: the trial directory; made if it does not exist.
      progress: is told how far the run is, once a stretch of steps.
      should_stop: asked between calls of the device; once true, the run saves and ends INTERRUPTED.
      command: what started the run, for its provenance; this process's command when None.
      profiler: what profiles some of its steps.
      view: what shows it in TensorBoard.

    Returns:
      The trial's status. A trial that is COMPLETE or INFEASIBLE already returns it at once. An
      error while training ends it as FAILED, with the traceback on standard error.

    Raises:
      UsageError: the config can't be run, or `workdir` or its checkpoint is not for it.
    """
    config = validate(config)
    checkpoints.check_place(workdir)
    start = transfer.read(config, workdir)
    writer = _open(workdir, config)
    status = writer.status
    if _of_host_0(status["state"] in (trial.COMPLETE, trial.INFEASIBLE)):
        return status
    try:
        with (
            checkpoints.Checkpoints(
                writer.directory, keep_best=config.checkpoint.keep_best, mode=config.checkpoint.mode
            ) as saved,
            profiler or profiling.Profiler() as profiler,
            view or contextlib.nullcontext() as writer.view,
        ):
            progress = progress or (lambda done, total, text: None)
            run = _Run(config, writer, saved, progress, start, profiler)
            earlier = trial.read_json(writer.directory / "provenance.json", {}) | run.origin
            origin = provenance.collect(command, config_lib.seeds(config), earlier)
            writer.write("provenance.json", origin)
            return run.to_the_end(should_stop)
    except InputError as error:
        return failure.conclude(writer, error)
    except UsageError:
        raise
    except Exception as error:
        return failure.conclude(writer, error)


def _open(workdir: epath.PathLike, config: ConfigDict) -> trial.Writer:
    """Opens the trial on every host; host 0 writes, and what it writes the others must see."""
    writes = parallel.host_index() == 0
    writer, refusal = None, None
    for turn in (True, False):
        if writes == turn:
            try:
                writer = trial.Writer(workdir, config_lib.to_dict(config), writes=writes)
            except UsageError as error:
                refusal = error
        if any(parallel.agree(refusal is not None)):
            raise refusal or UsageError("another host refuses this run; see what it says")
    return writer


def _of_host_0(value: int) -> int:
    return parallel.agree(value)[0]


@dataclasses.dataclass(frozen=True)
class _Stretch:
    """What the steps from `start` to `end` have left on the devices, to be read once they are through.

    Attributes:
      start: the number of completed updates before it.
      end: the number of completed updates after it.
      records: per-step records, the first `end − start` of them.
      outcome: the last of what `run_steps` returns.
      snapshot: the state, where there is an evaluation or a checkpoint.
      evaluations: metric → its numerator and denominator.
      predictions: those of `config.save_predictions`, a batch each.
      save: whether a checkpoint is due.
      of_devices: each device's own batch statistics, where a checkpoint is not due but made.
    """

    start: int
    end: int
    records: Any
    outcome: Any
    snapshot: TrainState | None
    evaluations: Mapping[str, Any]
    predictions: list[Any]
    save: bool
    of_devices: Any


class _Run:
    """One run of one trial."""

    def __init__(
        self,
        config: ConfigDict,
        writer: trial.Writer,
        saved: checkpoints.Checkpoints,
        progress: Progress,
        start: transfer.Start | None,
        profiler: profiling.Profiler,
    ) -> None:
        self._config, self._writer, self._progress = config, writer, progress
        self._checkpoints, self._profiler = saved, profiler
        self._program = program_lib.get(config)
        self._hparams = train_step.cast_hparams(config.hparams)
        self._max_train_steps = np.float32(config.max_train_steps)
        self._total = config_lib.total_steps(config)
        self._source = input_pipeline.make_source(
            config, self._program.workload, self._program.arrays["train"]
        )
        seeds = config_lib.seeds(config)
        self._state = self._program.init(seeds["initialization"], seeds["dropout"])
        writer.write("steps.json", {"columns": self._program.columns})
        self.origin: Mapping[str, Any] = {}  # what is to be said of it in the provenance
        self._step = self._stretch_start = self._restore(start)
        self._records = self._new_records()
        self._in_flight: collections.deque[Any] = collections.deque()
        self._infeasible: tuple[str, int] | None = None  # the reason and the step
        self._all_stop = False  # whether some host was asked to stop
        self._clock = clock.Clock(self._step, config.batch_size)
        profiler.start(writer.directory, self._step)
        self._news = self._last_objective = ""

    def _restore(self, start: transfer.Start | None) -> int:
        """Goes back to the latest checkpoint, or to the beginning, and returns the step."""
        restored = self._checkpoints.restore(parallel.first(self._state))
        if restored is not None:
            self._state = self._program.restore(restored.state, restored.of_devices)
        elif self._config.initialize_from.path:
            self._state, self.origin = transfer.begin(self._config, self._program, start)
        step = 0 if restored is None else restored.step
        self._writer.rewind(step)
        parallel.agree(step)  # the others read what host 0 has cut
        loss = trial.read_steps(self._writer.directory)[:step, 0]
        self._first_loss = float(loss[0]) if step else math.nan
        self._last_losses = collections.deque(
            loss[-divergence.LAST_STEPS :].tolist(), maxlen=divergence.LAST_STEPS
        )
        return step

    def to_the_end(self, should_stop: Callable[[], bool]) -> dict[str, Any]:
        """Trains, evaluates and saves until the run is over; returns the final status."""
        self._write_status(trial.RUNNING)
        if self.origin:  # from here on the run does not need its source
            self._checkpoints.save(0, parallel.first(self._state))
        unread: _Stretch | None = None
        while self._step < self._total and not self._infeasible:
            boundary = self._next_boundary()
            while self._step < boundary:
                asked_to_stop = should_stop()
                if self._all_stop or (asked_to_stop and parallel.host_count() == 1):
                    return self._interrupt(unread)
                num_steps = min(self._config.steps_per_call, boundary - self._step)
                self._send_steps(num_steps, asked_to_stop)
                if unread:  # only now, with the devices busy again
                    self._read(unread)
                    unread = None
            unread = self._end_stretch()
            self._profiler.at(self._step, vars(unread))
        if unread and not self._infeasible:
            self._read(unread)
        return self._conclude()

    def _next_boundary(self) -> int:
        """Returns the next step at which something is to be logged, evaluated or saved."""
        intervals = (
            self._config.log_every_steps,
            self._config.eval_every_steps,
            self._config.checkpoint.every_steps,
        )
        due = [(self._step // every + 1) * every for every in intervals]
        return min(self._total, *due, *self._profiler.boundaries(self._step))

    def _new_records(self) -> Any:
        rows, columns = self._config.log_every_steps, len(self._program.columns)
        return parallel.replicate(train_step.new_records(rows, columns))

    def _send_steps(self, num_steps: int, asked_to_stop: bool) -> None:
        """Sends the next steps to the devices, which may be busy with earlier ones."""
        feed = self._clock.input(lambda: self._source.feed(self._step, num_steps))
        pad = functools.partial(_pad, length=self._config.steps_per_call)
        arguments = (
            self._state,
            self._records,
            self._program.resident,
            jax.tree.map(lambda x: parallel.split(pad(x), axis=1), feed),
            np.int32(self._step - self._stretch_start),
            np.int32(num_steps),
            np.int32(asked_to_stop),
            self._hparams,
            self._max_train_steps,
        )
        self._profiler.note(self._program.run_steps, arguments)
        self._state, self._records, outcome = self._program.run_steps(*arguments)
        self._step += num_steps
        self._in_flight.append(outcome)
        self._clock.sent(outcome)
        if len(self._in_flight) > _CALLS_IN_FLIGHT:
            self._in_flight.popleft().block_until_ready()

    def _end_stretch(self, stopping: bool = False) -> _Stretch:
        """Sends the devices what is due after the current step; reads nothing yet."""
        last = self._step == self._total
        evaluate = not stopping and (last or self._step % self._config.eval_every_steps == 0)
        save = stopping or last or self._step % self._config.checkpoint.every_steps == 0
        snapshot, evaluations, predictions = None, {}, []
        # Only what the config fixes may change what follows: here the averages are a copy.
        of_devices = self._program.of_devices(self._state) if stopping else None
        if evaluate or save:
            self._state, snapshot, variants = self._program.settle(self._state)
        if evaluate:
            evaluations = self._program.start_evaluations(variants, self._hparams)
            predictions = self._program.start_predictions(variants, self._hparams)
            self._clock.sent(*jax.tree.leaves((evaluations, predictions)))
        records, outcome = self._records, self._in_flight[-1]
        start, self._stretch_start = self._stretch_start, self._step
        self._records = self._new_records()
        due = (snapshot, evaluations, predictions, save, of_devices)
        return _Stretch(start, self._step, records, outcome, *due)

    def _read(self, stretch: _Stretch) -> None:
        """Writes down what a stretch has left: records first, then metrics, then checkpoints."""
        records = parallel.first(stretch.records)[: stretch.end - stretch.start]
        bad_step, votes_to_stop = parallel.first(stretch.outcome).tolist()
        self._all_stop |= votes_to_stop > 0
        if bad_step >= 0:
            records = records[: bad_step - stretch.start + 1]
            self._infeasible = (divergence.why_bad(records[-1], self._hparams), bad_step)
        self._writer.append_steps(records)
        if not self._infeasible and stretch.evaluations:
            self._read_evaluations(stretch)
        if not self._infeasible and stretch.save:
            state = self._finite_state(stretch)
            if not self._infeasible:
                self._checkpoints.save(stretch.end, state, stretch.of_devices)
        if stretch.end % self._config.log_every_steps == 0 or stretch.end == self._total:
            self._writer.append("timing.jsonl", self._clock.row(stretch.end))
        if self._clock.status_is_due():
            self._write_status(trial.RUNNING, stretch.end)
        if len(records):
            self._first_loss = float(records[0][0]) if stretch.start == 0 else self._first_loss
            self._last_losses.extend(records[:, 0].tolist())
            self._news = f"loss {records[-1][0]:.4g}"
        news = f"{self._news}{self._last_objective}{self._clock.complaint}"
        self._progress(stretch.end, self._total, news)

    def _read_evaluations(self, stretch: _Stretch) -> None:
        row: dict[str, Any] = {"step": stretch.end}
        for name, pair in stretch.evaluations.items():
            numerator, denominator = parallel.first(pair).astype(np.float64)
            row[name] = float(numerator / denominator) if denominator else math.nan
        self._writer.append("metrics.jsonl", row)
        if stretch.predictions:
            where = self._writer.directory / "predictions" / f"{stretch.end}.npz"
            evaluation.write_predictions(where, self._program.examples, stretch.predictions)
        metric = self._config.checkpoint.metric
        value = row[metric]
        if not math.isfinite(value):
            self._infeasible = (f"{metric} is not finite", stretch.end)
            return
        self._last_objective = f" · {metric} {value:.4g}"
        if self._checkpoints.wants(value):
            state = self._finite_state(stretch)
            self._checkpoints.offer(checkpoints.Candidate(stretch.end, value, state))

    def _finite_state(self, stretch: _Stretch) -> TrainState:
        """Returns the state at the end of a stretch; one that is not finite is infeasible."""
        state = parallel.first(stretch.snapshot)
        if where := divergence.not_finite(state):
            self._infeasible = (f"{where} is not finite", stretch.end)
        return state

    def _interrupt(self, unread: _Stretch | None) -> dict[str, Any]:
        """Saves where the run is, so that the same command goes on from here."""
        if unread:
            self._read(unread)
        if self._in_flight and not self._infeasible:
            self._read(self._end_stretch(stopping=True))
        if self._infeasible:
            return self._conclude()
        self._checkpoints.wait()
        return self._write_status(
            trial.INTERRUPTED, self._step, "stopped before its end; the same command continues it"
        )

    def _conclude(self) -> dict[str, Any]:
        """Chooses the best evaluation, now that all are made, and writes the summary."""
        self._checkpoints.prune()
        if not self._infeasible:
            reason = divergence.ended_above_its_beginning(self._first_loss, self._last_losses)
            self._infeasible = (reason, self._step) if reason else None
        if self._infeasible:
            reason, step = self._infeasible
            status = trial.new_status(trial.INFEASIBLE, f"{reason} (step {step})", step)
        else:
            best = self._checkpoints.best
            status = trial.new_status(trial.COMPLETE, step=self._step)
            status |= {"best_step": best.step, "objective": best.value}
        self._writer.write("summary.json", trial.summarize(self._writer.directory, status))
        self._writer.write("status.json", status)
        return status

    def _write_status(
        self, state: str, step: int | None = None, reason: str = ""
    ) -> dict[str, Any]:
        best = self._checkpoints.best
        status = trial.new_status(state, reason, self._step if step is None else step)
        if best:
            status |= {"best_step": best.step, "objective": best.value}
        self._writer.write("status.json", status)
        return status


def _pad(x: np.ndarray, length: int) -> np.ndarray:
    """Returns `x` with zeros behind, so that every call of the device has the same shapes."""
    if len(x) == length:
        return x
    return np.concatenate([x, np.zeros((length - len(x), *x.shape[1:]), x.dtype)])
