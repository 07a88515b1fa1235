"""What a run takes: whatever depends on the clock goes into `timing.jsonl` alone.

Waiting for input is time that the devices lose, not time that the host spends. A call of the device
returns before its work is done, so the host reads the next batch while the devices still work on the
last one. Only what it reads after they have finished is lost (playbook, "Optimizing the input
pipeline"). Lost as well, and told apart, is the time in which they have nothing to do because the host
does something else, such as writing files; but not what it takes to start a call.
"""

import concurrent.futures
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

# From this fraction of the time on a run is said to wait for its input, or for the rest of the host.
INPUT_BOUND = 0.1
_STATUS_SECONDS = 1.0  # between updates of `status.json` while the run goes on
_LONG = 1e-3  # seconds; worth the 50 microseconds of another thread


class Work(Protocol):
    """Something that the devices were given to do: a `jax.Array` that may still be computed."""

    def is_ready(self) -> bool:
        """Returns whether it is done."""

    def block_until_ready(self) -> Any:
        """Waits until it is done."""


class Clock:
    """Measures what the devices of one run lose, whether it runs one trial or several at once.

    The time until the first call of the device is on its way, in which data sets are opened and
    programs compiled, is told apart as startup: it belongs to no step.

    Attributes:
      now: gives the time in seconds.
      start: when the run began.
      begun: when its first call was sent; None until then.
      waited: for how many seconds the devices were idle while the input was read.
      hosted: for how many they were while the host did something else.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Starts now."""
        self.now = now
        self.start = now()
        self.begun: float | None = None
        self.waited = self.hosted = self._last_feed = self._last_read = 0.0
        self._work: tuple[Work, ...] = ()
        self._looked, self._was_idle = self.start, True
        self._finish: concurrent.futures.Future[float] | None = None

    def sent(self, *work: Work) -> None:
        """Notes what the devices were last given to do; they are idle once all of it is done."""
        self._work, self._finish = work, None
        self._looked, self._was_idle = self.now(), False
        if self.begun is None:
            self.begun = self._looked

    def read(self, read: Callable[[], Any]) -> Any:
        """Returns what `read` does; if it is long, a thread notes when the devices finish meanwhile."""
        start = self.now()
        if not self._idle():
            self._looked = start  # until here the host has waited for them
            if self._finish is None and self._last_read >= _LONG:
                self._finish = _watcher().submit(_when_done, self._work, self.now)
        result = read()
        self._last_read = self.now() - start
        return result

    def host(self) -> None:
        """Counts as the host's what the devices have been idle since they were last given something.

        To be called where they are about to be given more. Where nobody has noted when they finished,
        half of the time counts, the middle between what may have been lost at least and at most.
        """
        self.hosted += self._lost(self._finish)
        self._finish = None

    def input(self, feed: Callable[[], Any]) -> Any:
        """Returns what `feed` does, counting as waiting the time in which the devices are idle.

        Devices that were idle before have lost all of it, those that are busy after it nothing. Where
        they finish meanwhile, a thread has noted when; for a feed that is too short to be worth one,
        half of it counts, the middle between what may have been lost at least and at most. The first
        feed is part of the startup.
        """
        self.host()
        finish = None
        if not self._was_idle and self._last_feed >= _LONG:
            finish = _watcher().submit(_when_done, self._work, self.now)
        start = self._looked
        result = feed()
        self.waited += self._lost(finish)
        self._last_feed = self._looked - start
        return result

    def _lost(self, finish: concurrent.futures.Future[float] | None) -> float:
        """Returns for how long the devices have been idle since this was last asked."""
        since, was_idle = self._looked, self._was_idle
        self._looked, self._was_idle = self.now(), self._idle()
        if self.begun is None or not self._was_idle:
            return 0.0
        if not was_idle and finish:
            since = max(since, min(self._looked, finish.result()))
        return (self._looked - since) / (1 if was_idle or finish else 2)

    def _idle(self) -> bool:
        return all(work.is_ready() for work in self._work)


