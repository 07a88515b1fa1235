"""Reparameterized axes: a combination of hyperparameters that is searched in place of one of them.

    "hparams.learning_rate/(1-hparams.momentum)": {"scale": "log", "low": 0.1, "high": 10.0},
    "hparams.momentum": {"scale": "one_minus_log", "low": 0.5, "high": 0.999},

Under momentum γ an update adds up to learning_rate / (1 − γ) times a steady gradient, so where training
diverges depends on this ratio rather than on the learning rate. Searched on it, the infeasible points lie
beyond one bound and not in a corner of the space. Bounds, tables and plots are those of the ratio; the
trial's config has the learning rate. The part in brackets is one minus any number below one, of the trial
or, where the trial has none, of the base config.

Source: the playbook, "Extracting insight from experimental results" (a space with many infeasible points
may be mended by reparameterizing it).
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError, closest
from playbook_jax.studies import conditions, search_space
from playbook_jax.studies.search_space import Range, Space


def divisor(key: str) -> str | None:
    """Returns the path from whose value one minus is taken, None for an ordinary hyperparameter."""
    _, found, rest = conditions.stem(key).partition("/(1-")
    return rest.removesuffix(")") if found and rest.endswith(")") else None


def check(key: str, space: Space, base_config: ConfigDict) -> None:
    """Raises a UsageError where the name of a hyperparameter is a ratio that cannot be."""
    name = conditions.stem(key)
    below = divisor(key)
    if "/" in name and below is None:
        raise UsageError(
            f"{key}: a reparameterized axis is like hparams.learning_rate/(1-hparams.momentum)"
        )
    if below is None:
        return
    base = config_lib.flatten(base_config)
    if below not in base:
        raise UsageError(f"{key}: the base config has no {below!r}{closest(below, base)}")
    if not isinstance(base[below], float) or not isinstance(base[conditions.path(key)], float):
        raise UsageError(f"{key}: both must be numbers that need not be whole")
    if not isinstance(space, Range) or space.type != "float":
        raise UsageError(f"{key}: a reparameterized axis needs bounds, and type 'float'")


def config_values(parameters: Mapping[str, Any], base_config: ConfigDict) -> dict[str, Any]:
    """Returns what a trial sets in its training config.

    Args:
      parameters: the trial's hyperparameters by key; lists, as JSON has them, stand for tuples.
      base_config: the config that it starts from.

    Returns:
      Values by path, tuples where the config has them.
    """
    ratios = {key: value for key, value in parameters.items() if divisor(key)}
    values = {
        conditions.path(key): search_space.freeze(value)
        for key, value in parameters.items()
        if key not in ratios
    }
    base = config_lib.flatten(base_config) if ratios else {}
    for key, ratio in ratios.items():
        values[conditions.path(key)] = ratio * (1 - {**base, **values}[divisor(key)])
    return values


def axis_value(key: str, base_config: ConfigDict) -> Any:
    """Returns what the base config has for a hyperparameter: its value, or the ratio."""
    base = config_lib.flatten(base_config)
    value = search_space.freeze(base[conditions.path(key)])
    below = divisor(key)
    return value if below is None else value / (1 - base[below])
