"""Checks of the arrays that a workload gives, before anything compiles."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from playbook_jax.errors import UsageError, closest
from playbook_jax.input.tfrecords import Arrayed
from playbook_jax.workload import Workload


def check_splits(workload: Workload, found: Any) -> None:
    """Checks the arrays that a workload gives.

    Raises:
      UsageError: a split is missing or empty, or its arrays do not fit to each other or to the training
        set's.
    """
    where = f"{type(workload).__name__}.splits"
    if not isinstance(found, Mapping):
        raise UsageError(f"{where} must return arrays by split; it returns a {kind(found)}")
    check_names(where, found)
    names = ["train", "validation"]
    if "test" in found and not isinstance(found, Arrayed):  # which would read it
        names.append("test")
    for name in names:
        _check_arrays(f"{where}: {name!r}", found[name])
    first = {key: (x.shape[1:], x.dtype) for key, x in found["train"].items()}
    for name in names[1:]:
        other = {key: (x.shape[1:], x.dtype) for key, x in found[name].items()}
        if other != first:
            key = next(k for k in (*first, *other) if first.get(k) != other.get(k))
            raise UsageError(
                f"{where}: an example's {key!r} is {described(first.get(key))} in 'train' and "
                f"{described(other.get(key))} in {name!r}"
            )


def _check_arrays(where: str, arrays: Any) -> None:
    if not isinstance(arrays, Mapping) or not arrays:
        raise UsageError(f"{where} must be arrays by name; it is a {kind(arrays)}")
    for key, x in arrays.items():
        if not isinstance(x, np.ndarray | jax.Array) or not x.ndim or x.dtype.kind in "OSU":
            what = f"of type {x.dtype}" if hasattr(x, "dtype") else f"a {kind(x)}"
            raise UsageError(
                f"{where}: {key!r} must be an array of numbers, the first axis the examples; it is {what}"
            )
    if "weight" in arrays:
        raise UsageError(f"{where}: 'weight' is the program's own name; choose another one")
    sizes = {key: len(x) for key, x in arrays.items()}
    if len(set(sizes.values())) > 1 or not all(sizes.values()):
        listed = ", ".join(f"{size:,} of {key!r}" for key, size in sizes.items())
        raise UsageError(f"{where} must have as many examples of each array, at least 1: {listed}")


def check_names(where: str, found: Iterable[str]) -> None:
    """Checks that the splits are there that every run sees.

    Raises:
      UsageError: one is not.
    """
    for name in ("train", "validation"):
        if name not in found:
            raise UsageError(f"{where} returns no split {name!r}{closest(name, found)}")


def kind(value: Any) -> str:
    """Returns the name of a value's type."""
    return type(value).__name__


def described(found: Any) -> str:
    """Returns an array's (shape, dtype) in words; None is missing."""
    return "missing" if found is None else f"{list(found[0])} {found[1]}"
