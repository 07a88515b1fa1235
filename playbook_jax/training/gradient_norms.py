"""The gradient's norm by parameter group: it shows where in the model an instability starts.

A group is what shares the first name of its path in the tree of parameters: a top-level module. The
groups' squared norms add up to the square of `gradient_norm`, all of them before clipping and weight
decay (playbook, "Identifying unstable workloads" and "Gradient clipping"). Recorded where
`config.record_group_norms` is set, in columns of their own after the others; it costs nothing elsewhere.
"""

from typing import Any

import jax
import optax

PREFIX = "gradient_norm/"


def columns(params: Any) -> tuple[str, ...]:
    """Returns the names of the groups' columns, `gradient_norm/Dense_0`, …, in the tree's order.

    Args:
      params: the parameters that are trained, or their shapes. A frozen one is no leaf of it, so a
        group that is frozen as a whole has no column.
    """
    return tuple(PREFIX + name for name in _groups(params))


def norms(gradients: Any) -> list[Any]:
    """Returns the L2 norm of each group, float32 scalars in the order of `columns`."""
    return [optax.tree.norm(leaves) for leaves in _groups(gradients).values()]


def _groups(tree: Any) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        # A tree that is a single array has no path.
        name = jax.tree_util.keystr(path[:1], simple=True) or "all"
        groups.setdefault(name, []).append(leaf)
    return groups
