"""What a run takes: whatever depends on the clock goes into `timing.jsonl` alone."""

import time
from collections.abc import Callable
from typing import Any

_STATUS_SECONDS = 1.0  # between updates of `status.json` while the run goes on


class Clock:
    """Measures one run."""

    def __init__(self, step: int) -> None:
        """Starts at a number of completed updates."""
        self._start = self._row_time = self._status_time = time.monotonic()
        self._row_step = step
        self._input_seconds = 0.0

    def input(self, feed: Callable[[], Any]) -> Any:
        """Returns what `feed` does, counting the time as waiting for input."""
        start = time.monotonic()
        result = feed()
        self._input_seconds += time.monotonic() - start
        return result

    def row(self, step: int) -> dict[str, Any]:
        """Returns a row of `timing.jsonl`, about the time since the last one."""
        now = time.monotonic()
        seconds = max(now - self._row_time, 1e-9)
        row = {
            "step": step,
            "seconds": round(now - self._start, 4),
            "steps_per_second": round((step - self._row_step) / seconds, 2),
            "input_wait": round(self._input_seconds / seconds, 4),
        }
        self._row_time, self._row_step, self._input_seconds = now, step, 0.0
        return row

    def status_is_due(self) -> bool:
        """Returns whether `status.json` is old enough to be written again."""
        now = time.monotonic()
        due = now - self._status_time > _STATUS_SECONDS
        if due:
            self._status_time = now
        return due
