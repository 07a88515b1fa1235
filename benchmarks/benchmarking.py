"""What the benchmark scripts share: paired timings, fresh processes, and how a ratio is shown.

Everything is a ratio of things measured in turn within one run, in alternating order, with medians and
the range; absolute times depend on the machine and on whatever else it does. Lower is better.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax.errors import unknown

ROOT = Path(__file__).resolve().parent.parent


def say_where() -> None:
    """Prints on what the measurements are made."""
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{cores} cores{load}; ratios are medians of paired runs in alternating order")


def run_sections(names: Sequence[str], sections: Mapping[str, Callable[[], None]]) -> None:
    """Runs the sections with these names, having said where.

    Raises:
      UsageError: there is none of a name; nothing was run.
    """
    for name in names:
        if name not in sections:
            raise unknown("section", name, sections)
    say_where()
    for name in names:
        sections[name]()


def measured(function: Callable[[], Any]) -> float:
    """Returns the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def paired(
    ours: Callable[[], float], theirs: Callable[[], float], rounds: int
) -> list[tuple[float, float]]:
    """Returns the seconds of both in each round; they take turns at going first."""
    pairs = []
    for turn in range(rounds):
        first, second = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        seconds = first(), second()
        pairs.append(seconds if turn % 2 == 0 else seconds[::-1])
    return pairs


def show(what: str, pairs: list[tuple[float, float]], goal: str, factor: float = 1.0) -> None:
    """Prints the median ratio ours / (theirs · factor), with its range, and both medians."""
    ratios = sorted(ours / (theirs * factor) for ours, theirs in pairs)
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"  {what:<58} {number(statistics.median(ratios))}  "
        f"({number(ratios[0])} to {number(ratios[-1])}; "
        f"{duration(ours)} against {duration(theirs * factor)}; {goal})"
    )


def number(ratio: float) -> str:
    """Returns a ratio as it is shown."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"1/{1 / ratio:.0f}"


def duration(seconds: float) -> str:
    """Returns a time as it is shown."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def script(name: str, *arguments: Any, environment: dict[str, str] | None = None) -> str:
    """Runs one of our scripts in a fresh process and returns what it prints."""
    return fresh([str(ROOT / "scripts" / name), *map(str, arguments)], environment or {})


def fresh(arguments: list[str], environment: dict[str, str]) -> str:
    """Runs Python in a fresh process; it keeps its .pyc files, as it does on a user's machine."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [sys.executable, *arguments],
        env=environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"{arguments} ended with {result.returncode}:\n{result.stderr[-2000:]}")
    return result.stdout
