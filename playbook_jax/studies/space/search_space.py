"""Search spaces in the hyperparameter's own units: each maps a number in [0, 1) to a value.

    {"scale": "log", "low": 1e-4, "high": 1.0}                  learning rate
    {"scale": "one_minus_log", "low": 0.5, "high": 0.999}       momentum: 1 − momentum is log-uniform
    {"scale": "linear", "low": 1, "high": 6, "type": "int"}     number of layers
    {"values": [[64], [64, 64]]}                                discrete or categorical

Either may have a condition, `"when": {"optimizer": ["adam"]}` (see conditions.py), and a range the
number of its values in a grid, `"points": 5`. What a list of trials has is stored with `"from_points": True`
where nobody has given bounds or values (see explicit.py).

Pure Python: needs neither numpy nor jax. Source: the playbook, "Creating a set of studies" and
"Identifying bad search space boundaries" (search spaces are designed by hand, in real units, and
their bounds are read again in the report).
"""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any, Protocol

from playbook_jax.errors import UsageError, unknown

SCALES = ("linear", "log", "one_minus_log")
TYPES = ("float", "int")
_RANGE_KEYS = ("scale", "low", "high", "type", "points")
FROM_POINTS = "from_points"
_KEYS = (*_RANGE_KEYS, "values", "when", FROM_POINTS)

When = tuple[tuple[str, tuple[Any, ...]], ...]  # (("optimizer", ("adam", "nadam")), …): all hold


class Space(Protocol):
    """The values that one hyperparameter may take.

    Attributes:
      when: the condition under which it exists at all; empty: always.
    """

    when: When

    def value(self, u: float) -> Any:
        """Returns the value at `u` in [0, 1); uniform `u` give the space's distribution."""

    def contains(self, value: Any) -> bool:
        """Says whether `value` is one of the values."""

    def to_dict(self) -> dict[str, Any]:
        """Returns what `parse` reads."""


