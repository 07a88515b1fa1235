"""Runs a study: every trial to its end, on warm local workers, going on where it was stopped.

Non-adaptive by design: all points are known and on disk before the first trial starts, so how many
run at once does not change the study (playbook, "Why use quasi-random search").
"""

import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from playbook_jax import config as config_lib, progress, trial as trial_lib
from playbook_jax.studies import (
    conclusion,
    design,
    directory,
    doubts,
    group,
    jobs,
    pack_choice,
    specification as specification_lib,
)
from playbook_jax.studies.directory import Status, StudyDirectory, Trials
from playbook_jax.studies.executor import Executor, Stop, WorkersFailedError
from playbook_jax.studies.pool import Pool
from playbook_jax.studies.specification import Specification

TRAIN_MODULE = "playbook_jax.studies.training"
COMPLETE, FAILED, INTERRUPTED = (
    trial_lib.EXIT_CODES[state]
    for state in (trial_lib.COMPLETE, trial_lib.FAILED, trial_lib.INTERRUPTED)
)
_TABLE_SECONDS = 2.0  # between two times that study.csv is written while trials run
# When the first trials all fail for one reason, so will the rest: it is the program or the machine.
_ALIKE = 3


class FailAlikeError(RuntimeError):
    """The first trials all FAILED for the same reason. Its text is one line."""


def launch(
    config_path: str | Path,
    workdir: str | Path,
    *,
    num_workers: int,
    command: Sequence[str],
    retry_failed: bool = False,
    time_limit: float = math.inf,
    pack: int | str | None = None,
    train_module: str = TRAIN_MODULE,
    make_executor: Callable[[StudyDirectory, Stop], Executor] | None = None,
) -> int:
    """Runs a study, or what is left of it, and writes its table, best config and report.

    Args:
      config_path: the study config.
      workdir: the study directory.
      num_workers: how many processes run trials.
      command: what started this process, as it is to be repeated.
      retry_failed: whether trials that FAILED are run again, from their last checkpoint.
      time_limit: after how many seconds a trial saves, and ends as FAILED.
      pack: how many trials run in one program, or `pack_choice.AUTO`; None: as the study was begun, a new
        one with each trial alone.
      train_module: a module like training.py.
      make_executor: makes what runs the trials; a `Pool` on this machine when None.

    Returns:
      The exit code: 0 when all trials came to their end, infeasible ones included, 1 when some
      FAILED (at once when the first ones all fail for the same reason), 75 when it was stopped.

    Raises:
      UsageError: the study can't be run; nothing was written unless it had started.
    """
    with Stop() as stop:
        asked = specification_lib.load(config_path)
        specification, study = open_study(asked, workdir)
        run = _Run(specification, study, stop, command, retry_failed)
        run.time_limit, run.doubts = time_limit, doubts.find(asked)
        run.make_executor, run.pack = make_executor, pack
        try:
            return run.to_the_end(num_workers, train_module)
        except (WorkersFailedError, FailAlikeError) as error:
            run.keep = True  # the log that the error names
            print(f"error: {error}", file=sys.stderr)
            return FAILED
        finally:
            run.close()


def open_study(
    specification: Specification, workdir: str | Path
) -> tuple[Specification, StudyDirectory]:
    """Returns what is to be run, and its directory, locked: a study, or all studies of a group.

    Raises:
      UsageError: the directory can't be written, is in use, or holds something else.
    """
    if specification.shape == specification_lib.GROUP:
        return group.open_group(specification, workdir)
    return specification, StudyDirectory(workdir)


def extend(stored: Trials, specification: Specification) -> Trials:
    """Returns all trials of a study: those that are stored, and the points that follow."""
    points = design.points(specification, [row["parameters"] for row in stored])[len(stored) :]
    return stored + [
        {"trial": trial, "parameters": parameters}
        for trial, parameters in enumerate(points, start=len(stored))
    ]


