"""Rules for single parameters by pattern: which are frozen, learn slower, or decay.

A parameter's path joins its names by slashes, like `Dense_0/kernel`. A pattern is a regular expression
that the whole path has to match: `Conv_.*`, `.*/bias`, `encoder/(Dense_0|Dense_1)/.*`. One that matches
nothing is an error, so a rule is never silently without effect.
"""

import dataclasses
import difflib
import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from playbook_jax import optimizers
from playbook_jax.errors import UsageError, closest

_SHOWN = 5  # paths in a message


def paths(tree: Any) -> list[str]:
    """Returns the path of each leaf, in the tree's order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def some(names: Iterable[str]) -> str:
    """Returns the first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def differences(there: Any, here: Any) -> list[str]:
    """Returns what differs between two trees of arrays or shapes: paths and shapes, not types."""
    trees = [
        dict(zip(paths(tree), map(jnp.shape, jax.tree.leaves(tree)), strict=True))
        for tree in (there, here)
    ]
    left, right = ({path: str(list(shape)) for path, shape in tree.items()} for tree in trees)
    return [
        f"{path} {left.get(path, 'missing')} there, {right.get(path, 'missing')} here"
        for path in dict.fromkeys([*left, *right])
        if left.get(path) != right.get(path)
    ]


def check_patterns(key: str, patterns: Any, known: Sequence[str], *, whole: bool = True) -> None:
    """Checks a tuple of patterns from the config.

    Args:
      key: the config key, for messages.
      patterns: what the config has there.
      known: the paths, of which each pattern is to match one.
      whole: whether it has to match a whole path, or a part.

    Raises:
      UsageError: `patterns` is not a tuple of regular expressions, or one matches no path.
    """
    if not isinstance(patterns, tuple | list) or not all(isinstance(p, str) for p in patterns):
        raise UsageError(
            f"{key} must be a tuple of patterns, such as ('Dense_0/.*',): {patterns!r}"
        )
    for pattern in patterns:
        try:
            match = re.compile(pattern).fullmatch if whole else re.compile(pattern).search
        except re.error as error:
            raise UsageError(f"{key}: {pattern!r} is not a regular expression: {error}") from error
        if not any(match(name) for name in known):
            near = difflib.get_close_matches(pattern, known, n=3, cutoff=0) or ["none at all"]
            raise UsageError(
                f"{key}: {pattern!r} matches no {'path' if whole else 'part of a path'}; "
                f"the nearest of {len(known)} are {', '.join(near)}"
            )


def _first_match(rules: Sequence[tuple[str, Any]], path: str, default: Any) -> Any:
    return next((value for pattern, value in rules if re.fullmatch(pattern, path)), default)