@dataclasses.dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included, uniform on `scale`.

    Integers are rounded so that each gets the share of the scale that lies nearest to it: under
    `linear` all the same, under `log` in proportion to about 1 / value. `points` is how many values a
    grid takes from it, `from_points` says that the bounds are those of listed trials.
    """

    scale: str
    low: float
    high: float
    type: str = "float"
    points: int | None = None
    when: When = ()
    from_points: bool = False

    def value(self, u: float) -> float | int:
        """Returns the number at `u` in [0, 1), a plain Python float or int."""
        if self.type == "int":
            # Half a step beyond either bound: else the integers at the bounds get half a share.
            value = round(_interpolate(self.scale, self.low - 0.5, self.high + 0.5, u))
        else:
            value = _interpolate(self.scale, self.low, self.high, u)
        return min(max(value, self.low), self.high)  # rounding never leads outside the bounds

    def at(self, fraction: float) -> float | int:
        """Returns the number at `fraction` of the way from bound to bound, to 12 digits."""
        value = float(f"{_interpolate(self.scale, self.low, self.high, fraction):.12g}")
        return min(max(round(value) if self.type == "int" else value, self.low), self.high)

    def contains(self, value: Any) -> bool:
        """Says whether `value` is a number of this type within the bounds."""
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            return False
        whole = self.type != "int" or value == round(value)
        return math.isfinite(value) and whole and self.low <= value <= self.high

    def to_dict(self) -> dict[str, Any]:
        """Returns what `parse` reads."""
        values = {key: getattr(self, key) for key in _RANGE_KEYS}
        values = {key: value for key, value in values.items() if value is not None}
        return values | _rest_to_dict(self)


@dataclasses.dataclass(frozen=True)
class Values:
    """A list of values, each with the same share: numbers, names, bools or tuples of them."""

    values: tuple[Any, ...]
    when: When = ()
    from_points: bool = False

    def value(self, u: float) -> Any:
        """Returns the value whose stretch of [0, 1) holds `u`."""
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def contains(self, value: Any) -> bool:
        """Says whether `value` is listed."""
        return value in self.values

    def to_dict(self) -> dict[str, Any]:
        """Returns what `parse` reads."""
        return {"values": list(self.values)} | _rest_to_dict(self)


def _rest_to_dict(space: Range | Values) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    if space.when:
        rest["when"] = {parent: list(values) for parent, values in space.when}
    return rest | ({FROM_POINTS: True} if space.from_points else {})


def _interpolate(scale: str, low: float, high: float, u: float) -> float:
    if scale == "linear":
        return low + (high - low) * u
    if scale == "log":
        return math.exp(math.log(low) + (math.log(high) - math.log(low)) * u)
    return 1.0 - _interpolate("log", 1.0 - low, 1.0 - high, u)


def parse(name: str, space: Any) -> Space:
    """Returns the space that a study config describes.

    Args:
      name: the hyperparameter's name, for the errors.
      space: `{"scale": …, "low": …, "high": …, "type": …}` or `{"values": […]}`, either with `"when"`.

    Raises:
      UsageError: a key is missing or unknown, or the values cannot be.
    """
    if not isinstance(space, Mapping):
        raise UsageError(
            f"{name}: a search space is {{'scale': …, 'low': …, 'high': …}} or {{'values': […]}}, "
            f"not {space!r}; one value belongs under 'fixed'"
        )
    for key in space:
        if key not in _KEYS:
            raise unknown(f"key of the search space of {name},", key, _KEYS)
    when = _parse_condition(name, space.get("when", {}))
    listed = space.get(FROM_POINTS) is True
    space = {key: value for key, value in space.items() if key not in ("when", FROM_POINTS)}
    if "values" not in space:
        return dataclasses.replace(_parse_range(name, space, when), from_points=listed)
    if len(space) > 1:
        raise UsageError(f"{name}: a search space has 'values' or bounds, not both")
    return dataclasses.replace(_parse_values(name, space["values"], when), from_points=listed)


def _parse_condition(name: str, when: Any) -> When:
    form = f"{name}: a condition is like {{'when': {{'optimizer': ['adam']}}}}"
    if not isinstance(when, Mapping):
        raise UsageError(f"{form}; it is {when!r}")
    for parent, values in when.items():
        if not isinstance(values, list | tuple) or not values:
            raise UsageError(f"{form}; that on {parent} is {values!r}")
    return tuple((parent, freeze(values)) for parent, values in when.items())


def _parse_values(name: str, values: Any, when: When) -> Values:
    if not isinstance(values, list | tuple) or not values:
        raise UsageError(f"{name}: 'values' must list at least two values; it is {values!r}")
    values = freeze(values)
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{name}: {value} is not finite")
        if isinstance(value, Mapping) or value is None:
            raise UsageError(f"{name}: {value!r} is no number, name, bool or tuple of them")
    if len(values) == 1:
        raise UsageError(f"{name} has one value, {values[0]!r}: put it under 'fixed'")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise UsageError(f"{name}: the value {value!r} is listed twice")
    return Values(values, when)


def _parse_range(name: str, space: Mapping[str, Any], when: When) -> Range:
    for key in ("scale", "low", "high"):
        if key not in space:
            raise UsageError(f"{name}: the search space lacks {key!r}")
    scale, kind = space["scale"], space.get("type", "float")
    if scale not in SCALES:
        raise unknown(f"scale of {name},", scale, SCALES)
    if kind not in TYPES:
        raise unknown(f"type of {name},", kind, TYPES)
    for key in ("low", "high"):
        bound = space[key]
        if not isinstance(bound, numbers.Real) or isinstance(bound, bool):
            raise UsageError(f"{name}: {key} must be a number; it is {bound!r}")
        if not math.isfinite(bound):
            raise UsageError(f"{name}: {key} must be finite; it is {bound}")
        if kind == "int" and bound != int(bound):
            raise UsageError(f"{name}: {key} of an int must be a whole number; it is {bound}")
    convert = int if kind == "int" else float
    low, high = convert(space["low"]), convert(space["high"])
    if low >= high:
        raise UsageError(f"{name}: low must be below high; they are {low} and {high}")
    if scale == "log" and low <= 0:
        raise UsageError(f"{name}: low must be above 0 on a log scale; it is {low}")
    if scale == "one_minus_log" and kind == "int":
        raise UsageError(f"{name}: one_minus_log is for numbers below 1, so not for ints")
    if scale == "one_minus_log" and high >= 1:
        raise UsageError(f"{name}: high must be below 1 under one_minus_log; it is {high}")
    points = space.get("points")
    if points is not None and (
        not isinstance(points, int) or isinstance(points, bool) or points < 2
    ):
        raise UsageError(
            f"{name}: 'points' is how many values a grid takes, at least 2; it is {points!r}"
        )
    return Range(scale, low, high, kind, points, when)


def freeze(value: Any) -> Any:
    """Returns `value` with lists, as JSON has them, turned into tuples, as configs have them."""
    return tuple(freeze(v) for v in value) if isinstance(value, list | tuple) else value
