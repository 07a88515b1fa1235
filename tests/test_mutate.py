"""The mutants: one for each row of the playbook's table, and the tool that tries them."""

import subprocess
import sys

import pytest

from playbook_jax import playbook
from playbook_jax.errors import UsageError
from tools import mutate

MUTANTS, WITHOUT_BEHAVIOUR = mutate.load()
MUTANT = mutate.Mutant("study", "tool/x.py", "return 1", "return 2")


def test_every_row_with_behaviour_has_one_mutant():
    rows = sorted([mutant.row for mutant in MUTANTS] + list(WITHOUT_BEHAVIOUR))
    assert rows == sorted(row.id for row in playbook.load().rows)
    assert all(WITHOUT_BEHAVIOUR.values())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.row)
def test_a_mutant_changes_a_text_that_stands_in_one_place(mutant):
    assert mutate.problem(mutate.ROOT, mutant) == ""
    assert mutant.old != mutant.new
    assert mutate.tests_of(mutant.row)
    (path,) = mutate.find(mutate.ROOT, mutant.file)
    if path.suffix == ".py":
        compile(path.read_text().replace(mutant.old, mutant.new), str(path), "exec")


@pytest.fixture
def tree(tmp_path):
    """A tree with one function and a test of it that is not as good as it seems."""
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "x.py").write_text("def f():\n    return 1\n")
    (tmp_path / "tests").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        ("assert x.f() == 1", mutate.CAUGHT),
        ("assert x.f()", mutate.SURVIVED),
        ("assert x.f(), (", mutate.BROKEN),
    ],
)
def test_what_no_test_notices_survives(tree, monkeypatch, test, verdict):
    file = tree / "tests" / "test_x.py"
    file.write_text(f"from tool import x\n\n\ndef test_f():\n    {test}\n")
    monkeypatch.setattr(mutate, "tests_of", lambda row: ["tests/test_x.py"])
    assert mutate.judge(tree, MUTANT, 60)[0] == verdict
    assert (tree / "tool" / "x.py").read_text() == "def f():\n    return 1\n"


def test_an_old_text_that_is_gone_or_stands_twice_is_told(tree):
    (tree / "tool" / "x.py").write_text("return 1 return 1")
    assert mutate.judge(tree, MUTANT, 60) == (
        mutate.NOT_FOUND,
        "the old text stands 2 times in tool/x.py",
    )
    (tree / "tool" / "x.py").unlink()
    assert mutate.judge(tree, MUTANT, 60) == (mutate.NOT_FOUND, "0 files are named tool/x.py")


def test_rows_are_chosen_by_their_ids():
    (chosen,) = mutate.chosen(MUTANTS, ["adam-rule"])
    assert chosen.row == "adam-rule"
    assert len(mutate.chosen(MUTANTS, [])) == len(MUTANTS)
    with pytest.raises(UsageError, match="adam-rule"):
        mutate.chosen(MUTANTS, ["adam-rul"])
    command = [sys.executable, mutate.ROOT / "tools" / "mutate.py", "--rows=adam-rul"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
