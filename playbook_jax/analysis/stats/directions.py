"""The directions in which a search space is looked at: its axes, and one that lies between two.

SGD with momentum moves the parameters by learning_rate / (1 − momentum) for each unit of a steady
gradient, so that where both vary it is often this ratio that decides what diverges. The playbook asks
to reparameterize a space where that makes infeasible trials easier to avoid.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.studies.space import conditions
from playbook_jax.studies.space.search_space import Range

_RATE, _MOMENTUM, _CLIPPING = "hparams.learning_rate", "hparams.momentum", "hparams.clip_norm"


@dataclasses.dataclass(frozen=True)
class Direction:
    """A number from 0 (low end) to 1 (high end) for every trial.

    Attributes:
      label: what it is called.
      names: the hyperparameters that it is made of.
      place: where a trial of these parameters lies; NaN where it does not.
      show: what stands at a place, as text.
      decades: how many powers of ten it spans, or 0 where it is not logarithmic.
    """

    label: str
    names: tuple[str, ...]
    place: Callable[[Mapping[str, Any]], float]
    show: Callable[[float], str]
    decades: float = 0.0


def along(axis: Hyperparameter) -> Direction:
    """Returns the direction along the axis of one ordered hyperparameter."""

    def show(place: float) -> str:
        if isinstance(axis.space, Range):
            return formatting.value(axis.value(place))
        return formatting.value(axis.levels[round(place * (len(axis.levels) - 1))])

    scale = axis.space.scale if isinstance(axis.space, Range) else "values"
    decades = math.log10(axis.space.high / axis.space.low) if scale == "log" else 0.0
    return Direction(
        axis.label, (axis.name,), lambda values: axis.unit(values.get(axis.name)), show, decades
    )


def effective_learning_rates(axes: list[Hyperparameter]) -> list[Direction]:
    """Returns the directions of learning_rate / (1 − momentum), of pairs of ranges that vary.

    There are several where a learning rate or a momentum has a condition, a pair for each.
    """
    ranges = [axis for axis in axes if isinstance(axis.space, Range)]
    rates, momenta = (
        [a for a in ranges if conditions.stem(a.name) == p] for p in (_RATE, _MOMENTUM)
    )
    pairs = [
        (r, m, r.name.partition("@")[2], m.name.partition("@")[2]) for r in rates for m in momenta
    ]
    return [
        _effective_learning_rate(r, m, f"@{one or two}" if one or two else "")
        for r, m, one, two in pairs
        if (one == two or not one or not two) and r.space.low > 0 and m.space.high < 1
    ]


def _effective_learning_rate(
    rate: Hyperparameter, momentum: Hyperparameter, where: str
) -> Direction:
    def ratio(rate: float, momentum: float) -> float:
        return math.log10(rate / (1 - momentum))

    low = ratio(rate.space.low, momentum.space.low)
    high = ratio(rate.space.high, momentum.space.high)

    def place(values: Mapping[str, Any]) -> float:
        if any(math.isnan(axis.unit(values.get(axis.name))) for axis in (rate, momentum)):
            return math.nan
        return (ratio(values[rate.name], values[momentum.name]) - low) / (high - low)

    return Direction(
        f"learning_rate / (1 − momentum){where}",
        (rate.name, momentum.name),
        place,
        lambda at: formatting.number(10 ** (low + at * (high - low))),
        high - low,
    )


def clipped_learning_rates(axes: list[Hyperparameter], norm: float) -> list[Direction]:
    """Returns the directions of learning_rate · min(clip_norm, norm), and of that over 1 − momentum.

    A gradient that is clipped moves the parameters by no more than learning_rate · clip_norm, so that where
    both vary it is often this product that decides what diverges.

    Args:
      axes: the hyperparameters that vary.
      norm: what a gradient's norm is where it is not clipped: a higher threshold does nothing.
    """
    ranges = {a.name: a for a in axes if isinstance(a.space, Range)}
    if not {_RATE, _CLIPPING} <= ranges.keys() or ranges[_RATE].space.low <= 0:
        return []
    if ranges[_CLIPPING].space.low <= 0:
        return []
    found = [_clipped(ranges[_RATE], ranges[_CLIPPING], None, norm)]
    if _MOMENTUM in ranges and ranges[_MOMENTUM].space.high < 1:
        found.append(_clipped(ranges[_RATE], ranges[_CLIPPING], ranges[_MOMENTUM], norm))
    return found


def _clipped(
    rate: Hyperparameter, clipping: Hyperparameter, momentum: Hyperparameter | None, norm: float
) -> Direction:
    parts = [rate, clipping, *([] if momentum is None else [momentum])]

    def product(rate: float, clip: float, momentum: float = 0.0) -> float:
        return math.log10(rate * min(clip, norm) / (1 - momentum))

    low, high = (product(*(axis.bound(side) for axis in parts)) for side in ("low", "high"))

    def place(values: Mapping[str, Any]) -> float:
        given = [values.get(axis.name) for axis in parts]
        if high <= low or any(
            math.isnan(axis.unit(v)) for axis, v in zip(parts, given, strict=True)
        ):
            return math.nan
        return (product(*given) - low) / (high - low)

    label = f"learning_rate · min(clip_norm, {formatting.number(norm, 2)})"
    return Direction(
        label if momentum is None else f"{label} / (1 − momentum)",
        tuple(axis.name for axis in parts),
        place,
        lambda at: formatting.number(10 ** (low + at * (high - low))),
        high - low,
    )
