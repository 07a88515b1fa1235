"""A study as an explicit list of trials, written in its config or in a CSV file.

    config.algorithm = "list"
    config.points = [{"hparams.learning_rate": 0.1}, {"hparams.learning_rate": 0.3}]
    config.points = "points.csv"  # beside the study config: a column a hyperparameter
    config.nuisance = {"hparams.learning_rate": {}}  # or {"scale": "log"}: the points have the bounds

In a CSV file numbers, `true`, `false` and `[64, 64]` are read as JSON, everything else as a name; a
conditional hyperparameter's cell is empty where it does not exist.

Source: the playbook, "Creating a set of studies" ("we could create a study by specifying the set of
hyperparameter configurations manually").
"""

import csv
import json
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError, closest
from playbook_jax.studies.space import conditions
from playbook_jax.studies.space.search_space import FROM_POINTS, Range, Space, freeze
from playbook_jax.tracking import csv_cells

Parameters = dict[str, Any]
_APART = (
    10  # the largest ÷ the smallest value from which numbers without a scale stand on a log scale
)


def rows(points: Any, study_path: str | Path) -> list[Mapping[str, Any]]:
    """Returns the listed trials as they are written, unchecked.

    Args:
      points: what the study config has: a list of mappings, or the path of a CSV file.
      study_path: the study config, beside which the file is looked for.

    Raises:
      UsageError: the file cannot be read, or there is no trial.
    """
    if isinstance(points, str):
        found = _rows(Path(study_path).parent / points)
    elif isinstance(points, list | tuple) and all(isinstance(row, Mapping) for row in points):
        found = list(points)
    else:
        raise UsageError(
            "points must be a list like [{'hparams.learning_rate': 0.1}, …] or the path of a CSV file; "
            f"it is {points!r}"
        )
    if not found:
        raise UsageError("points lists no trial")
    return found


def check(rows: Sequence[Mapping[str, Any]], spaces: Mapping[str, Space]) -> list[Parameters]:
    """Returns the hyperparameters of each listed trial, in the order of `spaces`.

    Args:
      rows: the trials as they are written.
      spaces: the space of each hyperparameter that varies.

    Raises:
      UsageError: a trial lacks a hyperparameter, has one that the study lacks or that does not exist for
        it, or a value outside of its space; or two trials are the same.
    """
    result = [_checked(number, row, spaces) for number, row in enumerate(rows)]
    refuse_twins(result)
    return result


def with_bounds(
    members: Any, rows: Sequence[Mapping[str, Any]], base_config: Mapping[str, Any]
) -> Any:
    """Returns a role's search spaces in which those without bounds or values have those of the listed trials.

    Numbers get a range, on the scale that is given, or else on a log scale where the largest is at least
    ten times the smallest, on that of one minus the value where that is so of one minus it, and on a linear
    one where it is not.

    Args:
      members: the spaces as the study config has them.
      rows: the trials as they are written.
      base_config: where a value is a whole number, so is what replaces it.

    Raises:
      UsageError: no trial, or each one alike, has a value.
    """
    if not isinstance(members, Mapping):
        return members
    base = config_lib.flatten(base_config)
    result = {}
    for name, space in members.items():
        result[name] = space
        if isinstance(space, Mapping) and not space.keys() & {"values", "low", "high"}:
            full = name if "@" in name else conditions.key(name, conditions.listed(name, space))
            found = {json.dumps(row[full], default=str): row[full] for row in rows if full in row}
            values = [freeze(value) for value in found.values()]
            if len(values) < 2:
                what = f"always {values[0]!r}: put it under 'fixed'" if values else "never set"
                raise UsageError(f"points: {full} is {what}")
            old = base.get(conditions.path(name))
            result[name] = {**space, **_bounds(space, values, old), FROM_POINTS: True}
    return result


def _bounds(space: Mapping[str, Any], values: Sequence[Any], old: Any) -> dict[str, Any]:
    if not all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in values):
        return {"values": values}
    low, high = min(values), max(values)
    whole = isinstance(old, int) and all(isinstance(value, int) for value in values)
    scale = "linear"
    if low > 0 and high >= _APART * low:
        scale = "log"
    elif not whole and high < 1 and 1 - low >= _APART * (1 - high):
        scale = "one_minus_log"
    return {"scale": space.get("scale", scale), "low": low, "high": high} | (
        {"type": "int"} if whole else {}
    )


def refuse_twins(points: Sequence[Parameters]) -> None:
    """Raises a UsageError where two points are the same."""
    seen: dict[tuple[Any, ...], int] = {}
    for number, point in enumerate(points):
        # By type too: True is no 1, though Python calls them equal.
        key = tuple((name, type(value).__name__, value) for name, value in sorted(point.items()))
        if key in seen:
            raise UsageError(
                f"trials {seen[key]} and {number} are the same, {point}; drop one (to repeat a trial with "
                "other training seeds, let 'seed' vary too)"
            )
        seen[key] = number


def _rows(path: Path) -> list[Parameters]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"points: {path} cannot be read: {error}") from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise UsageError(
                f"{path}: row {number} has not as many cells as the first line has names"
            )
    return [{name.strip(): _cell(text) for name, text in r.items() if text.strip()} for r in rows]


def _cell(text: str) -> Any:
    try:
        return freeze(json.loads(text))
    except ValueError:
        return csv_cells.read(text.strip())


def _checked(number: int, row: Mapping[str, Any], spaces: Mapping[str, Space]) -> Parameters:
    for name in row:
        if name not in spaces:
            raise UsageError(
                f"points[{number}] has {name!r}, which is neither scientific nor nuisance"
                f"{closest(name, spaces)}"
            )
    values = {name: freeze(value) for name, value in row.items()}
    exist = conditions.applicable(spaces, values)
    for name in exist:
        if name not in values:
            raise UsageError(f"points[{number}] lacks {name}")
    for name in values:
        if name not in exist:
            raise UsageError(f"points[{number}] has {name}, whose condition does not hold")
    return {name: _fitting(number, name, values[name], spaces[name]) for name in exist}


def _fitting(number: int, name: str, value: Any, space: Space) -> Any:
    if not space.contains(value):
        text = json.dumps(space.to_dict(), ensure_ascii=False)
        raise UsageError(f"points[{number}]: {name} = {value!r} is not in its space, {text}")
    if isinstance(space, Range):
        return int(value) if space.type == "int" else float(value)
    return value
