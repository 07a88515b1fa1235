"""Two runs of one trial, bit for bit: the same, or where they part and by how much."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import formatting
from playbook_jax.errors import UsageError


@dataclasses.dataclass
class Comparison:
    """Two runs of one trial, bit for bit.

    Attributes:
      differences: what is not the same, the per-step records first; empty where every bit is.
      compared: what was looked at, in words.
      missing: what is no longer there to be compared, in words.
    """

    differences: list[str]
    compared: list[str]
    missing: list[str]


def compare(then: epath.PathLike, now: epath.PathLike) -> Comparison:
    """Compares two finished runs of one config bit for bit.

    Records, evaluations, status, saved predictions and checkpoints; not what depends on the clock.
    """
    then, now = epath.Path(then), epath.Path(now)
    found = Comparison([], [], [])
    for part in (_steps, _evaluations, _status, _predictions, _checkpoints):
        part(then, now, found)
    return found


def _steps(then: epath.Path, now: epath.Path, found: Comparison) -> None:
    columns, others = (trial_lib.step_columns(d) for d in (then, now))
    old, new = (trial_lib.read_steps(d) for d in (then, now))
    found.compared.append(formatting.plural(len(old), "step"))
    if columns != others:
        found.differences.append(f"the records have the columns {columns} then, {others} now")
        return
    rows = min(len(old), len(new))
    # As integers: a NaN is like itself, and −0 is not like 0.
    unlike = old[:rows].view("<u4") != new[:rows].view("<u4")
    if unlike.any():
        step = int(unlike.any(axis=1).argmax())
        text = _difference(columns, old[step], new[step], unlike[step])
        count = int(unlike.any(axis=1).sum())
        found.differences.append(f"step {step:,}: {text} ({count:,} of {rows:,} steps differ)")
    if len(old) != len(new):
        found.differences.append(f"{len(old):,} steps then, {len(new):,} now")


def _evaluations(then: epath.Path, now: epath.Path, found: Comparison) -> None:
    texts = [
        (d / "metrics.jsonl").read_text() if (d / "metrics.jsonl").exists() else ""
        for d in (then, now)
    ]
    old, new = (trial_lib.read_json_lines(d / "metrics.jsonl") for d in (then, now))
    found.compared.append(formatting.plural(len(old), "evaluation"))
    if texts[0] == texts[1]:
        return
    for row, other in zip(old, new, strict=False):
        names = list(row | other)
        unlike = [row.get(name) != other.get(name) for name in names]
        if any(unlike):
            values = ([r.get(name) for name in names] for r in (row, other))
            text = _difference(names, *values, unlike)
            found.differences.append(f"evaluation at step {row.get('step'):,}: {text}")
            return
    text = f"{len(old):,} then, {len(new):,} now" if len(old) != len(new) else "other text"
    found.differences.append(f"evaluations: {text}")


def _status(then: epath.Path, now: epath.Path, found: Comparison) -> None:
    old, new = (trial_lib.read_json(d / "status.json", {}) for d in (then, now))
    found.compared.append("how it ended")
    found.differences += [
        f"{name}: {old.get(name)} then, {new.get(name)} now"
        for name in trial_lib.new_status()
        if old.get(name) != new.get(name)
    ]


def _predictions(then: epath.Path, now: epath.Path, found: Comparison) -> None:
    paths = sorted((then / "predictions").glob("*.npz")) if (then / "predictions").exists() else []
    if paths:
        found.compared.append(formatting.plural(len(paths), "file") + " of predictions")
    for path in paths:
        other = now / "predictions" / path.name
        if not other.exists() or path.read_bytes() != other.read_bytes():
            found.differences.append(f"predictions/{path.name}")


def _checkpoints(then: epath.Path, now: epath.Path, found: Comparison) -> None:
    import jax

    from playbook_jax import checkpoints

    status = trial_lib.load(then).status
    for which in ("best", "latest"):
        if which == "best" and status["best_step"] is None:
            continue
        states: list[Any] = []
        for directory in (then, now):
            try:
                states.append(checkpoints.load(directory, which))
            except UsageError as error:
                states.append(error)
        old, new = states
        if isinstance(old, UsageError):
            if status["state"] == trial_lib.COMPLETE:
                found.missing.append(f"the {which} checkpoint ({old})")
            continue
        if isinstance(new, UsageError):
            found.differences.append(f"the {which} checkpoint: {new}")
            continue
        if status["state"] == trial_lib.INFEASIBLE and old["step"] != new["step"]:
            continue  # it was stopped before it diverged, and saved there
        found.compared.append(f"the {which} checkpoint")
        if jax.tree.structure(old) != jax.tree.structure(new):
            found.differences.append(f"the {which} checkpoint has other arrays")
        elif unlike := unlike_arrays(old, new):
            name = max(unlike, key=unlike.get)
            found.differences.append(
                f"the {which} checkpoint: {len(unlike)} of {len(jax.tree.leaves(old))} arrays, {name} "
                f"most, by up to {unlike[name]:.2g}"
            )


def unlike_arrays(old: Any, new: Any) -> dict[str, float]:
    """Returns the arrays of two states that are not the same bit for bit, and by how much at most.

    Args:
      old: what `checkpoints.load` gives.
      new: the same arrays of another run.

    Returns:
      The largest difference, by the path of the array, "['params']['Dense_0']['kernel']".
    """
    import jax

    unlike = {}
    states = (jax.tree.flatten_with_path(state)[0] for state in (old, new))
    for (path, x), (_, y) in zip(*states, strict=True):
        if x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes():
            gap = np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64))
            unlike[jax.tree_util.keystr(path)] = float(gap.max()) if x.shape == y.shape else np.inf
    return unlike


def _difference(
    names: Sequence[str], old: Sequence[Any], new: Sequence[Any], unlike: Sequence[bool]
) -> str:
    """Returns in words the first value that differs, and by how much."""
    index = list(unlike).index(True)
    name, x, y = names[index], old[index], new[index]
    try:
        x, y = float(x), float(y)
    except (TypeError, ValueError):
        return f"{name} {x} then, {y} now"
    by = f", by {abs(x - y) / abs(x):.1g} of it" if x and np.isfinite([x, y]).all() else ""
    return f"{name} {x:.9g} then, {y:.9g} now{by}"
