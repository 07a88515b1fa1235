"""The batches of periodic evaluations: on the devices where they fit, otherwise streamed each time.

Streaming reads and decodes the split anew at every evaluation, and the devices wait where that takes
longer than evaluating it: choose a split that is small enough, or evaluate less often.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from playbook_jax.input import splits
from playbook_jax.input.tfrecords import RecordSplit
from playbook_jax.runtime import parallel
from playbook_jax.training import evaluation

# A batch, with its number among those that lie on the devices together.
Batches = Iterable[tuple[Any, np.int32]]

# Decoded records of a split that may lie on the devices for the whole run, in bytes.
RESIDENT_BYTES = 1 << 28


def make(split: splits.Split, batch_size: int, ranges: Mapping[str, int]) -> Batches:
    """Returns the padded batches of a split, to be gone through as often as one likes.

    Args:
      split: arrays, which go to the devices, or records: those do so too up to RESIDENT_BYTES.
      batch_size: of all devices on all hosts together.
      ranges: see `Workload.ranges`.
    """
    if isinstance(split, RecordSplit):
        if split.size * split.bytes_per_example > RESIDENT_BYTES:
            return StreamedBatches(split, batch_size, ranges)
        arrays = split.arrays()
        splits.check_ranges(arrays, ranges, split.where)
        return ResidentBatches(arrays, batch_size)
    return ResidentBatches(split, batch_size)


class ResidentBatches:
    """Batches that lie on the devices.

    Attributes:
      most_in_flight: None; any number of calls may be unfinished.
    """

    most_in_flight = None

    def __init__(self, arrays: splits.Arrays, batch_size: int) -> None:
        """Places the arrays, padded."""
        padded = evaluation.padded_batches(arrays, batch_size)
        self._data = jax.tree.map(parallel.place, padded)

    def __iter__(self) -> Iterator[tuple[Any, np.int32]]:
        """Yields all batches and a batch's number."""
        for index in range(self._data["weight"].shape[1]):
            yield self._data, np.int32(index)


class StreamedBatches:
    """Batches that are read from records each time; each host reads a part of its own.

    Attributes:
      most_in_flight: after so many calls the host has to wait for them: each holds a batch.
    """

    most_in_flight = 8

    def __init__(self, split: RecordSplit, batch_size: int, ranges: Mapping[str, int]) -> None:
        """Reads nothing yet."""
        devices, hosts = parallel.all_devices_count(), parallel.host_count()
        self._size = -(-min(batch_size, split.size) // devices) * devices // hosts
        parts = [split.part(host, hosts) for host in range(hosts)]
        # All hosts take part in every batch, so each makes as many as the one with most.
        self._count = max(-(-part.size // self._size) for part in parts)
        self._part, self._ranges = parts[parallel.host_index()], ranges

    def __iter__(self) -> Iterator[tuple[Any, np.int32]]:
        """Yields one batch at a time, and 0."""
        count = 0
        for arrays in self._part.read(self._size):
            first = count * self._size
            splits.check_ranges(
                arrays, self._ranges, lambda i, first=first: self._part.where(first + i)
            )
            count += 1
            yield self._padded(arrays, splits.size(arrays)), np.int32(0)
        for _ in range(count, self._count):
            yield self._padded(splits.template(self._part), 0), np.int32(0)

    def _padded(self, arrays: splits.Arrays, size: int) -> dict[str, np.ndarray]:
        """Returns a batch for the devices of which the first `size` examples count."""
        rows = np.minimum(np.arange(self._size), max(size - 1, 0))
        padded = {name: x[rows] for name, x in arrays.items()}
        padded["weight"] = (np.arange(self._size) < size).astype(np.float32)
        return {name: parallel.split(x[None], axis=1) for name, x in padded.items()}
