"""Conditional hyperparameters: those that exist only for some values of another one.

    "optimizer": {"values": ["adam", "nesterov"]},
    "hparams.learning_rate@optimizer=adam": {"scale": "log", "low": 1e-4, "high": 1e-1},
    "hparams.learning_rate@optimizer=nesterov": {"scale": "log", "low": 1e-2, "high": 10.0},
    "hparams.epsilon": {"scale": "log", "low": 1e-8, "high": 1.0, "when": {"optimizer": ["adam"]}},

Both ways to write a condition come to the same key, `hparams.epsilon@optimizer=adam`. The same path
under two conditions is two hyperparameters: two keys, two spaces, two dimensions. Several values are
joined by `|`, several conditions by `@`. A condition names a hyperparameter by its path, one that has listed
values or whole numbers. That one may itself be conditional: the condition then holds where it exists and has
one of the values.

    "model.num_layers": {"scale": "linear", "low": 1, "high": 4, "type": "int"},
    "hparams.dropout_rate": {…, "when": {"model.num_layers": [3, 4]}},
    "hparams.weight_decay": {"values": [0.0, 1e-4], "when": {"optimizer": ["adam"]}},
    "hparams.beta2": {…, "when": {"hparams.weight_decay": [1e-4]}},   a chain: only with adam

Source: the playbook, "Identifying scientific, nuisance, and fixed hyperparameters" ("We should not
assume two conditional hyperparameters are the same just because they have the same name").
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from playbook_jax.errors import UsageError, closest
from playbook_jax.studies.space.search_space import Range, Space, When, freeze

Conditions = Mapping[str, list[Any]]  # as a study config has them: {"optimizer": ["adam"]}


def path(key: str) -> str:
    """Returns the path in the training config: `key` without its condition, and the first of an axis."""
    return re.split("[*/]", stem(key), maxsplit=1)[0]


def stem(key: str) -> str:
    """Returns the key without its condition; it may be a product, see reparameterized.py."""
    return key.partition("@")[0]


def key(name: str, when: Conditions) -> str:
    """Returns the key of the hyperparameter `name`, a path, under a condition."""
    return name + "".join(
        f"@{parent}={'|'.join(map(_text, values))}" for parent, values in when.items()
    )


def applicable(spaces: Mapping[str, Space], parameters: Mapping[str, Any]) -> list[str]:
    """Returns the keys of `spaces` that exist in a trial, in their order.

    Args:
      spaces: by key.
      parameters: values by key, also of hyperparameters of `spaces` that do not exist in the trial; of
        those that `spaces` lacks, all exist.
    """
    if not any(space.when for space in spaces.values()):
        return list(spaces)
    values = {path(key): value for key, value in parameters.items() if key not in spaces}
    exist, found = set(), list(spaces)
    while found:  # first what always exists, then what depends on that
        found = [
            key
            for key, space in spaces.items()
            if key not in exist and all(p in values and values[p] in v for p, v in space.when)
        ]
        exist.update(found)
        values |= {path(key): parameters[key] for key in found if key in parameters}
    return [key for key in spaces if key in exist]


def possible(spaces: Mapping[str, Space], values: Mapping[str, Any]) -> dict[str, Space]:
    """Returns the hyperparameters that may exist where some have given values.

    Args:
      spaces: by key, without those that have values here.
      values: by path.
    """
    left, before = dict(spaces), None
    while before != len(left):  # one that is out takes with it what depends on it
        before = len(left)
        known = {path(key) for key in left}
        left = {
            key: space
            for key, space in left.items()
            if all(values[p] in v if p in values else p in known for p, v in space.when)
        }
    return left


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
        given = listed(name, space) if isinstance(space, Mapping) else {}
        full, when = name, given
        if "@" in name:
            when = _read(name, parents)
            if given and freeze_condition(given) != freeze_condition(when):
                raise UsageError(f"{name}: its 'when' says something else, {dict(given)!r}")
        elif given:
            full = key(name, given)
        if full in result:
            raise UsageError(f"{full} is described twice")
        result[full] = {**space, "when": when} if when and isinstance(space, Mapping) else space
    return result


def listed(name: str, space: Mapping[str, Any]) -> Conditions:
    """Returns the `when` of a search space with a list of values for each hyperparameter; empty without one.

    Raises:
      UsageError: it is no mapping.
    """
    given = space.get("when") or {}
    if not isinstance(given, Mapping):
        raise UsageError(f"{name}: a condition is like {{'when': {{'optimizer': ['adam']}}}}")
    return {p: v if isinstance(v, list | tuple) else [v] for p, v in given.items()}


def freeze_condition(when: Conditions) -> When:
    """Returns a condition as a space holds it."""
    return tuple((parent, freeze(values)) for parent, values in when.items())


def of_key(full: str, spaces: Mapping[str, Any]) -> When:
    """Returns the condition that a key names, its values found among those of `spaces`."""
    return freeze_condition(_read(full, spaces)) if "@" in full else ()


def check(spaces: Mapping[str, Space], fixed: Mapping[str, Space]) -> None:
    """Checks the conditions of all hyperparameters of a study against each other.

    Args:
      spaces: of those that vary, by key.
      fixed: a space of one value for each fixed one that has a condition.

    Raises:
      UsageError: a condition that never or always holds, or follows from itself, or two of one path that
        can hold at once.
    """
    for full, space in {**spaces, **fixed}.items():
        for parent, values in space.when:
            _check_condition(full, parent, values, spaces)
    for (one, first), (two, second) in itertools.combinations({**spaces, **fixed}.items(), 2):
        if path(one) == path(two) and _can_both_hold(first.when, second.when, spaces):
            raise UsageError(
                f"{one} and {two} can both hold in one trial; give them conditions ('when') that "
                "exclude each other"
            )


def _check_condition(
    full: str, parent: str, values: Iterable[Any], spaces: Mapping[str, Space]
) -> None:
    own = {key: space for key, space in spaces.items() if path(key) == parent}
    if not own:
        paths = set(map(path, spaces))
        raise UsageError(
            f"{full} depends on {parent}, which is not in the search space{closest(parent, paths)}; "
            "make it scientific or nuisance, or drop the condition"
        )
    for key, space in own.items():
        if stem(key) != parent or (isinstance(space, Range) and space.type != "int"):
            raise UsageError(
                f"{full} depends on {key}, which has bounds; a condition needs listed 'values', or "
                "whole numbers ('type': 'int')"
            )
    for value in values:
        if not any(space.contains(value) for space in own.values()):
            raise UsageError(
                f"{full}: {parent} does not take {_text(value)} (it takes: {_taken(own.values())})"
            )
    always = [space for space in own.values() if not space.when]
    if always and all(value in values for value in _values(always[0])):
        raise UsageError(f"{full}: {parent} always is one of these values; drop the condition")
    _refuse_circle(full, spaces)


def _refuse_circle(full: str, spaces: Mapping[str, Space]) -> None:
    """Raises a UsageError where a hyperparameter depends on one that depends on it."""
    seen: set[str] = set()
    found = {path(full)}
    while found - seen:
        seen |= found
        found = {p for key, space in spaces.items() if path(key) in seen for p, _ in space.when}
        if path(full) in found:
            raise UsageError(f"{full} depends on itself, by way of what it depends on")


def _values(space: Space) -> Iterable[Any]:
    return range(space.low, space.high + 1) if isinstance(space, Range) else space.values


def _taken(spaces: Iterable[Space]) -> str:
    return ", ".join(
        f"{space.low} to {space.high}"
        if isinstance(space, Range)
        else ", ".join(map(_text, space.values))
        for space in spaces
    )


def _can_both_hold(first: When, second: When, spaces: Mapping[str, Space]) -> bool:
    """Says whether no value that the one condition needs, itself or by a chain, is one the other forbids."""
    pairs = itertools.product(_needed(first, spaces), _needed(second, spaces))
    return any(
        all(set(one[p]) & set(two[p]) for p in one.keys() & two.keys()) for one, two in pairs
    )


def _needed(when: When, spaces: Mapping[str, Space]) -> list[dict[str, Any]]:
    """Returns the values that a condition needs, by path, those of a chain among them.

    More than one dictionary where a path has several conditions: one of them then holds.
    """
    result: list[dict[str, Any]] = [{}]
    for parent, values in when:
        chains = [_needed(s.when, spaces) for key, s in spaces.items() if path(key) == parent]
        further = [needed for chain in chains for needed in chain]
        result = [
            {**before, **more, parent: values} for before in result for more in further or [{}]
        ]
    return result


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _read(full: str, parents: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Returns the condition in a key; a value keeps its text where its parent has none like it."""
    when: dict[str, list[Any]] = {}
    for part in full.split("@")[1:]:
        parent, equals, texts = part.partition("=")
        if not equals or not parent or not texts or parent in when:
            raise UsageError(f"{full}: a condition in a name is like hparams.x@optimizer=adam")
        named = [space for key, space in parents.items() if path(key) == parent]
        known = {
            _text(v): v for space in named if isinstance(space, Mapping) for v in _listed(space)
        }
        whole = any(isinstance(space, Mapping) and space.get("type") == "int" for space in named)
        when[parent] = [
            int(text) if whole and re.fullmatch(r"-?\d+", text) else known.get(text, text)
            for text in texts.split("|")
        ]
    return when


def _listed(space: Mapping[str, Any]) -> Iterable[Any]:
    values = space.get("values", ())
    return values if isinstance(values, list | tuple) else ()