@dataclasses.dataclass(frozen=True)
class ParameterRules:
    """What the config says of single parameters. Of several patterns that match, the first decides.

    A frozen parameter is no part of the optimization: no gradient is computed for it, it has no
    optimizer state and no weight decay, and the norms of gradient and update, and with them clipping,
    are those of the others. The running statistics of a batch norm are no parameters and go on following
    the batches, by which it normalizes in training.

    A multiplier scales the parameter's whole update, decoupled weight decay included, which for every
    rule of `optimizers.OPTIMIZERS` is the same as multiplying its learning rate. `update_norm` is that
    of the scaled update.

    Attributes:
      freeze: patterns.
      learning_rate_multipliers: pairs of a pattern and a number, or the name of one of the `hparams`:
        that can be tuned without compiling again.
      weight_decay_mask: pairs of a pattern and whether weight decay acts; the others are as the
        workload, or the default, has them.
    """

    freeze: tuple[str, ...] = ()
    learning_rate_multipliers: tuple[tuple[str, float | str], ...] = ()
    weight_decay_mask: tuple[tuple[str, bool], ...] = ()

    def trained(self, params: Any) -> Any:
        """Returns the parameters with None in the place of those that are frozen."""
        if not self.freeze:
            return params
        return self._map(
            lambda path, p: None if any(re.fullmatch(f, path) for f in self.freeze) else p, params
        )

    def joined(self, trained: Any, params: Any) -> Any:
        """Returns `trained` with the frozen ones of `params` in their places."""
        if not self.freeze:
            return trained
        return jax.tree.map(
            lambda new, old: old if new is None else new, trained, params, is_leaf=_is_none
        )

    def scaled(self, updates: Any, hparams: Mapping[str, Any]) -> Any:
        """Returns the optimizer's updates with each multiplier on its own."""
        if not self.learning_rate_multipliers:
            return updates

        def scale(path: str, update: Any) -> Any:
            factor = _first_match(self.learning_rate_multipliers, path, 1.0)
            factor = hparams[factor] if isinstance(factor, str) else factor
            return update if update is None else (factor * update).astype(update.dtype)

        return self._map(scale, updates)

    def decay_mask(self, params: Any, mask: Any) -> Any:
        """Returns the mask of weight decay, made from the workload's, which may be None."""
        if not self.weight_decay_mask:
            return mask
        mask = optimizers.decay_matrices if mask is None else mask
        full = jax.tree.broadcast(mask(params) if callable(mask) else mask, params)
        return self._map(lambda path, old: _first_match(self.weight_decay_mask, path, old), full)

    @staticmethod
    def _map(function: Any, tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, x: function(jax.tree_util.keystr(path, simple=True, separator="/"), x),
            tree,
            is_leaf=_is_none,
        )


def _is_none(x: Any) -> bool:
    return x is None


def of_config(config: ConfigDict, params: Any) -> ParameterRules:
    """Returns the rules of a complete config, after checking them against the parameters.

    Args:
      config: the training config.
      params: the parameters, or their shapes.

    Raises:
      UsageError: a value of the wrong kind, a pattern that matches or decides nothing, or nothing is
        left to train.
    """
    known = paths(params)
    check_patterns("freeze", config.freeze, known)
    for key in ("learning_rate_multipliers", "weight_decay_mask"):
        _check_pairs(key, config[key], known)
    for pattern, value in config.learning_rate_multipliers:
        _check_multiplier(pattern, value, config.hparams)
    for pattern, value in config.weight_decay_mask:
        if not isinstance(value, bool):
            raise UsageError(f"weight_decay_mask: {pattern!r} needs True or False, not {value!r}")
    rules = ParameterRules(
        config.freeze, config.learning_rate_multipliers, config.weight_decay_mask
    )
    if not jax.tree.leaves(rules.trained(params)):
        raise UsageError(f"freeze {config.freeze} leaves no parameter to train")
    return rules


def _check_pairs(key: str, rules: Any, known: Sequence[str]) -> None:
    if not isinstance(rules, tuple | list) or not all(
        isinstance(rule, tuple | list) and len(rule) == 2 for rule in rules
    ):
        raise UsageError(f"{key} must be pairs like (('Dense_0/.*', 0.1),): {rules!r}")
    check_patterns(key, [pattern for pattern, _ in rules], known)
    for number, (pattern, _) in enumerate(rules):
        earlier = [(p, True) for p, _ in rules[:number]]
        mine = [name for name in known if re.fullmatch(pattern, name)]
        if all(_first_match(earlier, name, False) for name in mine):
            raise UsageError(f"{key}: an earlier pattern decides all that {pattern!r} matches")


def _check_multiplier(pattern: str, value: Any, hparams: Mapping[str, Any]) -> None:
    where = f"learning_rate_multipliers: {pattern!r}"
    if isinstance(value, str):
        if value not in hparams:
            raise UsageError(f"{where} names hparams.{value}, missing{closest(value, hparams)}")
    elif (
        not isinstance(value, numbers.Real)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or value < 0
    ):
        raise UsageError(f"{where} needs a number ≥ 0 or the name of one of hparams, not {value!r}")
