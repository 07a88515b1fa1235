"""Conditional hyperparameters: those that exist only for some values of another one.

    "optimizer": {"values": ["adam", "nesterov"]},
    "hparams.learning_rate@optimizer=adam": {"scale": "log", "low": 1e-4, "high": 1e-1},
    "hparams.learning_rate@optimizer=nesterov": {"scale": "log", "low": 1e-2, "high": 10.0},
    "hparams.epsilon": {"scale": "log", "low": 1e-8, "high": 1.0, "when": {"optimizer": ["adam"]}},

Both ways to write a condition come to the same key, `hparams.epsilon@optimizer=adam`. The same path
under two conditions is two hyperparameters: two keys, two spaces, two dimensions. Several values are
joined by `|`, several conditions by `@`. A condition names a hyperparameter that always exists and has
listed values.

Source: the playbook, "Identifying scientific, nuisance, and fixed hyperparameters" ("We should not
assume two conditional hyperparameters are the same just because they have the same name").
"""

import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from playbook_jax.errors import UsageError, closest
from playbook_jax.studies.search_space import Space, Values, When, freeze

Conditions = Mapping[str, list[Any]]  # as a study config has them: {"optimizer": ["adam"]}


def path(key: str) -> str:
    """Returns the path in the training config: `key` without its condition and divisor."""
    return stem(key).partition("/")[0]


def stem(key: str) -> str:
    """Returns the key without its condition; it may have a divisor, see reparameterized.py."""
    return key.partition("@")[0]


def key(name: str, when: Conditions) -> str:
    """Returns the key of the hyperparameter `name`, a path, under a condition."""
    return name + "".join(
        f"@{parent}={'|'.join(map(_text, values))}" for parent, values in when.items()
    )


def applies(when: When, parameters: Mapping[str, Any]) -> bool:
    """Says whether a condition holds for a trial with these hyperparameters."""
    return all(parent in parameters and parameters[parent] in values for parent, values in when)


def applicable(spaces: Mapping[str, Space], parameters: Mapping[str, Any]) -> list[str]:
    """Returns the keys of `spaces` that exist in a trial, in their order.

    Args:
      spaces: by key.
      parameters: the trial's hyperparameters; of these, the unconditional ones decide.
    """
    return [key for key, space in spaces.items() if applies(space.when, parameters)]


def normalized(members: Mapping[str, Any], parents: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a role's search spaces with every condition both in its key and in its space.

    Args:
      members: the spaces of a role as a study config has them; of the role `fixed`, values.
      parents: the spaces of all hyperparameters that vary, as a study config has them.

    Raises:
      UsageError: a condition cannot be read, contradicts the key, or comes to a key that exists.
    """
    result: dict[str, Any] = {}
    for name, space in members.items():
        given = space.get("when") if isinstance(space, Mapping) else None
        if given and not isinstance(given, Mapping):
            raise UsageError(f"{name}: a condition is like {{'when': {{'optimizer': ['adam']}}}}")
        full, when = name, given
        if "@" in name:
            when = _read(name, parents)
            if given and freeze_condition(given) != freeze_condition(when):
                raise UsageError(f"{name}: its 'when' says something else, {dict(given)!r}")
        elif given:
            full = key(
                name, {p: v if isinstance(v, list | tuple) else [v] for p, v in given.items()}
            )
        if full in result:
            raise UsageError(f"{full} is described twice")
        result[full] = {**space, "when": when} if when and isinstance(space, Mapping) else space
    return result


def freeze_condition(when: Conditions) -> When:
    """Returns a condition as a space holds it."""
    return tuple((parent, freeze(values)) for parent, values in when.items())


def of_key(full: str, spaces: Mapping[str, Any]) -> When:
    """Returns the condition that a key names, its values found among those of `spaces`."""
    return freeze_condition(_read(full, spaces)) if "@" in full else ()


def check(spaces: Mapping[str, Space]) -> None:
    """Checks the conditions of all hyperparameters of a study against each other.

    Args:
      spaces: by key; those of fixed hyperparameters with a condition among them.

    Raises:
      UsageError: a condition that never or always holds, or two of one path that can hold at once.
    """
    for full, space in spaces.items():
        for parent, values in space.when:
            _check_condition(full, parent, values, spaces)
    for (one, first), (two, second) in itertools.combinations(spaces.items(), 2):
        if path(one) == path(two) and not _disjoint(first.when, second.when):
            raise UsageError(
                f"{one} and {two} can both hold in one trial; give them conditions ('when') that "
                "exclude each other"
            )


def _check_condition(
    full: str, parent: str, values: Iterable[Any], spaces: Mapping[str, Space]
) -> None:
    if parent not in spaces:
        if parent in map(path, spaces):
            raise UsageError(
                f"{full} depends on {parent}, which is itself conditional; a condition names a "
                "hyperparameter that always exists"
            )
        raise UsageError(
            f"{full} depends on {parent}, which is not in the search space{closest(parent, spaces)}; "
            "make it scientific or nuisance, or drop the condition"
        )
    space = spaces[parent]
    if not isinstance(space, Values):
        raise UsageError(
            f"{full} depends on {parent}, which has bounds; a condition needs listed 'values'"
        )
    for value in values:
        if value not in space.values:
            known = ", ".join(map(_text, space.values))
            raise UsageError(f"{full}: {parent} does not take {_text(value)} (it takes: {known})")
    if set(map(_text, space.values)) <= set(map(_text, values)):
        raise UsageError(f"{full}: {parent} always is one of these values; drop the condition")


def _disjoint(first: When, second: When) -> bool:
    one, two = dict(first), dict(second)
    return any(not set(one[parent]) & set(two[parent]) for parent in one.keys() & two.keys())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _read(full: str, parents: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Returns the condition in a key; a value keeps its text where its parent has none like it."""
    when: dict[str, list[Any]] = {}
    for part in full.split("@")[1:]:
        parent, equals, texts = part.partition("=")
        if not equals or not parent or not texts or parent in when:
            raise UsageError(f"{full}: a condition in a name is like hparams.x@optimizer=adam")
        space = parents.get(parent)
        values = space.get("values", ()) if isinstance(space, Mapping) else ()
        known = {_text(value): value for value in values}
        when[parent] = [known.get(text, text) for text in texts.split("|")]
    return when
