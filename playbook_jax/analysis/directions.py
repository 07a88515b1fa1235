"""The directions in which a search space is looked at: its axes, and one that lies between two.

SGD with momentum moves the parameters by learning_rate / (1 − momentum) for each unit of a steady
gradient, so that where both vary it is often this ratio that decides what diverges. The playbook asks
to reparameterize a space where that makes infeasible trials easier to avoid.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from playbook_jax.analysis import numerals
from playbook_jax.analysis.hyperparameters import Hyperparameter
from playbook_jax.studies.search_space import Range

_RATE, _MOMENTUM = "hparams.learning_rate", "hparams.momentum"


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
            return numerals.value(axis.value(place))
        return numerals.value(axis.levels[round(place * (len(axis.levels) - 1))])

    scale = axis.space.scale if isinstance(axis.space, Range) else "values"
    decades = math.log10(axis.space.high / axis.space.low) if scale == "log" else 0.0
    return Direction(
        axis.label, (axis.name,), lambda values: axis.unit(values.get(axis.name)), show, decades
    )


def effective_learning_rate(axes: list[Hyperparameter]) -> Direction | None:
    """Returns the direction of learning_rate / (1 − momentum), if both are ranges that vary."""
    by_name = {axis.name: axis for axis in axes if isinstance(axis.space, Range)}
    if _RATE not in by_name or _MOMENTUM not in by_name:
        return None
    rate, momentum = by_name[_RATE].space, by_name[_MOMENTUM].space
    if rate.low <= 0 or momentum.high >= 1:
        return None

    def ratio(rate: float, momentum: float) -> float:
        return math.log10(rate / (1 - momentum))

    low, high = ratio(rate.low, momentum.low), ratio(rate.high, momentum.high)

    def place(values: Mapping[str, Any]) -> float:
        if math.isnan(by_name[_RATE].unit(values.get(_RATE))):
            return math.nan
        if math.isnan(by_name[_MOMENTUM].unit(values.get(_MOMENTUM))):
            return math.nan
        return (ratio(values[_RATE], values[_MOMENTUM]) - low) / (high - low)

    return Direction(
        "learning_rate / (1 − momentum)",
        (_RATE, _MOMENTUM),
        place,
        lambda at: numerals.number(10 ** (low + at * (high - low))),
        high - low,
    )
