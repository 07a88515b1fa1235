"""In what a study differs from the one before: search spaces, fixed values, budget, and the rest."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from playbook_jax import config as config_lib
from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.reports import tables
from playbook_jax.studies.space import conditions
from playbook_jax.studies.space.search_space import Range

# How long and on how much trials train.
BUDGET = ("max_train_steps", "batch_size")
# No reader of "what would change" asks for it.
BOOKKEEPING = ("notes", "seed", "seeds.", "checkpoint.", "log_every_steps", "save_predictions")
# What a change of which is no change of the question.
UNTOLD = (*BOOKKEEPING, "steps_per_call")

SPACE, TUNED, LEFT, FIXED, LENGTH, ELSE = KINDS = (
    "search space",
    "tuned from now on",
    "no longer tuned",
    "fixed value",
    "budget",
    "not in the search space",
)


@dataclasses.dataclass(frozen=True)
class Change:
    """Something in which a study differs from the one before.

    Attributes:
      path: of the training config, or of the study's.
      before: what it was, in words.
      after: what it is.
      kind: one of KINDS.
    """

    path: str
    before: str
    after: str
    kind: str


def changes(old: Study, new: Study) -> list[Change]:
    """Returns in what a study differs from the one before, by kind."""
    sides = [_Side(old), _Side(new)]
    paths = dict.fromkeys([*sides[0].spaces, *sides[1].spaces, *sides[0].base, *sides[1].base])
    told = [
        Change(path, *texts, _kind(path, *sides))
        for path in paths
        if not path.startswith(UNTOLD)
        and (texts := tuple(side.text(path) for side in sides))[0] != texts[1]
    ]
    for key in ("num_trials", "algorithm"):
        before, after = (str(side.study.specification.get(key)) for side in sides)
        if before != after:
            told.append(Change(key, before, after, LENGTH))
    return sorted(told, key=lambda change: KINDS.index(change.kind))


class _Side:
    """The settings of a study by their paths in the training config."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.spaces: dict[str, list[Hyperparameter]] = {}
        for h in study.hyperparameters:
            self.spaces.setdefault(conditions.path(h.name), []).append(h)
        base = study.specification.get("base_config")
        self.base = config_lib.flatten(_whole(base)) if isinstance(base, Mapping) else {}
        self.fixed = set(study.specification.get("fixed") or {})

    def text(self, path: str) -> str:
        """Returns the search space at a path, or the value that all trials have there."""
        if path in self.spaces:
            return "; ".join(_space(h) for h in self.spaces[path])
        return formatting.value(self.base[path]) if path in self.base else "absent"


def _whole(base: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a base config with the keys that came later, so that they do not count as changed."""
    try:
        return config_lib.with_optional(base)
    except (LookupError, TypeError, ValueError):
        return base


def _space(h: Hyperparameter) -> str:
    condition = h.name.partition("@")[2]
    scale = f", {h.space.scale}" if isinstance(h.space, Range) else ""
    return f"{tables.values(h)}{scale}" + (f" ({condition})" if condition else "")


def _kind(path: str, old: _Side, new: _Side) -> str:
    if path in old.spaces and path in new.spaces:
        return SPACE
    if path in new.spaces:
        return TUNED
    if path in old.spaces:
        return LEFT
    if path in BUDGET:
        return LENGTH
    return FIXED if path in old.fixed | new.fixed else ELSE
