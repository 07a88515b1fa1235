"""Grid search: all combinations of values. Acceptable in one or two dimensions (see `doubts.py`).

Source: the playbook, "Where can I find an implementation of quasi-random search?".
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from playbook_jax.errors import UsageError
from playbook_jax.studies.space import conditions
from playbook_jax.studies.space.search_space import Range, Space, Values

MOST_POINTS = 100_000  # as many trials as a study may have


def points(spaces: Mapping[str, Space]) -> list[dict[str, Any]]:
    """Returns all points of the grid; the first hyperparameter changes slowest.

    Conditional hyperparameters multiply the points only where they exist.

    Raises:
      UsageError: the number of values of a range is not given, or too large.
    """
    whole, waiting = [], [{}]
    while waiting:  # first what always exists, then what depends on that
        chosen = waiting.pop(0)
        exist = {n: spaces[n] for n in conditions.applicable(spaces, chosen) if n not in chosen}
        size = len(whole) + len(waiting) + math.prod(_count(space) for space in exist.values())
        if size > MOST_POINTS:
            raise UsageError(
                f"the grid has {size:,} trials; a study has at most {MOST_POINTS:,}: take fewer "
                "'points', or algorithm 'halton', which spreads any number of trials evenly"
            )
        if exist:
            waiting = [chosen | more for more in _product(exist)] + waiting
        else:
            whole.append(chosen)
    return [{name: values[name] for name in spaces if name in values} for values in whole]


def _count(space: Space) -> int:
    """Returns how many values a hyperparameter takes in a grid, where that is given."""
    if isinstance(space, Values):
        return len(space.values)
    return getattr(space, "points", None) or 1


def levels(name: str, space: Space) -> list[Any]:
    """Returns the values that a hyperparameter takes in a grid, both bounds of a range among them.

    Raises:
      UsageError: their number is not given, or larger than the range allows.
    """
    if isinstance(space, Values):
        return list(space.values)
    if not isinstance(space, Range) or space.points is None:
        raise UsageError(
            f"{name}: a grid needs the number of its values, {{…, 'points': 5}}, or listed 'values'"
        )
    values = [space.at(i / (space.points - 1)) for i in range(space.points)]
    if len(set(values)) < len(values):
        raise UsageError(
            f"{name}: {space.points} points from {space.low} to {space.high} are not different ones; "
            "take fewer 'points', or list the 'values'"
        )
    return values


def _product(spaces: Mapping[str, Space]) -> list[dict[str, Any]]:
    values = [levels(name, space) for name, space in spaces.items()]
    return [dict(zip(spaces, point, strict=True)) for point in itertools.product(*values)]
