"""The hyperparameters that vary in a study: role, search space, and where a value lies in it."""

import dataclasses
import math
import numbers
import re
from typing import Any

import numpy as np

from playbook_jax.studies.space import search_space
from playbook_jax.studies.space.search_space import Range, Values

LOW, HIGH = SIDES = ("low", "high")


def is_seed(name: str) -> bool:
    """Says whether a path is one by which replicates differ: a seed, or a note where nothing else does."""
    return name in ("seed", "notes") or name.startswith("seeds.")


def label(name: str) -> str:
    """Returns what a report calls a hyperparameter, without "hparams.": "learning_rate × weight_decay"."""
    stem, at, condition = name.partition("@")
    for sign, shown in (("*", " × "), ("/", " / "), ("(1-", "(1 − ")):
        stem = stem.replace(sign, shown)
    return re.sub(r"(?<![\w.])hparams\.", "", stem + at + condition)


@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter that varies.

    Attributes:
      name: its path in the training config, "hparams.learning_rate".
      role: "scientific" or "nuisance".
      space: the values it may take.
    """

    name: str
    role: str
    space: Range | Values

    @property
    def label(self) -> str:
        """What a report calls it."""
        return label(self.name)

    @property
    def ordered(self) -> bool:
        """Whether values have an order: numbers, and not mere names."""
        return isinstance(self.space, Range) or all(map(_is_number, self.space.values))

    @property
    def levels(self) -> list[Any]:
        """The listed values, numbers in their order; empty for a range."""
        if isinstance(self.space, Range):
            return []
        return sorted(self.space.values) if self.ordered else list(self.space.values)

    def unit(self, value: Any) -> float:
        """Returns where a value lies, from 0 at the low bound to 1 at the high bound.

        It is measured in the hyperparameter's own scale; listed numbers stand at equal distances.
        NaN where there is no such place: a missing value, a name, a number that the scale lacks.
        """
        if not self.ordered or not _is_number(value):
            return math.nan
        if isinstance(self.space, Values):
            levels = self.levels
            return levels.index(value) / (len(levels) - 1) if value in levels else math.nan
        low, high = (_scaled(self.space.scale, v) for v in (self.space.low, self.space.high))
        return (_scaled(self.space.scale, value) - low) / (high - low)

    def value(self, unit: float) -> float | int:
        """Returns the number at `unit` of a range (beyond 0 and 1, too): `unit`'s inverse."""
        low, high = (_scaled(self.space.scale, v) for v in (self.space.low, self.space.high))
        scaled = low + (high - low) * unit
        value = {
            "linear": lambda: scaled,
            "log": lambda: 10.0**scaled,
            "one_minus_log": lambda: 1 - 10.0**-scaled,
        }[self.space.scale]()
        return round(value) if self.space.type == "int" else value

    def bound(self, side: str) -> float | int:
        """Returns the lowest or the highest value of the space."""
        if isinstance(self.space, Range):
            return self.space.low if side == LOW else self.space.high
        return self.levels[0 if side == LOW else -1]


def parse(name: str, role: str, space: Any) -> Hyperparameter:
    """Returns the hyperparameter that a study's specification describes.

    Raises:
      UsageError: its search space cannot be.
    """
    return Hyperparameter(name, role, search_space.parse(name, space))


def units(hyperparameter: Hyperparameter, values: list[Any]) -> np.ndarray:
    """Returns `unit` of each value."""
    return np.array([hyperparameter.unit(value) for value in values], float)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _scaled(scale: str, value: float) -> float:
    if scale == "linear":
        return float(value)
    if scale == "log":
        return math.log10(value) if value > 0 else math.nan
    return -math.log10(1 - value) if value < 1 else math.nan
