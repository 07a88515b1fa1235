"""What a worker is given at once: one trial, or a pack of them that run beside each other in one program.

The bits of a packed trial depend on how many lanes its program has and on its own lane. So packs follow
from the study alone: of the trials that share a program, in the order of their numbers, the p-th lies
in pack p // K, in lane p % K. A pack always has K lanes; those of trials that have ended, or do not
exist, are empty. A study that grows fills empty lanes and adds packs, and leaves all others as they were.
"""

import collections
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from playbook_jax import config as config_lib
from playbook_jax.studies.execution.executor import Trial


@dataclasses.dataclass(eq=False)
class Job:
    """What a worker is given at once.

    Attributes:
      static: what of the trials' hyperparameters decides their compiled program.
      lanes: the trials that are not over, each in its place.
      packed: whether they run in a program with lanes.
      again: why its trials are to go on elsewhere; empty unless they are.
      attempts: how often that happened.
    """

    static: str
    lanes: list[Trial | None]
    packed: bool
    again: str = ""
    attempts: int = 0

    @property
    def trials(self) -> list[Trial]:
        """Those that are not over."""
        return [trial for trial in self.lanes if trial is not None]

    @property
    def first(self) -> int:
        """The number of the first of them."""
        return self.trials[0]["trial"]

    def end(self, trial: int) -> None:
        """Empties the lane of a trial that is over."""
        self.lanes = [None if t is None or t["trial"] == trial else t for t in self.lanes]

    def message(self, directory: Callable[[int], Path]) -> dict[str, Any]:
        """Returns the command that has a worker run it; `directory` gives a trial's directory."""

        def located(trial: Trial | None) -> Trial | None:
            return trial and {**trial, "directory": str(directory(trial["trial"]))}

        lanes = [located(trial) for trial in self.lanes]
        return {"do": "train_pack", "lanes": lanes} if self.packed else {"do": "train", **lanes[0]}


def make(waiting: Sequence[Trial], trials: Iterable[Trial], lanes: int) -> list[Job]:
    """Returns the jobs in which trials are run, by the first trial of each.

    Args:
      waiting: the trials that are to run.
      trials: all of the study.
      lanes: how many run in one program; 1: each alone.
    """
    if lanes == 1:
        return [Job(static(trial), [trial], packed=False) for trial in waiting]
    left = {trial["trial"] for trial in waiting}
    jobs = []
    for name, of_one_program in by_program(trials).items():
        for start in range(0, len(of_one_program), lanes):
            pack = of_one_program[start : start + lanes]
            filled = [trial if trial["trial"] in left else None for trial in pack]
            if any(filled):
                jobs.append(Job(name, filled + [None] * (lanes - len(pack)), packed=True))
    return sorted(jobs, key=lambda job: job.first)


def by_program(trials: Iterable[Trial]) -> dict[str, list[Trial]]:
    """Returns the trials that share a program, in the order of their numbers, by what they share."""
    result: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial["trial"]):
        result.setdefault(static(trial), []).append(trial)
    return result


def static(trial: Trial) -> str:
    """Returns what of a trial's hyperparameters decides its compiled program, see `config.static_part`."""
    return json.dumps(
        {k: v for k, v in trial["parameters"].items() if _top(k) not in config_lib.TRACED}
    )


def share_a_program(names: Iterable[str]) -> bool:
    """Returns whether all trials run in the same program where these hyperparameters vary."""
    return all(_top(name) in config_lib.TRACED for name in names)


def _top(key: str) -> str:
    """Returns "hparams" for "hparams.beta1@optimizer=adam"."""
    return re.split(r"[.@/]", key, maxsplit=1)[0]


class Queue:
    """Jobs that wait. A worker gets the first of those for which it has compiled already."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        """Takes all jobs, in the order in which they are to start."""
        self._groups: dict[str, collections.deque[Job]] = {}
        for job in jobs:
            self._groups.setdefault(job.static, collections.deque()).append(job)

    def __bool__(self) -> bool:
        """Whether there is one."""
        return any(self._groups.values())

    def put_back(self, job: Job) -> None:
        """Puts a job in front of the others."""
        self._groups[job.static].appendleft(job)

    def take(self, compiled: set[str], elsewhere: set[str]) -> Job:
        """Returns the job to be run next by a worker, where there is one.

        Args:
          compiled: the static configs for which that worker has compiled; the job's is added.
          elsewhere: those for which others have.
        """

        def cost(static: str) -> tuple[int, int]:
            rank = 0 if static in compiled else 2 if static in elsewhere else 1
            return rank, self._groups[static][0].first

        chosen = min((s for s, jobs in self._groups.items() if jobs), key=cost)
        compiled.add(chosen)
        return self._groups[chosen].popleft()
