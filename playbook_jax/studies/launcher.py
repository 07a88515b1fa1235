"""Runs a study: every trial to its end, on warm local workers, going on where it was stopped.

Non-adaptive by design: all points are known and on disk before the first trial starts, so how many
run at once does not change the study (playbook, "Why use quasi-random search").
"""

import dataclasses
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.studies import (
    conclusion,
    group,
    specification as specification_lib,
    trial_points,
    warnings,
)
from playbook_jax.studies.execution import full_disk, jobs, pack_choice
from playbook_jax.studies.execution.executor import Executor, Stop, WorkersFailedError
from playbook_jax.studies.execution.pool import Pool
from playbook_jax.studies.specification import Specification
from playbook_jax.studies.store import start_from
from playbook_jax.studies.store.directory import StudyDirectory, Trials
from playbook_jax.studies.tracker import FailAlikeError, Tracker
from playbook_jax.tracking import sources

TRAIN_MODULE = "playbook_jax.studies.execution.training"
# Long enough for what a worker does in one piece: compile, read a data set, evaluate, save.
SILENT_LIMIT = 30 * 60.0
COMPLETE, FAILED, INTERRUPTED = (
    trial_lib.EXIT_CODES[state]
    for state in (trial_lib.COMPLETE, trial_lib.FAILED, trial_lib.INTERRUPTED)
)


@dataclasses.dataclass(frozen=True)
class Options:
    """How a study is to be run; what is studied is in its config.

    Attributes:
      command: what started this process, as it is to be repeated.
      num_workers: how many processes run trials.
      retry_failed: whether trials that FAILED are run again, from their last checkpoint.
      time_limit: after how many seconds a trial saves, and ends as FAILED.
      silent_limit: after how many seconds a worker is killed that trains and gives no sign of life; what
        it ran goes on in another one.
      pack: how many trials run in one program, or `pack_choice.AUTO`; None: as the study was begun, a new
        one with each trial alone.
      train_module: a module like training.py.
      overrides: what replaces values of the study config, as on the command line.
      make_executor: makes what runs the trials; a `Pool` on this machine when None.
    """

    command: Sequence[str]
    num_workers: int = 1
    retry_failed: bool = False
    time_limit: float = math.inf
    silent_limit: float = SILENT_LIMIT
    pack: int | str | None = None
    train_module: str = TRAIN_MODULE
    overrides: Sequence[str] = ()
    make_executor: Callable[[StudyDirectory, Stop], Executor] | None = None


def launch(config_path: str | Path, workdir: str | Path, options: Options) -> int:
    """Runs a study, or what is left of it, and writes its table, best config and report.

    Args:
      config_path: the study config.
      workdir: the study directory.
      options: how.

    Returns:
      The exit code: 0 when all trials came to their end, infeasible ones included, 1 when some
      FAILED (at once when the first ones all fail for the same reason), 75 when it was stopped.

    Raises:
      UsageError: the study can't be run; nothing was written unless it had started.
    """
    with Stop() as stop:
        sources.forget_configs()
        asked = specification_lib.load(config_path, options.overrides)
        specification, study = open_study(asked, workdir)
        run = _Run(specification, study, stop, options, warnings.find(asked))
        try:
            return run.to_the_end()
        except (WorkersFailedError, FailAlikeError) as error:
            run.keep = True  # the log that the error names
            print(f"error: {error}", file=sys.stderr)
            return FAILED
        except OSError as error:
            if not full_disk.is_meant(error):
                raise
            name = Path(error.filename).name if error.filename else "what a study writes"
            return run.interrupted(name)
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
    stored = stored or _imported(specification)
    points = trial_points.points(specification, [row["parameters"] for row in stored])[
        len(stored) :
    ]
    return stored + [
        {"trial": trial, "parameters": parameters}
        for trial, parameters in enumerate(points, start=len(stored))
    ]


def _imported(specification: Specification) -> Trials:
    """Returns the trials that a new study begins with, its baseline among them; none without `start_from`."""
    if not specification.start_from:
        return []
    rows = start_from.rows(specification)
    if specification.baseline:
        alone = dataclasses.replace(specification, num_trials=1, start_from="")
        (point,) = trial_points.points(alone)
        same = [row for row in rows if row["parameters"] == point]
        rows = [*(same or [{"parameters": point}]), *(row for row in rows if row not in same)]
    return [{**row, "trial": number} for number, row in enumerate(rows)]


