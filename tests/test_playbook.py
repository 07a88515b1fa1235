"""The playbook's table says what is true: its symbols, commands and tests exist."""

import ast
import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from playbook_jax import config as config_lib, playbook
from playbook_jax.errors import UsageError
from tools import generate_docs

ROOT = Path(__file__).parent.parent
BOOK = playbook.load()
TESTS = generate_docs.marked_tests(ROOT / "tests")
SHOWN = {playbook_id for test in TESTS for playbook_id in test.ids}


def by_id(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.id)


DONE = by_id([row for row in BOOK.rows if row.status == playbook.DONE])


def test_pages_are_fresh():
    stale = generate_docs.stale(generate_docs.pages())
    assert not stale, "run tools/generate_docs.py"


def test_ids_are_unique_and_kebab_case():
    ids = [row.id for row in BOOK.rows]
    assert len(ids) == len(set(ids))
    assert not [i for i in ids if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", i)]


def test_rows_are_in_the_order_of_the_text():
    lines = [row.lines[0] for row in BOOK.rows]
    assert lines == sorted(lines)
    titles = [section.title for section in BOOK.sections]
    assert len(titles) == len(set(titles))


@by_id(BOOK.rows)
def test_row_is_whole(row):
    assert row.prescription.endswith(".")
    assert row.lines == tuple(sorted(set(row.lines)))
    assert row.status in playbook.STATUSES
    # A declined row owes its reason, a done one the place where it lives.
    assert bool(row.reason) == (row.status == playbook.DECLINED)
    assert bool(row.symbol) == (row.status == playbook.DONE)


@DONE
def test_symbol_exists(row):
    if row.symbol.startswith("config."):
        config = config_lib.complete(config_lib.load(ROOT / "configs" / "digits_mlp.py"))
        keys = config_lib.flatten(config)
        path = row.symbol.removeprefix("config.")
        assert path in keys or any(key.startswith(f"{path}.") for key in keys)
    elif ":" in row.symbol:
        module, name = row.symbol.split(":")
        assert hasattr(importlib.import_module(module), name)
    else:
        assert (ROOT / row.symbol).is_file()


@by_id([row for row in BOOK.rows if row.command])
def test_command_can_be_typed(row):
    script, *arguments = shlex.split(row.command)
    assert_flags_exist(script, arguments)


def assert_flags_exist(script, arguments):
    path = ROOT / script
    assert path.is_file(), script
    flags = defined_flags(path)
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        if name == "config":
            flags = flags | config_flags(value)
        assert name in flags, f"{script} has no --{name}"


def defined_flags(path):
    """The flags that a script defines, and `config` where it asks for that one."""
    flags = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "").startswith("DEFINE_"):
            flags.add(node.args[0].value)
        elif isinstance(node, ast.keyword) and node.arg == "config_flag":
            flags.add("config")
    return flags


def config_flags(path):
    """The keys of a config file, as flags; of a file that a study leaves, those of its base."""
    path = ROOT / path if (ROOT / path).exists() else ROOT / "configs" / "digits_mlp.py"
    return {f"config.{key}" for key in config_lib.flatten(config_lib.load_python(path))}


def test_a_command_with_a_misspelt_flag_or_script_is_noticed():
    good = ["--config=configs/digits_mlp.py", "--workdir=/tmp/x", "--config.hparams.momentum=0.5"]
    assert_flags_exist("scripts/train.py", good)
    for script, bad in [
        ("scripts/train.py", ["--workdirs=/tmp/x"]),
        ("scripts/train.py", ["--config=configs/digits_mlp.py", "--config.hparams.momentun=0.5"]),
        ("scripts/trane.py", []),
    ]:
        with pytest.raises(AssertionError):
            assert_flags_exist(script, bad)


@DONE
def test_done_row_is_shown_by_a_test(row):
    assert row.id in SHOWN, f"no test has @pytest.mark.playbook({row.id!r})"


@pytest.mark.parametrize("test", TESTS, ids=lambda test: f"{Path(test.file).stem}::{test.name}")
def test_marker_names_rows_and_its_test_runs(test):
    for playbook_id in test.ids:
        playbook.row(playbook_id)
    assert not test.skipped_by


def test_no_option_of_pytest_deselects_tests():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    for argument in shlex.split(options["addopts"]):
        assert not re.match(r"-k|-m|--(deselect|ignore)", argument)
    assert "python_functions" not in options
    assert "python_files" not in options


def test_markers_and_skips_are_found_wherever_they_stand(tmp_path):
    file = tmp_path / "tests" / "test_x.py"
    file.parent.mkdir()
    file.write_text(
        "import pytest\n"
        '@pytest.mark.playbook("a", "b")\n'
        "def test_plain(): pass\n"
        '@pytest.mark.playbook("c")\n'
        "class TestIt:\n"
        "    def test_in_class(self): pass\n"
        "    @pytest.mark.skipif(True, reason='')\n"
        "    def test_skipped(self): pass\n"
        '@pytest.mark.playbook("d")\n'
        "def test_gives_up(): pytest.skip('')\n"
        "def test_unmarked(): pass\n"
    )
    found = generate_docs.marked_tests(file.parent)
    assert [(t.name, t.ids, t.skipped_by) for t in found] == [
        ("test_plain", ("a", "b"), ""),
        ("TestIt.test_in_class", ("c",), ""),
        ("TestIt.test_skipped", ("c",), "skipif"),
        ("test_gives_up", ("d",), "skip"),
    ]
    file.write_text("import pytest\npytestmark = [pytest.mark.playbook('e'), pytest.mark.xfail]\n")
    file.write_text(file.read_text() + "def test_whole_file(): pass\n")
    (test,) = generate_docs.marked_tests(file.parent)
    assert (test.ids, test.skipped_by, test.file) == (("e",), "xfail", "tests/test_x.py")
    file.write_text(
        "import pytest\n"
        "MARK = pytest.mark.playbook('f')\n"
        "CASES = [pytest.param(1, marks=pytest.mark.playbook('g'))]\n"
        "@MARK\n"
        "def test_by_name(): pass\n"
        "@pytest.mark.parametrize('x', CASES)\n"
        "def test_of_a_case(x): pass\n"
        "def test_of_neither(): pass\n"
    )
    found = generate_docs.marked_tests(file.parent)
    assert [(t.name, t.ids) for t in found] == [
        ("test_by_name", ("f",)),
        ("test_of_a_case", ("g",)),
    ]


def test_an_unknown_row_names_the_nearest():
    with pytest.raises(UsageError, match="adam-rule"):
        playbook.row("adam-rul")


def test_anchors_are_those_of_github():
    # As the playbook's own table of contents links to them.
    assert playbook.anchor("Deciding how long to train when training is *not* compute-bound") == (
        "deciding-how-long-to-train-when-training-is-not-compute-bound"
    )
    assert playbook.anchor("How should Adam’s hyperparameters be tuned?") == (
        "how-should-adams-hyperparameters-be-tuned"
    )
