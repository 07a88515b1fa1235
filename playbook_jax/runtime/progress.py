"""Progress on the terminal: one line that updates there, sparse lines in a log."""

import sys
import time
from typing import TextIO

_TERMINAL_SECONDS = 0.1  # often enough to look alive, seldom enough to cost nothing
_LOG_SECONDS = 30.0


def format_seconds(seconds: float) -> str:
    """Returns "8 s", "2 min 05 s" or "3 h 07 min"."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Line:
    """Shows how far a piece of work is, how fast it goes and how long it will still take."""

    def __init__(
        self, total: int, unit: str, *, done: int = 0, stream: TextIO | None = None
    ) -> None:
        """Starts the clock.

        Args:
          total: how many units there are.
          unit: what is counted, in the plural ("steps").
          done: how many were done before (by an earlier run); they do not count towards the rate.
          stream: where to write; standard error when None.
        """
        self._total, self._unit, self._first = total, unit, done
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._start = time.monotonic()
        self._next = self._start + (0 if self._terminal else _LOG_SECONDS)
        self._width = 0

    def update(self, done: int, text: str = "") -> None:
        """Says that `done` units are done, with `text` behind, if the last line is old enough."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_TERMINAL_SECONDS if self._terminal else _LOG_SECONDS)
        line = self._line(done, now) + (f" · {text}" if text else "")
        if self._terminal:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def _line(self, done: int, now: float) -> str:
        line = f"{done:,} / {self._total:,} {self._unit}"
        made, seconds = done - self._first, now - self._start
        if made > 0 and seconds > 0:
            rate = made / seconds
            line += f" · {rate:,.0f}/s" if rate >= 10 else f" · {rate:.2g}/s"
            line += f" · {format_seconds((self._total - done) / rate)} left"
        return line

    def close(self, text: str = "") -> None:
        """Ends the line, leaving `text` (or nothing) in its place."""
        if self._terminal and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
        if text:
            self._stream.write(text + "\n")
        self._stream.flush()


class Steps:
    """The line of one run's steps, as `train.train` tells of them; it begins where an earlier run ended."""

    def __init__(self) -> None:
        """Shows nothing yet."""
        self._line: Line | None = None

    def __call__(self, done: int, total: int, text: str) -> None:
        """Says that `done` of `total` steps are made."""
        self._line = self._line or Line(total, "steps", done=done)
        self._line.update(done, text)

    def close(self) -> None:
        """Ends the line."""
        if self._line:
            self._line.close()
