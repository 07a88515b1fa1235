"""Whether the processes of a study on several hosts start again when one of them was lost.

Decided in the parent of each host (see `hosts.watch`). All parents hear the same from their children,
and so decide alike.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from playbook_jax import trial as trial_lib
from playbook_jax.runtime import hosts
from playbook_jax.studies.execution.pool import MAX_RETRIES

ENDED = "ended"  # what a child tells when a trial is over


class Restarts:
    """Counts the losses since a trial ended.

    Attributes:
      code: the exit code where the processes were not started again; 0 otherwise.
    """

    code = 0

    def __init__(self) -> None:
        """Counts none yet."""
        # What each child was at that was lost since a trial ended: its number (and directory, on host 0).
        self._lost: list[str] = []
        self._trials_end = False  # whether one has, since another one was given up

    def again(self, told: Sequence[str]) -> bool:
        """Returns whether to start again, given what the lost child has told."""
        if ENDED in told:
            self._lost, self._trials_end = [], True
        self._lost.append(told[-1] if told else "")
        if hosts.JOINED not in told:
            return False  # a host is missing, or does not come back
        if len(self._lost) <= MAX_RETRIES:
            return True
        if len(set(self._lost)) > 1 or not self._trials_end:
            return False
        self._give_up_trial()
        self._lost, self._trials_end = [], False
        return True

    def give_up(self, reason: str) -> None:
        """Sets the exit code; writes that a trial FAILED in which the hosts are lost every time."""
        self.code = trial_lib.EXIT_CODES[trial_lib.INTERRUPTED]
        if len(self._lost) > MAX_RETRIES:
            self.code = trial_lib.EXIT_CODES[trial_lib.FAILED]
            if len(set(self._lost)) == 1:
                self._give_up_trial()

    def _give_up_trial(self) -> None:
        trial, _, directory = self._lost[-1].partition(" ")
        path = Path(directory) / "status.json"
        if directory and path.exists():
            reason = f"its hosts were lost {len(self._lost)} times; see what they printed"
            step = trial_lib.read_json(path, trial_lib.new_status())["step"]
            trial_lib.write_json(path, trial_lib.new_status(trial_lib.FAILED, reason, step))
            print(f"error: trial {trial} FAILED: {reason}", file=sys.stderr)
