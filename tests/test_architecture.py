"""The plan of the package: which part may import which, as docs/architecture.md says."""

import ast
from pathlib import Path

import pytest

from tests.small import ROOT

PACKAGE = ROOT / "playbook_jax"
# Each package imports from those before it and from the modules at the top, but not from those behind it.
LADDER = (
    "runtime",
    "tracking",
    "input",
    "training",
    "inference",
    "studies",
    "analysis",
    "procedures",
)
# What the modules at the top, which everybody may import, are made of.
BELOW_THE_TOP = {
    "batch_norm": {"runtime"},
    "checkpoints": {"runtime", "training"},
    "config": {"tracking"},
    "train": {"training"},
    "trial": {"tracking"},
    "workload": {"input", "tracking"},
}
NOT_FOR_ANALYSIS = {"runtime", "input", "training", "inference"}
# Modules that import each other in a circle. A part of a circle may leave this list, and none may join it.
CIRCLES = {
    frozenset({"input.tfrecord_errors", "input.tfrecords"}),
    frozenset({"studies.store.adoptions", "studies.store.ledger"}),
    frozenset({"analysis.findings", "analysis.reports.next_draft", "analysis.stats.decisions"}),
    frozenset({"analysis.reports.group_report", "analysis.reports.group_sections",
               "analysis.reports.report"}),
    frozenset({"analysis.findings.best_step", "analysis.findings.boundary",
               "analysis.findings.late_variance", "analysis.findings.retrain_noise"}),
    frozenset({"analysis.data.adoption", "analysis.data.failed", "analysis.data.groups",
               "analysis.data.retrain_noise", "analysis.data.study", "analysis.data.thresholds",
               "analysis.stats.isolation"}),
}  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(name: str) -> set[str]:
    """The modules of the package that a module imports, anywhere in it, for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [one if short(one) in MODULES else node.module for one in inner]
        else:
            continue
        found |= {short(one) for one in names if short(one) in MODULES}
    return found - {name, ""}


def short(module: str) -> str:
    return module.removeprefix("playbook_jax").removeprefix(".")


IMPORTS = {name: imports(name) for name in MODULES}


def rung(name: str) -> str:
    return name.partition(".")[0] if name.partition(".")[0] in LADDER else ""


@pytest.mark.parametrize("package", LADDER)
def test_imports_run_down_the_ladder(package):
    behind = LADDER[LADDER.index(package) + 1 :]
    for name in MODULES:
        if rung(name) == package:
            up = {other for other in IMPORTS[name] if rung(other) in behind}
            assert not up, f"{name} imports {up}"


def test_modules_at_the_top_import_what_is_listed_and_no_more():
    for name in MODULES:
        if not rung(name):
            assert {rung(other) for other in IMPORTS[name]} - {""} <= BELOW_THE_TOP.get(name, set())


def test_analysis_reads_files_and_imports_nothing_that_trains():
    for name in MODULES:
        if rung(name) == "analysis":
            assert not {rung(other) for other in IMPORTS[name]} & NOT_FOR_ANALYSIS, name


def test_no_new_circle_of_imports():
    for circle in circles():
        assert any(circle <= known for known in CIRCLES), sorted(circle)


def circles() -> list[frozenset[str]]:
    """The strongly connected parts of the graph of imports that have several modules."""
    reach = {name: reached(name) for name in MODULES}
    parts = {
        frozenset({name, *(other for other in reach[name] if name in reach[other])})
        for name in MODULES
    }
    return [part for part in parts if len(part) > 1]


def reached(name: str) -> set[str]:
    found, left = set(), [name]
    while left:
        new = IMPORTS[left.pop()] - found
        found |= new
        left += new
    return found


def test_the_hall_is_small_and_no_folder_is_a_crowd():
    assert len(list(PACKAGE.glob("*.py"))) <= 20
    for folder in {path.parent for path in MODULES.values()}:
        assert len(list(folder.glob("*.py"))) <= 30, folder
