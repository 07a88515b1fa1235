"""Files that say in which format they are written: whether this version of the program can read them.

`study.json`, `group.json` and `replicates.json` have a number, `format`, that grows when a reader of the
older one would take the newer one for something that it is not.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from playbook_jax.errors import UsageError

# The last formats that this version knows. A study or group has 2 where trials are packed, which a
# reader of 1 would continue one by one, and so with other bits; else it still has 1.
STUDY = GROUP = 2
REPLICATES = 1


def is_newer(stored: Any, known: int) -> bool:
    """Says whether a file holds what only a newer version can read.

    Args:
      stored: the JSON that it holds, or None.
      known: the last format that this version knows.
    """
    number = stored.get("format") if isinstance(stored, dict) else None
    return isinstance(number, int) and not isinstance(number, bool) and number > known


def refuse_newer(path: str | PathLike[str], stored: Any, known: int) -> None:
    """Raises a UsageError where a newer version wrote the file at `path`; see `is_newer`."""
    if is_newer(stored, known):
        raise UsageError(
            f"{path} was written by a newer version of this program (format {stored['format']}; this one "
            f"reads {known}); update this checkout, or use another directory"
        )


def check(path: str | PathLike[str], stored: Any, known: int, problem: str) -> None:
    """Raises a UsageError where the file at `path` has none of the formats up to `known`.

    Args:
      path: the file.
      stored: the JSON that it holds, or None.
      known: the last format that this version knows.
      problem: what is said of a file that no version has written.
    """
    refuse_newer(path, stored, known)
    if not isinstance(stored, dict) or stored.get("format") not in range(1, known + 1):
        raise UsageError(problem)


def lanes(stored: Mapping[str, Any]) -> int:
    """Returns how many trials run in one program of what `study.json` or `group.json` holds."""
    return stored.get("packing", {"lanes": 1})["lanes"]
