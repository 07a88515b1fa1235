"""The arms of a study: what is compared. An arm is one combination of the listed scientific values.

A study without a scientific hyperparameter has one arm. So has one whose scientific hyperparameters have
bounds: what to call an arm is then up to the analysis.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

from playbook_jax.studies.space import conditions
from playbook_jax.studies.space.search_space import Values
from playbook_jax.studies.specification import GROUP, Specification


@dataclasses.dataclass(frozen=True)
class Arm:
    """One combination of scientific values.

    Attributes:
      values: the scientific hyperparameters' values, by path.
      varying: the nuisance hyperparameters that may exist with these values, by key.
      dimensions: how many of them a trial has at most; two that exclude each other count once.
      num_trials: how many trials the arm gets, rounded down.
    """

    values: Mapping[str, Any]
    varying: tuple[str, ...]
    dimensions: int
    num_trials: int

    @property
    def label(self) -> str:
        """What tables call it: "optimizer=adam"."""
        return label(self.values)


def find(specification: Specification) -> list[Arm]:
    """Returns the arms of a study in the order of their values."""
    listed = {n: s for n, s in specification.scientific.items() if isinstance(s, Values)}
    listed = {name: space for name, space in listed.items() if not space.when}
    count = math.prod(len(space.values) for space in listed.values())
    num_trials = specification.num_trials - specification.baseline
    if specification.shape != GROUP:
        num_trials //= count
    combinations = itertools.product(*(space.values for space in listed.values()))
    return [
        _arm(specification, dict(zip(listed, values, strict=True)), num_trials)
        for values in combinations
    ]


def label(values: Mapping[str, Any]) -> str:
    """Returns "optimizer=adam, hidden_sizes=[64,64]", without the paths' first parts."""
    return ", ".join(f"{name.rpartition('.')[2]}={_text(value)}" for name, value in values.items())


def _arm(specification: Specification, values: Mapping[str, Any], num_trials: int) -> Arm:
    others = {key: s for key, s in specification.spaces.items() if key not in values}
    varying = [key for key in conditions.possible(others, values) if key in specification.nuisance]
    paths = {conditions.path(key) for key in varying}
    return Arm(values, tuple(varying), len(paths), num_trials)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
