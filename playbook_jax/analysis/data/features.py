"""Features of a training pipeline that have a strength, of which one value is off."""

from collections.abc import Mapping
from typing import Any

from playbook_jax import config as config_lib
from playbook_jax.studies.space import conditions

OFF = 0
# What the names of regularization strengths contain.
REGULARIZERS = (
    "weight_decay",
    "dropout",
    "label_smoothing",
    "augment",
    "mixup",
    "cutout",
    "regulariz",
)
# What the names of strengths contain. Of a threshold the largest value does least.
_GROWING = (
    *REGULARIZERS,
    "max_shift",
    "warmup_steps",
    "polyak_decay",
)
_THRESHOLDS = ("clip_norm",)


def is_strength(name: str) -> bool:
    """Says whether a hyperparameter is the strength of a feature that can be off."""
    last = conditions.path(name).rsplit(".", 1)[-1]
    return any(part in last for part in (*_GROWING, *_THRESHOLDS))


def weak_end(name: str) -> str:
    """Returns the end of the axis at which a feature does least, "low" or "high"."""
    last = conditions.path(name).rsplit(".", 1)[-1]
    return "high" if any(part in last for part in _THRESHOLDS) else "low"


def switched(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Returns the paths of the features that a new config turns off, and of those that it turns on."""
    old, new = config_lib.flatten(old), config_lib.flatten(new)
    names = [name for name in sorted(old.keys() | new.keys()) if is_strength(name)]
    return (
        [name for name in names if _on(old.get(name)) and not _on(new.get(name))],
        [name for name in names if _on(new.get(name)) and not _on(old.get(name))],
    )


def _on(value: Any) -> bool:
    return isinstance(value, int | float) and value != OFF