class _Run:
    """One run of the launcher.

    Attributes:
      keep: whether the study directory stays as it is, even if no trial has started.
      time_limit: see `launch`.
      doubts: what to say about a study before its first trial.
      make_executor: see `launch`.
      pack: see `launch`.
    """

    time_limit = math.inf
    doubts: Sequence[str] = ()
    pack: int | str | None = None
    make_executor: Callable[[StudyDirectory, Stop], Executor] | None = None

    def __init__(
        self,
        specification: Specification,
        study: StudyDirectory,
        stop: Stop,
        command: Sequence[str],
        retry_failed: bool,
    ) -> None:
        self._specification, self._study, self._stop = specification, study, stop
        self._command = list(command)
        self._over = set(trial_lib.FINISHED) - ({trial_lib.FAILED} if retry_failed else set())
        # Of the trials that ended in this run: "", or why they failed.
        self._outcomes: list[str] = []
        self._executor: Executor | None = None
        self._trials: Trials = []
        self._statuses: dict[int, Status] = {}
        self.keep = False

    def close(self) -> None:
        """Ends the workers and lets go of the study directory."""
        if self._executor:
            self._executor.close()
        self._study.release(undo=not self.keep)

    def to_the_end(self, num_workers: int, train_module: str) -> int:
        """Prepares, runs the trials, and concludes; returns the exit code."""
        stored = self._study.stored_trials(self._specification)
        self.keep = bool(stored)
        self._statuses = {row["trial"]: self._study.status(row["trial"]) for row in stored}
        self._num_finished = sum(s["state"] in self._over for s in self._statuses.values())
        if stored:
            pack_choice.refuse_other(self.pack, self._study.path, self._study.lanes)
        elif isinstance(self.pack, int):
            self._study.lanes = self.pack
        left = self._specification.num_trials - self._num_finished
        if left:  # first of all: what the workers import takes longer than what follows here
            self._executor = (
                self.make_executor(self._study, self._stop)
                if self.make_executor
                else Pool(
                    min(num_workers, self._most_jobs(left)),
                    self._study.logs,
                    train_module,
                    self._study.lock.fd,
                    self._stop,
                )
            )
        self._trials = extend(stored, self._specification)
        for row in self._trials[len(stored) :]:
            self._statuses[row["trial"]] = trial_lib.new_status()
        waiting = [t for t in self._trials if self._statuses[t["trial"]]["state"] not in self._over]
        if self._executor:
            pack_choice.refuse_where_impossible(self._executor, self._study.lanes, self.pack)
            if not self._executor.validate(self._shared(), waiting):
                return self._interrupted()
            if self.pack == pack_choice.AUTO and not stored:
                self._study.lanes = pack_choice.measure(self._executor, self._trials)
                if self._stop.requests:
                    return self._interrupted()
            if self._study.lanes > 1:
                self._executor.pack(self._study.lanes, self._trials)
        self._study.write(self._specification, self._trials)
        self.keep = True
        for doubt in () if stored else self.doubts:
            print(f"warning: {doubt}", file=sys.stderr)
        if self._executor and not self._run_trials(waiting):
            return self._interrupted()
        return self._conclude()

    def _most_jobs(self, left: int) -> int:
        """Returns as how many jobs so many trials can be run at most."""
        asked, lanes = self._specification, self._study.lanes
        varying = [*asked.scientific, *asked.nuisance, *asked.conditional_fixed]
        packs = math.ceil(asked.num_trials / lanes)
        return min(left, packs) if jobs.share_a_program(varying) else left

    def _shared(self) -> dict:
        return {
            "base_config": config_lib.to_dict(self._specification.base_config),
            "vary_seed": self._specification.vary_seed,
            "command": self._command,
            "time_limit": self.time_limit,
        }

    def _run_trials(self, waiting: Trials) -> bool:
        self._steps = {
            t["trial"]: specification_lib.total_steps(
                self._specification.base_config, t["parameters"]
            )
            for t in self._trials
        }
        left = sum(self._steps[t["trial"]] for t in waiting)
        self._total = sum(self._steps.values())
        self._done = self._total - left
        self._made: dict[int, int] = {}  # by trials that run
        self._best = directory.best(self._statuses, self._specification.objective["mode"])
        self._table_time = time.monotonic()
        self._line = progress.Line(self._total, "steps", done=self._done)
        try:
            return self._executor.run(waiting, self._study.trial_directory, self)
        finally:
            self._line.close()

    def step(self, trial: int, step: int) -> None:
        """Implements `executor.Listener`."""
        self._made[trial] = step
        self._show()

    def ended(self, trial: int, status: Status) -> None:
        """Implements `executor.Listener`."""
        self._made.pop(trial, None)
        self._statuses[trial] = status
        if status["state"] in trial_lib.FINISHED:
            self._num_finished += 1
            # One that ended early counts whole: its steps need not be made any more.
            self._done += self._steps[trial]
            pair = {t: self._statuses[t] for t in (self._best, trial) if t is not None}
            self._best = directory.best(pair, self._specification.objective["mode"])
            self._check_outcomes(status)
        self._show()
        if time.monotonic() - self._table_time > _TABLE_SECONDS:
            self._study.write_table(self._trials, self._statuses)
            self._table_time = time.monotonic()

    def _check_outcomes(self, status: Status) -> None:
        """Raises a FailAlikeError where the first trials of this run have all failed alike."""
        self._outcomes.append(status["reason"] if status["state"] == trial_lib.FAILED else "")
        first = {re.sub(r"\d+", "#", reason) for reason in self._outcomes[:_ALIKE]}
        if len(self._outcomes) >= _ALIKE and len(first) == 1 and "" not in first:
            self._study.write_table(self._trials, self._statuses)
            raise FailAlikeError(
                f"the first {_ALIKE} trials all FAILED alike, so the others wait: {status['reason']} "
                f"(see {self._study.logs}). Once it is mended: "
                f"{shlex.join([*self._command, '--retry_failed'])}"
            )

    def failed(self, trial: int, reason: str) -> None:
        """Implements `executor.Listener`."""
        config = specification_lib.trial_config(
            self._specification.base_config,
            trial,
            self._trials[trial]["parameters"],
            self._specification.vary_seed,
        )
        self.ended(trial, self._study.fail(trial, config_lib.to_dict(config), reason))

    def _show(self) -> None:
        text = f"{self._num_finished}/{len(self._trials)} trials"
        if self._best is not None:
            text += f" · best {self._statuses[self._best]['objective']:.4g}"
        self._line.update(self._done + sum(self._made.values()), text)

    def _interrupted(self) -> int:
        if self.keep:
            self._study.write_table(self._trials, self._statuses)
        total = self._specification.num_trials
        print(f"Stopped with {self._num_finished} of {total} trials at their end.")
        print(f"Continue with: {shlex.join(self._command)}")
        return INTERRUPTED

    def _conclude(self) -> int:
        if self._executor:
            self._executor.close()
        is_group = isinstance(self._study, group.GroupDirectory)
        reported = (group if is_group else conclusion).conclude(
            self._study, self._specification, self._trials, self._statuses, self._command
        )
        failed = any(s["state"] == trial_lib.FAILED for s in self._statuses.values())
        return FAILED if failed or not reported else COMPLETE