class Laps:
    """The rows of one trial's `timing.jsonl`.

    Attributes:
      complaint: of the last interval, where it was input-bound or host-bound.
    """

    complaint = ""

    def __init__(self, clock: Clock, step: int, batch_size: int) -> None:
        """Begins where the clock does, at a number of completed updates, each of `batch_size` examples."""
        self._clock, self._step, self._batch_size = clock, step, batch_size
        self._time: float | None = None  # when the last row was made
        self._waited = self._hosted = 0.0
        self._status_time = clock.start

    def row(self, step: int) -> dict[str, Any]:
        """Returns a row of `timing.jsonl`, about the interval since the last one.

        Its `seconds` count from the start of this process's run, `interval_seconds` are those of the
        interval, `input_wait` is the fraction of it that was lost because of the input, and `host_wait`
        because of what the host did besides; the first row of a process also has `startup_seconds`. Of
        several trials that run at once, each has all of the time.
        """
        clock, now = self._clock, self._clock.now()
        first, begun = self._time is None, clock.start if clock.begun is None else clock.begun
        interval = max(now - (begun if first else self._time), 1e-9)
        steps_per_second = (step - self._step) / interval
        row = {
            "step": step,
            "seconds": round(now - clock.start, 4),
            "interval_seconds": round(interval, 6),
            "steps_per_second": round(steps_per_second, 4),
            "examples_per_second": round(steps_per_second * self._batch_size, 2),
            "input_wait": round(min(1.0, (clock.waited - self._waited) / interval), 4),
            "host_wait": round(min(1.0, (clock.hosted - self._hosted) / interval), 4),
        }
        if first:
            row["startup_seconds"] = round(begun - clock.start, 4)
        self._time, self._step = now, step
        self._waited, self._hosted = clock.waited, clock.hosted
        waits = {"input": row["input_wait"], "host": row["host_wait"]}
        self.complaint = "".join(
            f" · {name}-bound: {_percent(wait)}"
            for name, wait in waits.items()
            if wait > INPUT_BOUND
        )
        return row

    def status_is_due(self) -> bool:
        """Returns whether `status.json` is old enough to be written again."""
        now = self._clock.now()
        due = now - self._status_time > _STATUS_SECONDS
        if due:
            self._status_time = now
        return due


@functools.cache
def _watcher() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="clock")


def _when_done(work: tuple[Work, ...], now: Callable[[], float]) -> float:
    for part in work:
        part.block_until_ready()
    return now()


def totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, float] | None:
    """Returns the means over the rows of `timing.jsonl`, each interval weighing as long as it took.

    Returns:
      `seconds`, `steps_per_second`, `examples_per_second`, `input_wait` and `host_wait` (0 in rows that
      are too old to have it), evaluations and checkpoints included and startups not; None where there
      are no rows.
    """
    rows = [row for row in rows if "interval_seconds" in row]
    seconds = sum(row["interval_seconds"] for row in rows)
    if not seconds:
        return None
    names = ("steps_per_second", "examples_per_second", "input_wait", "host_wait")
    weighted = {n: sum(row.get(n, 0.0) * row["interval_seconds"] for row in rows) for n in names}
    return {"seconds": seconds, **{name: value / seconds for name, value in weighted.items()}}


def describe(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns what to say at the end of a run about its rows of `timing.jsonl`, a line each."""
    total = totals(rows)
    if total is None:
        return []
    steps, examples = (total[f"{unit}_per_second"] for unit in ("steps", "examples"))
    lines = [f"{_rate(steps)} steps/s, {_rate(examples)} examples/s, evaluations included"]
    if total["input_wait"] > INPUT_BOUND:
        lines.append(
            f"input-bound: {_percent(total['input_wait'])} of the time waiting for input; "
            "see docs/input.md"
        )
    if total["host_wait"] > INPUT_BOUND:
        lines.append(
            f"host-bound: {_percent(total['host_wait'])} of the time the devices had nothing to do while "
            "this program wrote, read or reported; log, evaluate or save less often"
        )
    return lines


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
