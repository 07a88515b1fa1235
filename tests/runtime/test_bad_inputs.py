"""The tool that throws bad inputs: what it calls bad, and a few of its cases."""

import collections
import subprocess
import sys

import pytest

from playbook_jax.errors import UsageError
from tools import bad_input_cases, bad_inputs
from tools.bad_input_cases import FINE, REFUSED, TOLD, Case

CASE = Case("flags", "--x=1", "train", (), REFUSED)


@pytest.fixture
def study(tmp_path):
    """As much of a study as cases are made from."""
    trial = tmp_path / "study" / "trials" / "001"
    trial.mkdir(parents=True)
    (tmp_path / "study" / "study.json").write_text('{"format": 1, "trials": []}')
    (trial / "status.json").write_text('{"state": "COMPLETE", "step": 3}')
    (trial / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    (trial / "steps.f32").write_bytes(bytes(range(100)))
    return tmp_path / "study"


def test_there_are_some_hundred_cases_of_every_kind_with_titles_of_their_own(study):
    cases = bad_input_cases.every(study)
    kinds = collections.Counter(case.kind for case in cases)
    assert set(kinds) == {
        "flags",
        "config",
        "study config",
        "stored",
        "streams",
        "locales",
        "rights",
    }
    assert len(cases) > 400
    assert min(kinds.values()) >= 10
    assert {case.command for case in cases} == set(bad_input_cases.COMMANDS)


def test_every_damage_changes_its_file(study):
    for file in [study / "study.json", *(study / "trials" / "001").iterdir()]:
        whole = file.read_bytes()
        for name, damage in bad_input_cases._damages(file):
            damage(file)
            assert file.is_dir() or file.read_bytes() != whole, (file.name, name)
            if file.is_dir():
                file.rmdir()
            file.write_bytes(whole)


@pytest.mark.parametrize(
    ("codes", "code", "said", "made", "verdict"),
    [
        (REFUSED, 2, "error: no", [], bad_inputs.GOOD),
        (REFUSED, 2, "Traceback (most recent call last):\n", [], "traceback"),
        (REFUSED, 0, "", [], "exit 0"),
        (REFUSED, 1, "", [], "exit 1"),
        (REFUSED, -11, "", [], "exit -11"),
        (REFUSED, 2, "error: no", ["new", "new/config.json"], "half made"),
        (TOLD, 1, "error: no", ["study/.report.html.part"], "half made"),
        (FINE, 0, "", ["new", "new/config.json", ".cache"], bad_inputs.GOOD),
    ],
)
def test_what_is_bad_about_an_end(codes, code, said, made, verdict):
    case = Case("flags", "--x=1", "train", (), codes)
    assert bad_inputs.judge(case, code, said, made) == verdict


def test_a_sample_has_all_kinds_and_only_what_is_asked_for(study):
    cases = bad_input_cases.every(study)
    sample = bad_inputs.chosen(cases, "", 14)
    assert len(sample) == 14
    assert set(collections.Counter(case.kind for case in sample).values()) == {2}
    assert {case.kind for case in bad_inputs.chosen(cases, "stored: ", 5)} == {"stored"}
    with pytest.raises(UsageError, match="no case has 'nothing'"):
        bad_inputs.chosen(cases, "nothing", 0)


def test_the_table_counts_by_kind_and_names_what_is_bad():
    ends = [
        bad_inputs.Outcome(CASE, bad_inputs.GOOD, 2, "error: no"),
        bad_inputs.Outcome(CASE, "traceback", 1, "KeyError: 'é\udcff'"),
    ]
    lines = bad_inputs.table(ends).splitlines()
    assert lines[1].split() == ["flags", "2", "1", "1", "traceback"]
    assert len(lines) == 2
    assert bad_inputs.line(ends[1]) == "traceback: flags: train: --x=1: KeyError: '\\xe9\\udcff'"


def test_unknown_flags_end_well_in_every_command():
    command = [sys.executable, bad_inputs.ROOT / "tools" / "bad_inputs.py"]
    command += ["--only=an unknown flag", "--sample=8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1].split() == ["flags", "8", "8"]
