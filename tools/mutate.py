#!/usr/bin/env python3
"""Breaks what each row of the playbook's table claims, one by one, and sees whether its tests notice.

    tools/mutate.py                          all rows, before a release; two hours on two cores
    tools/mutate.py --rows=adam-rule,study   some of them

mutants.toml holds a small mutant for each row that has behaviour. The tests that must fail are those with the
row's marker. All is done in a copy of the tree. The marked tests of the rows are run unbroken first, since a
test that fails anyway notices nothing.

Exits with 1 if a mutant survives, or its old text is not found exactly once.
"""

import dataclasses
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import flags

from playbook_jax import playbook
from playbook_jax.errors import UsageError, unknown
from playbook_jax.runtime import command_line
from tools import generate_docs

PATH = Path(__file__).with_name("mutants.toml")
CAUGHT, SURVIVED, BROKEN, NOT_FOUND = "caught", "survived", "broken", "not found"
_NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "runs")
_NOT_MUTATED = {"tests", "tools", "docs", ".venv", ".git"}
# pytest's exit codes: tests failed; a collection that failed, say, is a mutant that does not even import.
_PASSED, _FAILED = 0, 1

FLAGS = flags.FLAGS
flags.DEFINE_list("rows", [], "The ids of the rows to go through; all if empty.")
flags.DEFINE_integer("row_seconds", 1_200, "Seconds that the tests of one row may take.", 1)
flags.DEFINE_bool("unbroken", True, "Whether to run the tests without a mutant first.")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A small change that breaks what a row claims.

    Attributes:
      row: the row's id.
      file: the end of a file's path that no other file has, "schedules.py" or "findings/isolation.py".
      old: a text that stands in it exactly once.
      new: what takes its place.
    """

    row: str
    file: str
    old: str
    new: str


def load() -> tuple[list[Mutant], dict[str, str]]:
    """Returns the mutants, and of rows without behaviour why they have none."""
    with PATH.open("rb") as file:
        values = tomllib.load(file)
    return [Mutant(**row) for row in values["mutant"]], values["without_behaviour"]


def find(root: Path, name: str) -> list[Path]:
    """Returns the files below `root`, tests aside, whose path ends so."""
    parts = tuple(name.split("/"))
    tops = [top for top in root.iterdir() if top.is_dir() and top.name not in _NOT_MUTATED]
    found = [path for top in tops for path in top.rglob(parts[-1])]
    return [path for path in found if path.parts[-len(parts) :] == parts]


def problem(root: Path, mutant: Mutant) -> str:
    """Returns why a mutant cannot be made, or an empty text."""
    found = find(root, mutant.file)
    if len(found) != 1:
        return f"{len(found)} files are named {mutant.file}"
    count = found[0].read_text().count(mutant.old)
    return "" if count == 1 else f"the old text stands {count} times in {mutant.file}"


def tests_of(row: str) -> list[str]:
    """Returns the tests with a row's marker, as pytest takes them."""
    return [f"{test.file}::{test.name.replace('.', '::')}" for test in _marked() if row in test.ids]


@functools.cache
def _marked() -> list[generate_docs.MarkedTest]:
    return generate_docs.marked_tests(ROOT / "tests")


def run_tests(root: Path, tests: Sequence[str], time_limit: float) -> tuple[int, str]:
    """Returns pytest's exit code and output; that of failed tests where they take too long."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, timeout=time_limit, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        return _FAILED, "took too long"
    return done.returncode, done.stdout + done.stderr


def judge(root: Path, mutant: Mutant, time_limit: float) -> tuple[str, str]:
    """Returns what became of a mutant in the copy at `root`, which is whole again afterwards, and why."""
    if why := problem(root, mutant):
        return NOT_FOUND, why
    (path,) = find(root, mutant.file)
    whole = path.read_text()
    path.write_text(whole.replace(mutant.old, mutant.new))
    try:
        code, output = run_tests(root, tests_of(mutant.row), time_limit)
    finally:
        path.write_text(whole)
    verdict = {_PASSED: SURVIVED, _FAILED: CAUGHT}.get(code, BROKEN)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
    return verdict, failed[0] if failed else output.strip().rpartition("\n")[2]


def chosen(mutants: Sequence[Mutant], ids: Sequence[str]) -> list[Mutant]:
    """Returns the mutants of these rows, of all if there are none.

    Raises:
      UsageError: a row has no mutant.
    """
    known = {mutant.row: mutant for mutant in mutants}
    for row in ids:
        playbook.row(row)
        if row not in known:
            raise unknown("row with a mutant", row, known)
    return [known[row] for row in ids or known]


def main(argv: Sequence[str]) -> int:
    """Prints a line a row, and returns the exit code."""
    if len(argv) > 1:
        raise UsageError(f"unexpected argument {argv[1]!r}; see --help")
    mutants = chosen(load()[0], FLAGS.rows)
    with tempfile.TemporaryDirectory(prefix="mutate-") as directory:
        root = Path(directory) / "tree"
        shutil.copytree(ROOT, root, ignore=_NOT_COPIED)
        if FLAGS.unbroken:
            tests = list(dict.fromkeys(test for m in mutants for test in tests_of(m.row)))
            code, output = run_tests(root, tests, FLAGS.row_seconds * len(mutants))
            if code != _PASSED:
                print(output[-4_000:])
                print("These tests fail without a mutant too.", file=sys.stderr)
                return 1
        counts = dict.fromkeys((CAUGHT, SURVIVED, BROKEN, NOT_FOUND), 0)
        for mutant in mutants:
            verdict, why = judge(root, mutant, FLAGS.row_seconds)
            counts[verdict] += 1
            print(f"{verdict:<10}{mutant.row:<40}{why}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    return 0 if counts[CAUGHT] == len(mutants) else 1


if __name__ == "__main__":
    command_line.run(main)
