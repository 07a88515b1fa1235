"""The one reader of what a study has stored: `study.json`, and how its trials have ended.

Whoever reads them can rely on the types. What others have written, or a disk has damaged, is told in words.
"""

import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playbook_jax import trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.tracking import stored_format

# A state that only a reader of files sees: the file that says the state cannot be read.
UNREADABLE = "UNREADABLE"
_KEYS = ("specification", "trials")

Status = dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    """Returns what the `study.json` at `path` holds: `specification` and `trials`.

    Raises:
      UsageError: it cannot be read, a newer version wrote it, or it is damaged.
    """
    stored = trial_lib.read_json(path)
    stored_format.refuse_newer(path, stored, stored_format.STUDY)
    what = problem(stored)
    if what:
        raise UsageError(f"{path} is damaged ({what}); restore it, or use another directory")
    return stored


def is_foreign(path: Path) -> bool:
    """Returns whether a `study.json` is a whole file of some other program's."""
    stored = trial_lib.read_json(path)
    return isinstance(stored, dict) and not any(key in stored for key in (*_KEYS, "format"))


def problem(stored: Any) -> str:
    """Returns what is wrong with the contents of a `study.json`; nothing is, if empty."""
    if not isinstance(stored, dict):
        return "it holds no JSON object"
    specification, trials = stored.get("specification"), stored.get("trials")
    if not isinstance(specification, dict):
        return "it has no specification"
    for key in ("name", "goal"):
        if not isinstance(specification.get(key, ""), str):
            return f"specification.{key} is no text"
    objective = specification.get("objective")
    if not isinstance(objective, dict) or not isinstance(objective.get("metric"), str):
        return "specification.objective names no metric"
    if objective.get("mode") not in ("min", "max"):
        return "specification.objective.mode is neither min nor max"
    for role in ("scientific", "nuisance", "fixed", "base_config"):
        if not isinstance(specification.get(role, {}), dict):
            return f"specification.{role} is no mapping"
    packing = stored.get("packing", {"lanes": 1})
    if not isinstance(packing, dict) or not isinstance(packing.get("lanes"), int):
        return "packing.lanes is no number"
    if not isinstance(trials, list):
        return "it has no list of trials"
    for row in trials:
        number = row.get("trial") if isinstance(row, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            return "a trial has no number"
        if not isinstance(row.get("parameters"), dict):
            return f"trial {number} has no parameters"
    return ""


def read_status(directory: Path) -> Status:
    """Returns how the trial in a directory stands: PENDING without a `status.json`, or UNREADABLE."""
    path = directory / "status.json"
    if not path.exists():
        return trial_lib.new_status()
    stored = trial_lib.read_json(path)
    what = status_problem(stored)
    if what:
        return trial_lib.new_status(UNREADABLE, f"status.json {what}")
    return trial_lib.new_status() | stored


def status_problem(status: Any) -> str:
    """Returns what is wrong with the contents of a `status.json`; nothing is, if empty."""
    if not isinstance(status, dict) or status.get("state") not in trial_lib.STATES:
        return "is damaged"
    if not isinstance(status.get("step") or 0, int):
        return "has a step that is no number"
    if status["state"] == trial_lib.COMPLETE:
        objective, best_step = status.get("objective"), status.get("best_step")
        if not isinstance(objective, numbers.Real) or not math.isfinite(objective):
            return "says COMPLETE and has no objective"
        if not isinstance(best_step, int) or not 0 <= best_step <= (status.get("step") or 0):
            return "says COMPLETE and has no best step in its run"
    return ""


def read_provenance(directory: Path) -> Mapping[str, Any]:
    """Returns what is known of how the trial in a directory was run: command, commit, whether changed."""
    stored = trial_lib.read_json(directory / "provenance.json")
    if not isinstance(stored, dict):
        return {}
    command, commit = stored.get("command"), stored.get("commit")
    words = command if isinstance(command, list) else []
    return {
        **stored,
        "command": [word for word in words if isinstance(word, str)],
        "commit": commit if isinstance(commit, str) else None,
    }
