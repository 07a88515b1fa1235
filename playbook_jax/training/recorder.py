"""The host's side of one trial that runs: what its steps leave is judged, and written down.

Records first, then metrics, then checkpoints, so that whatever is on disk is explained by what is
before it. Nothing here waits for the devices except where it reads what they have left.
"""

import collections
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from playbook_jax import checkpoints, config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import lock, parallel
from playbook_jax.tracking import clock as clock_lib, provenance, record_files, sources
from playbook_jax.training import divergence, evaluation, initialize_from, train_step
from playbook_jax.training.program import Program
from playbook_jax.training.train_step import TrainState

# Done steps, all steps, and a word on how it goes.
Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Left:
    """What a stretch of steps has left of one trial, on the host.

    Attributes:
      start: the number of completed updates before it.
      end: the number of completed updates after it.
      records: the per-step records, float32 [at least end − start, columns].
      bad_step: the first bad step so far, −1 where there is none.
      evaluations: metric → its numerator and denominator.
      predictions: those of `config.save_predictions`, a batch each.
      save: whether a checkpoint is due.
      state: gives the state at the end, where there is an evaluation or a checkpoint.
      of_devices: each device's own batch statistics, where a checkpoint is not due but made.
    """

    start: int
    end: int
    records: np.ndarray
    bad_step: int
    evaluations: Mapping[str, np.ndarray]
    predictions: Sequence[Mapping[str, np.ndarray]]
    save: bool
    state: Callable[[], TrainState]
    of_devices: Any


@contextlib.contextmanager
def open_trial(workdir: epath.PathLike, config: ConfigDict) -> Iterator[trial.Writer]:
    """Opens the trial on every host; host 0 locks it and writes, and the others must see what it writes.

    Raises:
      UsageError: the directory can't be written, is in use, or is not for this config.
    """
    checkpoints.check_place(workdir)
    writes = parallel.host_index() == 0
    writer, refusal = None, None
    with contextlib.ExitStack() as held:
        for turn in (True, False):
            if writes == turn:
                try:
                    if writes:
                        held.enter_context(lock.hold(workdir))
                    writer = trial.Writer(workdir, config_lib.to_dict(config), writes=writes)
                except UsageError as error:
                    refusal = error
            if any(parallel.agree(refusal is not None)):
                raise refusal or UsageError("another host refuses this run; see what it says")
        yield writer


