"""What each call of the devices is fed, and how it gets there before it is needed.

Batches that are made on the host are made, and sent to the devices, by a thread of its own, for so many
calls ahead as the source says. So they are there when the loop comes back from writing files or from
waiting, and the loop has neither to stack nor to copy them. Which calls there will be is known: it
depends on the config alone.
"""

import collections
import concurrent.futures
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from playbook_jax.input.pipeline import Source
from playbook_jax.runtime import parallel
from playbook_jax.training import lanes as lanes_lib


def split(feed: Any, steps_per_call: int) -> Any:
    """Returns a source's feed for the devices, padded, so that every call has the same shapes.

    Args:
      feed: arrays [steps, examples, …].
      steps_per_call: at least as many as the steps.

    Returns:
      Arrays [devices, steps_per_call, examples / devices, …].
    """
    return jax.tree.map(lambda x: parallel.split(_pad(x, steps_per_call), axis=1), feed)


class Feeds:
    """The feeds of one run, call after call."""

    def __init__(
        self,
        lanes: int | None,
        sources: Mapping[int, Source],
        steps_per_call: int,
        calls: Iterator[tuple[int, int]],
    ) -> None:
        """Makes nothing yet.

        Args:
          lanes: as in `lanes.join`.
          sources: lane → where its batches come from.
          steps_per_call: the most that a call makes.
          calls: the first step and the number of steps of each call to come, where there is one trial.
            Of several that are packed, each call is made when it is asked for: one may end early.
        """
        self._join = functools.partial(lanes_lib.join, lanes)
        self._sources, self._steps_per_call, self._calls = sources, steps_per_call, calls
        self._ahead = sources[0].ahead if lanes is None else 0
        self._thread = (
            concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="feeds")
            if self._ahead
            else None
        )
        self._begun: collections.deque[concurrent.futures.Future] = collections.deque()

    def next(self, calls: Mapping[int, tuple[int, int]]) -> Any:
        """Returns the `feed` of the next `train_step.Call`; waits until it is made.

        Args:
          calls: lane → its first step, and how many steps it makes.

        Raises:
          InputError: see the source's `feed`.
        """
        if self._thread is None:
            return self._made(calls)
        self._begin(1)
        feed = self._begun.popleft().result()
        self._begin(self._ahead)
        return feed

    def close(self) -> None:
        """Ends the thread, which may still be about what nobody waits for now."""
        if self._thread:
            self._thread.shutdown(cancel_futures=True)

    def _begin(self, count: int) -> None:
        while len(self._begun) < count and (call := next(self._calls, None)):
            self._begun.append(self._thread.submit(self._sent, {0: call}))

    def _sent(self, calls: Mapping[int, tuple[int, int]]) -> Any:
        return parallel.send(self._made(calls))

    def _made(self, calls: Mapping[int, tuple[int, int]]) -> Any:
        feeds = {
            lane: split(self._sources[lane].feed(*call), self._steps_per_call)
            for lane, call in calls.items()
        }
        return self._join(feeds, axis=1)


def _pad(x: np.ndarray, length: int) -> np.ndarray:
    """Returns `x` with zeros behind."""
    if len(x) == length:
        return x
    return np.concatenate([x, np.zeros((length - len(x), *x.shape[1:]), x.dtype)])
