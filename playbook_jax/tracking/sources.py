"""The user's own Python files that a run is made of: its workload and its configs, with their text.

A trial's provenance holds them, wherever they lie and whether git knows them or not. What was read when the
process read it counts, and not what the file holds by now.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

WORKLOAD, CONFIG = "workload", "config"

Source = dict[str, str]  # {"kind": "workload", "path": "/home/me/workloads/mine.py", "text": "…"}

_read: dict[tuple[str, str], str] = {}  # by kind and path


def note(kind: str, path: str | Path, text: str) -> None:
    """Notes that this process has read a file."""
    _read[kind, str(Path(path).absolute())] = text


def add(sources: Iterable[Source]) -> None:
    """Notes what another process has read on behalf of this one."""
    for source in sources:
        note(**source)


def forget_configs() -> None:
    """Forgets the configs that were read, for what follows has nothing to do with them."""
    for key in [key for key in _read if key[0] == CONFIG]:
        del _read[key]


def known() -> list[Source]:
    """Returns what this process has read, in the order of their kinds and paths."""
    return [
        {"kind": kind, "path": path, "text": text} for (kind, path), text in sorted(_read.items())
    ]


def of(provenance: Any, kind: str) -> list[Source]:
    """Returns the files of a kind that a provenance holds; those that are no such thing are left out."""
    stored = provenance.get("sources") if isinstance(provenance, Mapping) else None
    return [
        source
        for source in (stored if isinstance(stored, list) else [])
        if isinstance(source, Mapping)
        and source.get("kind") == kind
        and all(isinstance(source.get(part), str) for part in ("path", "text"))
    ]


def text_now(source: Source) -> str:
    """Returns what a file holds by now; what it held then where it is gone."""
    try:
        return Path(source["path"]).read_text(errors="replace")
    except OSError:
        return source["text"]


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a line for each workload file whose text is not the same in two provenances.

    Files are known by their names, for a checkout may lie elsewhere by now.
    """
    old, new = (
        {Path(s["path"]).name: s for s in of(provenance, WORKLOAD)} for provenance in (then, now)
    )
    return [
        f"the text of {source['path']}"
        for name, source in new.items()
        if name in old and old[name]["text"] != source["text"]
    ]


def warn(then: Mapping[str, Any], now: Mapping[str, Any], of_what: str) -> None:
    """Says on standard error which workload files are not what `of_what`, "the trial", was run with."""
    for line in changes(then, now):
        print(f"warning: {line} is not what {of_what} was run with", file=sys.stderr)
