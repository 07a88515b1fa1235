"""What a split can be asked for, be it arrays in memory or records on disk."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from playbook_jax.errors import InputError
from playbook_jax.input.tfrecords import RecordSplit

Arrays = Mapping[str, np.ndarray]
Split = Arrays | RecordSplit


def size(split: Split) -> int:
    """Returns how many examples there are."""
    return split.size if isinstance(split, RecordSplit) else len(next(iter(split.values())))


def template(split: Split) -> Arrays:
    """Returns arrays with the names, shapes and types of one example's, first axis 1; reads nothing."""
    if isinstance(split, RecordSplit):
        return {name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in split.spec.items()}
    return {name: x[:1] for name, x in split.items()}


def only(split: Split, numbers: Sequence[int]) -> Split:
    """Returns the examples with these numbers."""
    if isinstance(split, RecordSplit):
        return split.only(numbers)
    return {name: x[numbers] for name, x in split.items()}


def check_ranges(arrays: Arrays, ranges: Mapping[str, int], where: Any) -> None:
    """Checks that integers are in their range: a label that is not trains on nonsense, silently.

    Args:
      arrays: of any examples, the first axis.
      ranges: name → how many values there are, from 0 on; see `Workload.ranges`.
      where: (number of an example) → which one it is, in words.

    Raises:
      InputError: one is not; says which, and the range.
    """
    for name, count in ranges.items():
        x = arrays[name]
        if x.size and (x.min() < 0 or x.max() >= count):
            example, *_ = np.argwhere((x < 0) | (x >= count))[0]
            value = x[example][(x[example] < 0) | (x[example] >= count)].flat[0]
            raise InputError(
                f"{where(int(example))}: {name} is {value}; it must be from 0 to {count - 1}"
            )
