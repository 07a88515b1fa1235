"""Overrides of a study config on the command line, as training configs have them.

    --config.num_trials=40
    --config.objective.metric=validation/error_rate
    --config.nuisance.hparams.learning_rate.high=3.0
    --config.fixed.optimizer=adam
    --config.baseline, --noconfig.baseline

A key is one that the study config has, or that every study config may have. Names of hyperparameters have
dots themselves, so a path is read along the keys that there are, the longest that fits first. Where the
config has text, the override is text; else it is a Python literal, if it can be read as one.
"""

import ast
import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from playbook_jax.errors import UsageError, closest

_FORM = re.compile(r"--?(no)?config\.(.+)", re.DOTALL)
_WORDS = {"true": True, "false": False, "none": None}


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the overrides among the arguments of a command, and the other arguments."""
    found = [argument for argument in arguments if _FORM.fullmatch(argument)]
    return found, [argument for argument in arguments if argument not in found]


def apply(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns a study config with its overrides.

    Args:
      values: the study config as a nested dictionary, optional keys included.
      overrides: as they stand on the command line.

    Raises:
      UsageError: one names a key that there is not, or has no value.
    """
    result = copy.deepcopy(dict(values))
    for override in overrides:
        negated, text = _FORM.fullmatch(override).groups()
        where, key, value = _find(result, text)
        is_flag = value is None and isinstance(where[key], bool)
        if (value is None or negated) and not is_flag:
            raise UsageError(f"{override}: a value is missing, as in --config.num_trials=40")
        where[key] = not negated if is_flag else _read(value, where[key])
    return result


def _find(values: dict[str, Any], text: str) -> tuple[dict[str, Any], str, str | None]:
    """Returns the dictionary and the key that "a.b=text" names, and the text, None without one."""
    where, rest = values, text
    while True:
        fitting = [
            key for key in where if rest.startswith(key) and _ends(rest[len(key) :], where[key])
        ]
        if not fitting:
            name = text.partition("=")[0]
            raise UsageError(f"the study config has no {name!r}{closest(name, _paths(values))}")
        key = max(fitting, key=len)
        rest = rest[len(key) :]
        if not rest.startswith("."):
            return where, key, rest[1:] if rest else None
        where, rest = where[key], rest[1:]


def _ends(rest: str, value: Any) -> bool:
    """Says whether a key may end before `rest`."""
    return not rest or rest[0] == "=" or (rest[0] == "." and isinstance(value, dict))


def _paths(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")


def _read(text: str, old: Any) -> Any:
    if isinstance(old, str):
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text  # what it must be is said where the study config is checked
