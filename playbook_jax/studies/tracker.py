"""How the trials of a study get on: statuses, table, the line on the terminal, what ends the study."""

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.runtime import progress
from playbook_jax.studies import specification as specification_lib
from playbook_jax.studies.execution import full_disk, jobs
from playbook_jax.studies.execution.executor import Executor, Stop
from playbook_jax.studies.specification import Specification
from playbook_jax.studies.store import directory
from playbook_jax.studies.store.directory import Status, StudyDirectory, Trials
from playbook_jax.tracking import raised

_TABLE_SECONDS = 2.0  # between two times that study.csv is written while trials run
# When so many in a row fail for one reason, so will the rest: it is the program or the machine.
_ALIKE = 3


class FailAlikeError(RuntimeError):
    """Trials in a row all FAILED for the same reason. Its text is one line."""


class Tracker:
    """Hears how trials get on, as `executor.Listener`, and keeps their statuses.

    Attributes:
      trials: all trials of the study.
      statuses: by trial.
      num_finished: how many of them need not be run any more.
      paused: why the study waits, in one line; empty where it does not.
    """

    def __init__(
        self,
        specification: Specification,
        study: StudyDirectory,
        stop: Stop,
        command: Sequence[str],
        retry_failed: bool,
    ) -> None:
        """Knows no trial yet.

        Args:
          specification: what is studied.
          study: where.
          stop: is asked for where the study has to wait.
          command: what started the launcher.
          retry_failed: whether trials that FAILED are run again.
        """
        self._specification, self._study, self._stop = specification, study, stop
        self._command, self._retry_failed = list(command), retry_failed
        self._num_ended = self._num_failed = 0
        # Those that have failed alike since another one has ended otherwise.
        self._streak: list[int] = []
        self._broken: set[int] = set()
        self.trials: Trials = []
        self.statuses: dict[int, Status] = {}
        self.num_finished = 0
        self.paused = ""

    def add(self, trials: Trials, stored: bool) -> None:
        """Takes trials of which some may be over (`stored`), or which are all new."""
        self.trials = [*self.trials, *trials]
        for row in trials:
            number = row["trial"]
            status = self._study.status(number) if stored else trial_lib.new_status()
            self.statuses[number] = status
            self.num_finished += self._is_over(status)

    def know(self, statuses: Mapping[int, Status]) -> None:
        """Takes the statuses of trials that have come to their end elsewhere."""
        for number, status in statuses.items():
            self.num_finished += self._is_over(status) - self._is_over(self.statuses[number])
            self.statuses[number] = status

    def _is_over(self, status: Status) -> bool:
        """Returns whether a trial with this status need not be run any more."""
        if status["state"] == trial_lib.FAILED:
            return not self._retry_failed and not full_disk.has_stopped(status)
        return status["state"] in trial_lib.FINISHED

    @property
    def waiting(self) -> Trials:
        """The trials that are to be run."""
        return [row for row in self.trials if not self._is_over(self.statuses[row["trial"]])]

    @property
    def any_failed(self) -> bool:
        """Whether a trial has FAILED."""
        return any(status["state"] == trial_lib.FAILED for status in self.statuses.values())

    def run(self, executor: Executor) -> bool:
        """Has the waiting trials run; returns whether all came to their end."""
        self._steps = {
            row["trial"]: specification_lib.total_steps(
                self._specification.base_config, row["parameters"]
            )
            for row in self.trials
        }
        waiting = [row for row in self.waiting if row["trial"] not in self._broken]
        states = [status["state"] for status in self.statuses.values()]
        self._num_failed = states.count(trial_lib.FAILED)
        total = sum(self._steps.values())
        self._done = total - sum(self._steps[row["trial"]] for row in waiting)
        self._made: dict[int, int] = {}  # by trials that run
        self._best = directory.best(self.statuses, self._specification.objective["mode"])
        self._table_time = time.monotonic()
        self._line = progress.Line(total, "steps", done=self._done)
        try:
            return executor.run(waiting, self._study.trial_directory, self)
        finally:
            self._line.close()

    def step(self, trial: int, step: int) -> None:
        """Implements `executor.Listener`."""
        self._made[trial] = step
        self._show()

    def ended(self, trial: int, status: Status) -> None:
        """Implements `executor.Listener`."""
        self._made.pop(trial, None)
        self.statuses[trial] = status
        if full_disk.has_stopped(status):
            self.pause(f"trial {trial}")
        elif status["state"] in trial_lib.FINISHED:
            self.num_finished += 1
            # One that ended early counts whole: its steps need not be made any more.
            self._done += self._steps[trial]
            pair = {t: self.statuses[t] for t in (self._best, trial) if t is not None}
            self._best = directory.best(pair, self._specification.objective["mode"])
            self._num_failed += status["state"] == trial_lib.FAILED
            self._check_outcomes(trial, status)
        self._show()
        if time.monotonic() - self._table_time > _TABLE_SECONDS:
            self.write_table()
            self._table_time = time.monotonic()

    def said(self, text: str) -> None:
        """Implements `executor.Listener`."""
        self._line.close()
        print(text, file=sys.stderr)

    def give_up(self, failures: Mapping[int, str]) -> None:
        """Writes that trials FAILED whose models raise something; the others can be run."""
        told: dict[str, list[int]] = {}
        for trial, reason in failures.items():
            self._broken.add(trial)
            self._write(lambda t=trial, r=reason: self._fail(t, r), f"trial {trial}")
            told.setdefault(reason, []).append(trial)
        for reason, numbers in told.items():
            more = f" and {len(numbers) - 1} more of its kind" if len(numbers) > 1 else ""
            print(f"warning: trial {numbers[0]}{more} FAILED: {reason}", file=sys.stderr)

    def failed(self, trial: int, reason: str) -> None:
        """Implements `executor.Listener`."""

        def write() -> None:
            self._fail(trial, reason)
            self.ended(trial, self.statuses[trial])

        self._write(write, f"trial {trial}")

    def _fail(self, trial: int, reason: str) -> None:
        config = specification_lib.trial_config(
            self._specification.base_config,
            trial,
            self.trials[trial]["parameters"],
            self._specification.vary_seed,
        )
        self.statuses[trial] = self._study.fail(trial, config_lib.to_dict(config), reason)

    def write_table(self) -> None:
        """Writes `study.csv`; where there is no room for it, the study waits."""
        self._write(lambda: self._study.write_table(self.trials, self.statuses), "study.csv")

    def pause(self, what: str) -> None:
        """Has the study wait, for there is no room for something."""
        if not self.paused:
            self.paused = full_disk.describe(self._study.path, what)
        self._stop.ask()

    def _write(self, write: Callable[[], None], what: str) -> None:
        try:
            write()
        except OSError as error:
            if not full_disk.is_meant(error):
                raise
            self.pause(what)

    def _check_outcomes(self, trial: int, status: Status) -> None:
        """Raises a FailAlikeError where the last trials of this run have all failed alike."""
        self._num_ended += 1
        if status["state"] != trial_lib.FAILED:
            self._streak = []
            return
        last = self._streak[-1:]
        alike = last and self._cause(last[0]) == self._cause(trial)
        self._streak = [*self._streak, trial] if alike else [trial]
        if len(self._streak) < _ALIKE or self._others_may_do_better():
            return
        self.write_table()
        count = len(self._streak)
        first = count == self._num_ended
        which = f"the first {count} trials all" if first else f"{count} trials in a row"
        again = shlex.join(self._command)
        raise FailAlikeError(
            f"{which} FAILED alike, so the others wait: {status['reason']} (see {self._study.logs}). "
            f"To go on with the others: {again}; once it is mended: {again} --retry_failed"
        )

    def _cause(self, trial: int) -> str:
        return raised.cause(self.statuses[trial]["reason"])

    def _others_may_do_better(self) -> bool:
        """Returns whether the fault may be in the program of those that failed, and others have another."""
        failed = {jobs.static(self.trials[trial]) for trial in self._streak}
        waiting = (row for row in self.waiting if row["trial"] not in self._broken)
        return len(failed) == 1 and any(jobs.static(row) not in failed for row in waiting)

    def _show(self) -> None:
        text = f"{self.num_finished}/{len(self.trials)} trials"
        if self._num_failed:
            text += f", {self._num_failed} FAILED"
        if self._best is not None:
            text += f" · best {self.statuses[self._best]['objective']:.4g}"
        self._line.update(self._done + sum(self._made.values()), text)
