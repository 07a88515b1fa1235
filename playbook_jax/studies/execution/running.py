"""The trials that a worker runs now: how far they are and how they end, as the launcher hears of it."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax import trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies.execution import full_disk

PROGRESS_SECONDS = 0.25  # between two messages on how far a trial is
BEAT_SECONDS = 1.0  # without another message, after which the launcher hears that it goes on


def out_of_time(time_limit: float, step: int) -> dict[str, Any]:
    """Returns the status of a trial that was stopped at a step because its seconds were over."""
    reason = f"out of time: stopped after {time_limit:g} s"
    return trial_lib.new_status(trial_lib.FAILED, reason, step)


class Heartbeat:
    """Tells the launcher that a worker lives, where it would hear nothing else for too long."""

    def __init__(self, answer: Callable[..., None]) -> None:
        """Takes what tells the launcher; that was just told something."""
        self._answer, self._time = answer, time.monotonic()

    def heard(self) -> None:
        """Notes that the launcher hears something else."""
        self._time = time.monotonic()

    def beat(self) -> None:
        """To be called where the work goes on, as often as one likes."""
        if time.monotonic() - self._time > BEAT_SECONDS:
            self.heard()
            self._answer(kind="alive")


class Running:
    """One trial, or those of a pack by their lanes."""

    def __init__(
        self,
        lanes: Sequence[Mapping[str, Any] | None],
        time_limit: float,
        stop: threading.Event,
        answer: Callable[..., None],
    ) -> None:
        """Starts the clock.

        Args:
          lanes: each trial's number, `trial`, and `directory`; None where there is none.
          time_limit: after how many seconds they are stopped.
          stop: whether they are to stop before.
          answer: tells the launcher; see `pool.Pool` for what.
        """
        self._left = {i: trial for i, trial in enumerate(lanes) if trial is not None}
        self._trials = {i: trial["trial"] for i, trial in self._left.items()}
        self._time_limit, self._stop, self._answer = time_limit, stop, answer
        self._began, self._heart = time.monotonic(), Heartbeat(answer)
        self._said = dict.fromkeys(self._left, self._began)

    def progress(self, lane: int, step: int) -> None:
        """Takes how many updates a trial has made."""
        now = time.monotonic()
        if now - self._said[lane] > PROGRESS_SECONDS:
            self._said[lane] = now
            self._heart.heard()
            self._answer(kind="step", trial=self._trials[lane], step=step)

    def should_stop(self) -> bool:
        """Returns whether the trials are to save and end; asked between the steps, it is a heartbeat."""
        self._heart.beat()
        return self._stop.is_set() or time.monotonic() - self._began > self._time_limit

    def ended(self, lane: int, status: Mapping[str, Any]) -> None:
        """Takes how a trial has ended; what it is told a second time is no news."""
        trial = self._left.pop(lane, None)
        if trial is None:
            return
        if status["state"] == trial_lib.INTERRUPTED and not self._stop.is_set():
            status = out_of_time(self._time_limit, status["step"])
            trial_lib.write_json(Path(trial["directory"]) / "status.json", status)
        self._answer(kind="status", trial=trial["trial"], status=status)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Tells the launcher why the trials could not be run, or that they are over."""
        try:
            yield
        except (UsageError, OSError) as error:
            if full_disk.is_meant(error):
                self._end_all()
                return
            if isinstance(error, OSError):
                raise
            numbers = ", ".join(map(str, self._trials.values()))
            word = "trial" if len(self._trials) == 1 else "trials"
            self._answer(kind="usage_error", error=f"{word} {numbers}: {error}")
            return
        self._answer(kind="over")

    def _end_all(self) -> None:
        """Says that those that are left met a full disk, on which that can't be written down."""
        reason = f"{full_disk.REASON}: nothing more can be written"
        for trial in self._left.values():
            status = trial_lib.new_status(trial_lib.FAILED, reason)
            self._answer(kind="status", trial=trial["trial"], status=status)
        self._left = {}
        self._answer(kind="over")