class Recorder:
    """Keeps one trial's directory while the trial runs.

    Attributes:
      config: the complete config.
      directory: the trial directory.
      hparams: what the compiled step gets.
      total: how many updates the run makes.
      step: how many are written down.
      status: how the trial has ended; None while it goes on.
    """

    def __init__(
        self,
        config: ConfigDict,
        writer: trial.Writer,
        start: initialize_from.Start | None,
        *,
        progress: Progress | None = None,
        ended: Callable[[dict[str, Any]], None] = lambda status: None,
    ) -> None:
        """Takes over a trial that is open.

        Args:
          config: the complete config.
          writer: what `open_trial` gave.
          start: what `transfer.read` gave before the trial was opened.
          progress: is told how far it is, once a stretch of steps.
          ended: is told the status with which it ends.
        """
        self.config, self._writer, self._start = config, writer, start
        self.directory = writer.directory
        self.hparams = train_step.cast_hparams(config.hparams)
        self.total = config_lib.total_steps(config)
        self.step = 0
        self.status: dict[str, Any] | None = None
        self._progress = progress or (lambda done, total, text: None)
        self._ended = ended
        self._origin: Mapping[str, Any] = {}  # what is to be said of it in the provenance
        self._infeasible: tuple[str, int] | None = None  # the reason and the step
        self._news = self._last_objective = ""

    def __enter__(self) -> Self:
        """Opens the checkpoints."""
        keep = {"keep_best": self.config.checkpoint.keep_best, "mode": self.config.checkpoint.mode}
        sync = self._writer.records.sync
        self._checkpoints = checkpoints.Checkpoints(self.directory, **keep, sync=sync)
        return self

    def __exit__(self, *error: object) -> None:
        """Waits for the last save, whatever ended the run."""
        self._checkpoints.__exit__(*error)

    def begin(self, program: Program, fresh: TrainState) -> checkpoints.Restored | None:
        """Goes back to the latest checkpoint, or to the beginning.

        Args:
          program: the config's.
          fresh: the state of NumPy arrays before step 0.

        Returns:
          Where the run goes on; None where `fresh` is what it begins with.
        """
        self._writer.write("steps.json", {"columns": program.columns})
        self._examples = program.examples
        self._num_parameters = sum(x.size for x in jax.tree.leaves(fresh.params))
        restored = self._checkpoints.restore(fresh, self._writer.problem)
        if restored is None and self.config.initialize_from.path:
            state, self._origin = initialize_from.begin(self.config, program, self._start, fresh)
            restored = checkpoints.Restored(0, state, None)
        self.step = 0 if restored is None else restored.step
        self._writer.rewind(self.step, None if restored is None else restored.extents)
        parallel.agree(self.step)  # the others read what host 0 has cut
        loss = trial.read_steps(self.directory)[: self.step, 0]
        self._first_losses = loss[: trial.LAST_STEPS].tolist()
        self._last_losses = collections.deque(
            loss[-trial.LAST_STEPS :].tolist(), maxlen=trial.LAST_STEPS
        )
        if self._origin:  # from here on the run does not need its source
            self._save(0, restored.state)
        return restored

    def started(
        self, clock: clock_lib.Clock, command: list[str] | None, packing: Mapping[str, Any] | None
    ) -> None:
        """Writes that the trial runs, and where its results come from; see `provenance.collect`."""
        self._laps = clock_lib.Laps(clock, self.step, self.config.batch_size)
        earlier = trial.read_provenance(self.directory) | self._origin
        origin = provenance.collect(command, config_lib.seeds(self.config), earlier, packing)
        sources.warn(earlier, origin, "the trial")
        self._writer.write("provenance.json", origin)
        self._write_status(trial.RUNNING)

    def read(self, left: Left) -> None:
        """Writes down what a stretch has left, and ends the trial if it is bad or was the last."""
        self.step = left.end
        records = left.records[: left.end - left.start]
        if left.bad_step >= 0:
            records = records[: left.bad_step - left.start + 1]
            self._infeasible = (divergence.why_bad(records[-1], self.hparams), left.bad_step)
        self._writer.append_steps(records)
        if not self._infeasible and left.evaluations:
            self._read_evaluations(left)
        if not self._infeasible and left.save:
            state = self._finite_state(left)
            if not self._infeasible:
                self._save(left.end, state, left.of_devices)
        if left.end % self.config.log_every_steps == 0 or left.end == self.total:
            self._writer.append("timing.jsonl", self._laps.row(left.end))
        if self._laps.status_is_due():
            self._write_status(trial.RUNNING)
        if len(records):
            losses = records[:, 0].tolist()
            self._first_losses += losses[: trial.LAST_STEPS - len(self._first_losses)]
            self._last_losses.extend(losses)
            self._news = f"loss {records[-1][0]:.4g}"
        news = f"{self._news}{self._last_objective}{self._laps.complaint}"
        self._progress(left.end, self.total, news)
        if self._infeasible or self.step == self.total:
            self.conclude()

    def _save(self, step: int, state: TrainState, of_devices: Any = None) -> None:
        """Saves a checkpoint that counts on the records up to now."""
        self._checkpoints.save(step, state, of_devices, self._writer.records.extents)

    def _read_evaluations(self, left: Left) -> None:
        row: dict[str, Any] = {"step": left.end}
        for name, pair in left.evaluations.items():
            numerator, denominator = pair.astype(np.float64)
            row[name] = float(numerator / denominator) if denominator else math.nan
        self._writer.append("metrics.jsonl", row)
        if left.predictions:
            where = self.directory / "predictions" / f"{left.end}.npz"
            evaluation.write_predictions(where, self._examples, left.predictions)
        metric = self.config.checkpoint.metric
        value = row[metric]
        if not math.isfinite(value):
            self._infeasible = (f"{metric} is not finite", left.end)
            return
        self._last_objective = f" · {metric} {value:.4g}"
        if self._checkpoints.wants(value):
            self._checkpoints.offer(
                checkpoints.Candidate(left.end, value, self._finite_state(left))
            )

    def _finite_state(self, left: Left) -> TrainState:
        """Returns the state at the end of a stretch; one that is not finite is infeasible."""
        state = left.state()
        if where := divergence.not_finite(state):
            self._infeasible = (f"{where} is not finite", left.end)
        return state

    def interrupt(self) -> None:
        """Ends the run where it is, so that the same command goes on from here."""
        self._checkpoints.wait()
        reason = "stopped before its end; the same command continues it"
        self._end(self._write_status(trial.INTERRUPTED, reason))

    def conclude(self) -> None:
        """Chooses the best evaluation, now that all are made, and writes the summary."""
        self._checkpoints.prune()
        if not self._infeasible:
            reason = divergence.ended_above_its_beginning(
                self._first_losses, self._last_losses, self.hparams
            )
            self._infeasible = (reason, self.step) if reason else None
        if self._infeasible:
            reason, step = self._infeasible
            status = trial.new_status(trial.INFEASIBLE, f"{reason} (step {step})", step)
        else:
            best = self._checkpoints.best
            status = trial.new_status(trial.COMPLETE, step=self.step)
            status |= {"best_step": best.step, "objective": best.value}
        summary = trial.summarize(self.directory, status)
        summary |= {"parameters": self._num_parameters}
        summary |= {"files": record_files.describe(self._writer.records.extents)}
        self._writer.write("summary.json", summary)
        self._writer.write("status.json", status)
        self._end(status)

    def _end(self, status: dict[str, Any]) -> None:
        self.status = status
        self._ended(status)

    def _write_status(self, state: str, reason: str = "") -> dict[str, Any]:
        best = self._checkpoints.best
        status = trial.new_status(state, reason, self.step)
        if best:
            status |= {"best_step": best.step, "objective": best.value}
        self._writer.write("status.json", status)
        return status
