"""Strict JSON on disk, replaced atomically, and read without trust."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from playbook_jax.errors import UsageError


def strict(value: Any) -> Any:
    """Returns `value` as strict JSON allows it: NumPy scalars plain, non-finite numbers None."""
    if isinstance(value, Mapping):
        return {str(key): strict(v) for key, v in value.items()}
    if isinstance(value, np.ndarray):
        return strict(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [strict(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new one, never a part."""
    path = epath.Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text)
        part.replace(path)
    except (OSError, UnicodeError) as error:  # a full disk, perhaps: a part would fill it even more
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def remove_parts(directory: epath.PathLike) -> None:
    """Removes what `write_text` has left in a directory where its process was killed meanwhile."""
    for part in epath.Path(directory).glob(".*.part"):
        part.unlink(missing_ok=True)


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes strict JSON atomically."""
    write_text(
        path, json.dumps(strict(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    )


def read_json(path: epath.PathLike, default: Any = None) -> Any:
    """Returns what a JSON file holds, or `default` where it is missing or torn."""
    try:
        return json.loads(epath.Path(path).read_text())
    except (OSError, ValueError, RecursionError):
        return default


def read_object(path: epath.PathLike) -> dict[str, Any]:
    """Returns the JSON object that a file holds, empty where the file is missing or torn.

    Raises:
      UsageError: it holds something else.
    """
    stored = read_json(path)
    if not isinstance(stored, dict | None):
        raise wrong(path, f"a JSON {type(stored).__name__}, not an object")
    return stored or {}


def wrong(path: epath.PathLike, what: str) -> UsageError:
    """Returns the error for a stored file that holds `what` it should not."""
    return UsageError(
        f"{path} is damaged: it holds {what}; restore it, or delete it and give the training command again"
    )


def read_json_lines(path: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of a file with a JSON object a line, leaving out lines that are torn."""
    try:
        lines = epath.Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
