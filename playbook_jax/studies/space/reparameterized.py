"""Reparameterized axes: a product or quotient of hyperparameters that is searched in place of one of them.

    "hparams.learning_rate/(1-hparams.momentum)": {"scale": "log", "low": 0.1, "high": 10.0},
    "hparams.momentum": {"scale": "one_minus_log", "low": 0.5, "high": 0.999},

Under momentum γ an update adds up to learning_rate / (1 − γ) times a steady gradient, so where training
diverges depends on this ratio rather than on the learning rate. Searched on it, the infeasible points lie
beyond one bound and not in a corner of the space. Bounds, tables and plots are those of the axis; the
trial's config has the learning rate.

An axis begins with the path that it stands for, followed by one part or more, each after `*` or `/`: another
path, or one minus it in brackets.

    "hparams.weight_decay*hparams.learning_rate"      what decoupled weight decay takes off at a step
    "hparams.learning_rate/batch_size"
    "hparams.learning_rate*hparams.weight_decay/(1-hparams.momentum)"

The parts are those of the trial, themselves axes perhaps, or, where the trial has none, those of the base
config. They must be above zero.

Source: the playbook, "Extracting insight from experimental results" (a space with many infeasible points
may be mended by reparameterizing it).
"""

import dataclasses
import numbers
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError, closest
from playbook_jax.studies.space import conditions, search_space
from playbook_jax.studies.space.search_space import Range, Space

_PATH = r"[^*/()\s]+"
_PART = rf"([*/])(?:\(1-({_PATH})\)|({_PATH}))"


@dataclasses.dataclass(frozen=True)
class Part:
    """What an axis has beside the path that it stands for.

    Attributes:
      path: of a number in the training config.
      one_minus: whether one minus that number is meant.
      divides: whether the axis is divided by it, and not multiplied.
    """

    path: str
    one_minus: bool
    divides: bool

    def of(self, values: Mapping[str, Any]) -> float:
        """Returns its value in a config, by path.

        Raises:
          UsageError: it is not above zero.
        """
        value = 1 - values[self.path] if self.one_minus else values[self.path]
        if not value > 0:
            needed = "below one" if self.one_minus else "above zero"
            raise UsageError(
                f"{self.path} is {values[self.path]}: in a reparameterized axis it must be {needed}"
            )
        return value


def parts(key: str) -> tuple[Part, ...]:
    """Returns what an axis has beside the path that it stands for; none for an ordinary hyperparameter."""
    return tuple(
        Part(one_minus or plain, bool(one_minus), sign == "/")
        for sign, one_minus, plain in re.findall(_PART, conditions.stem(key))
    )


def check(key: str, spaces: Mapping[str, Space], base_config: ConfigDict) -> None:
    """Checks the name of a hyperparameter that may be a product or a quotient.

    Args:
      key: the hyperparameter's.
      spaces: those of all hyperparameters.
      base_config: what has a value for each path.

    Raises:
      UsageError: the axis cannot be.
    """
    name, space = conditions.stem(key), spaces[key]
    if name == conditions.path(key):
        return
    if not re.fullmatch(rf"{_PATH}(?:{_PART})+", name):
        raise UsageError(
            f"{key}: a reparameterized axis is like hparams.learning_rate/(1-hparams.momentum) or "
            "hparams.learning_rate*hparams.weight_decay"
        )
    base = config_lib.flatten(base_config)
    for part in parts(key):
        if part.path not in base:
            raise UsageError(
                f"{key}: the base config has no {part.path!r}{closest(part.path, base)}"
            )
    path = conditions.path(key)
    whole = isinstance(base[path], int) or path.endswith("_steps")
    if whole or not all(map(_is_number, (base[path], *(base[p.path] for p in parts(key))))):
        raise UsageError(f"{key}: all must be numbers, and {path} one that need not be whole")
    if not isinstance(space, Range) or space.type != "float":
        raise UsageError(f"{key}: a reparameterized axis needs bounds, and type 'float'")
    _refuse_circle(key, spaces)
    for part in parts(key):
        for value in _values(part.path, spaces, base):
            part.of({part.path: value})


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _refuse_circle(key: str, spaces: Mapping[str, Space]) -> None:
    """Raises a UsageError where an axis is made of what is made of the axis itself."""
    seen: set[str] = set()
    found = {conditions.path(key)}
    while found - seen:
        seen |= found
        found = {p.path for k in spaces if conditions.path(k) in seen for p in parts(k)}
        if conditions.path(key) in found:
            raise UsageError(
                f"{key}: {conditions.path(key)} would follow from itself; search one of the parts as it is"
            )


def _values(path: str, spaces: Mapping[str, Space], base: Mapping[str, Any]) -> Iterator[Any]:
    """Returns the bounds or values that a part may have; those of an axis are not known."""
    own = {key: space for key, space in spaces.items() if conditions.path(key) == path}
    if not any(not space.when for space in own.values()):
        yield base[path]
    for key, space in own.items():
        if not parts(key):
            yield from (space.low, space.high) if isinstance(space, Range) else space.values


def config_values(parameters: Mapping[str, Any], base_config: ConfigDict) -> dict[str, Any]:
    """Returns what a trial sets in its training config.

    Args:
      parameters: the trial's hyperparameters by key; lists, as JSON has them, stand for tuples.
      base_config: the config that it starts from.

    Returns:
      Values by path, tuples where the config has them.

    Raises:
      UsageError: a part of an axis is not above zero, or follows from the axis itself.
    """
    axes = {key: value for key, value in parameters.items() if parts(key)}
    values = {
        conditions.path(key): search_space.freeze(value)
        for key, value in parameters.items()
        if key not in axes
    }
    base = config_lib.flatten(base_config) if axes else {}
    while axes:
        waiting = {conditions.path(key) for key in axes}
        ready = [key for key in axes if not waiting & {part.path for part in parts(key)}]
        if not ready:
            raise UsageError(f"{', '.join(axes)}: these axes follow from each other")
        for key in ready:
            value = axes.pop(key)
            for part in parts(key):
                number = part.of({**base, **values})
                value = value * number if part.divides else value / number
            values[conditions.path(key)] = value
    return values


def axis_value(key: str, config: ConfigDict) -> Any:
    """Returns what a config has for a hyperparameter: its value, or that of the product or quotient.

    Raises:
      UsageError: a part of an axis is not above zero.
    """
    values = config_lib.flatten(config)
    value = search_space.freeze(values[conditions.path(key)])
    for part in parts(key):
        value = value / part.of(values) if part.divides else value * part.of(values)
    return value