class _Run:
    """One run of the launcher.

    Attributes:
      keep: whether the study directory stays as it is, even if no trial has started.
    """

    def __init__(
        self,
        specification: Specification,
        study: StudyDirectory,
        stop: Stop,
        options: Options,
        doubts: Sequence[str],
    ) -> None:
        self._specification, self._study, self._stop = specification, study, stop
        self._options, self._doubts = options, doubts
        self._tracker = Tracker(specification, study, stop, options.command, options.retry_failed)
        self._executor: Executor | None = None
        self._stored: Trials = []
        self.keep = False

    def close(self) -> None:
        """Ends the workers and lets go of the study directory."""
        if self._executor:
            self._executor.close()
        self._study.release(undo=not self.keep)

    def to_the_end(self) -> int:
        """Prepares, runs the trials, and concludes; returns the exit code."""
        tracker = self._tracker
        stored = self._stored = self._study.stored_trials(self._specification)
        self.keep = bool(stored)
        tracker.add(stored, stored=True)
        if stored:
            pack_choice.refuse_other(self._options.pack, self._study.path, self._study.lanes)
        elif isinstance(self._options.pack, int):
            self._study.lanes = self._options.pack
        left = self._specification.num_trials - tracker.num_finished
        if left:  # first of all: what the workers import takes longer than what follows here
            self._executor = self._make_executor(left)
        tracker.add(extend(stored, self._specification)[len(stored) :], stored=False)
        if self._executor and not self._prepare(begun=bool(stored)):
            return self.interrupted()
        self._study.write(self._specification, tracker.trials)
        self.keep = True
        if self._executor:
            tracker.give_up(self._executor.failures)
        tracker.know(start_from.bring(self._study, tracker.trials))
        for doubt in () if stored else self._doubts:
            print(f"warning: {doubt}", file=sys.stderr)
        if self._executor and tracker.waiting and not tracker.run(self._executor):
            return self.interrupted()
        return self._conclude()

    def _make_executor(self, left: int) -> Executor:
        options = self._options
        if options.make_executor:
            executor = options.make_executor(self._study, self._stop)
        else:
            executor = Pool(
                min(options.num_workers, self._most_jobs(left)),
                self._study.logs,
                options.train_module,
                self._study.lock.fd,
                self._stop,
            )
        if isinstance(executor, Pool):
            executor.silent_limit = options.silent_limit
        return executor

    def _prepare(self, begun: bool) -> bool:
        """Has the executor check all configs and see how trials are packed; False when stopped."""
        executor, study, pack = self._executor, self._study, self._options.pack
        pack_choice.refuse_where_impossible(executor, study.lanes, pack)
        if not executor.validate(self._shared(), self._tracker.waiting):
            return False
        self._refuse_if_none_can_run(executor.failures)
        if pack == pack_choice.AUTO and not begun:
            study.lanes = pack_choice.measure(executor, self._tracker.trials)
        if study.lanes > pack_choice.ALONE:
            executor.pack(study.lanes, self._tracker.trials)
        return not self._stop.requests

    def _refuse_if_none_can_run(self, failures: Mapping[int, str]) -> None:
        """Raises a WorkersFailedError where the models of all trials raise something."""
        waiting = self._tracker.waiting
        if len(failures) < len(waiting):
            return
        first = waiting[0]
        shown = ", ".join(f"{name} {value}" for name, value in first["parameters"].items())
        reason = failures[first["trial"]]
        raise WorkersFailedError(
            f"no trial can be run: trial {first['trial']} ({shown}): {reason}; see {self._study.logs}"
        )

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
            "command": list(self._options.command),
            "time_limit": self._options.time_limit,
            "sources": sources.known(),
            "recalled": self._recalled(),
        }

    def _recalled(self) -> list[sources.Source]:
        """Returns the workloads that the trials which have begun were run with; says which have changed."""
        by_workload: dict[str, dict[str, Any]] = {}
        for row in self._stored:
            name = row["parameters"].get("workload")
            if name not in by_workload:
                path = self._study.trial_directory(row["trial"]) / "provenance.json"
                stored = trial_lib.read_json(path)
                if isinstance(stored, dict):
                    by_workload[name] = stored
        found = [s for p in by_workload.values() for s in sources.of(p, sources.WORKLOAD)]
        now = [s | {"text": sources.text_now(s)} for s in found]
        sources.warn({"sources": found}, {"sources": now}, "the study")
        return found

    def interrupted(self, no_room_for: str = "") -> int:
        """Ends a run that has to wait, or was told to; returns the exit code.

        Args:
          no_room_for: what was not written because the disk is full, if it was that.
        """
        tracker = self._tracker
        if no_room_for:
            tracker.pause(no_room_for)
        elif self.keep:
            tracker.write_table()
        if tracker.paused:
            print(f"error: {tracker.paused}", file=sys.stderr)
        total = self._specification.num_trials
        print(f"Stopped with {tracker.num_finished} of {total} trials at their end.")
        print(f"Continue with: {shlex.join(self._options.command)}")
        return INTERRUPTED

    def _conclude(self) -> int:
        if self._executor:
            self._executor.close()
        is_group = isinstance(self._study, group.GroupDirectory)
        reported = (group if is_group else conclusion).conclude(
            self._study,
            self._specification,
            self._tracker.trials,
            self._tracker.statuses,
            self._options.command,
        )
        return FAILED if self._tracker.any_failed or not reported else COMPLETE
