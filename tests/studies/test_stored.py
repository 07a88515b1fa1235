"""What a disk, or somebody, has done to the files of a study is told in a row or in a line."""

import csv
import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.reports import index
from playbook_jax.errors import UsageError
from playbook_jax.studies import conclusion
from playbook_jax.studies.space import listed_trials, search_space
from playbook_jax.studies.store import adoptions, ledger
from playbook_jax.tracking import csv_cells
from tests import small, synthetic_study
from tests.launched_study import Study
from tests.studies.test_specification import RATE

TRUTH = synthetic_study.Truth(cost=synthetic_study.bowl({"hparams.learning_rate": 0.5}))
DAMAGES = [
    ("study.json", "[1]", "it holds no JSON object"),
    ("study.json", '{"specification": {', "it holds no JSON object"),
    ("study.json", '{"specification": [], "trials": []}', "it has no specification"),
    ("study.json", '{"specification": {"name": 3}, "trials": []}', "specification.name is no text"),
    ("trials/000/status.json", "[1]", ""),
    ("trials/000/status.json", '{"state": "COMPLETE", "objective": "0.1"}', ""),
    ("trials/000/provenance.json", "[1]", ""),
    ("trials/000/provenance.json", '{"command": [1], "commit": 2}', ""),
    ("launches.json", '{"launches": [1]}', ""),
    ("launches.json", '{"launches": {"a": 1}}', ""),
]


@pytest.fixture
def root(tmp_path):
    for name in ("a", "b"):
        synthetic_study.write(tmp_path / name, TRUTH, num_trials=4)
    return tmp_path


@pytest.mark.parametrize(("name", "text", "problem"), DAMAGES)
def test_a_damaged_study_is_a_row_beside_the_others(root, capsys, name, text, problem):
    (root / "a" / name).write_text(text)
    conclusion.write_ledger(root / "b")  # as at the end of a launch
    assert capsys.readouterr().err == ""
    with (root / "ledger.csv").open() as file:
        a, b = csv.DictReader(file)
    assert b["trials"] == "4/4"
    assert problem in a["notes"]
    assert a["trials"] == ("0/0" if problem else "3/4" if "status" in name else "4/4")
    page = (root / "index.html").read_text()
    assert ("cannot be read" in page) == bool(problem)
    if problem:
        assert a["study"] == "a"
        with pytest.raises(UsageError, match=re.escape(problem)):
            ledger.read(root / "a")


def test_the_list_of_studies_says_what_cannot_be_read_and_which_trials_failed(root):
    (root / "a/study.json").write_text("[1]")
    for number in range(3):
        failed = trial_lib.new_status(trial_lib.FAILED, "ValueError: no such thing")
        trial_lib.write_json(root / f"b/trials/{number:03d}/status.json", failed)
    command = [sys.executable, small.ROOT / "scripts/studies.py"]
    listed = subprocess.run(
        [*command, f"--root={root}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert listed[0].split() == ["study", "trials", "infeasible", "failed", "best", "directory"]
    assert listed[1].split() == ["a", "0/0", "0", "0", str(root / "a")]
    assert listed[2].split()[-6:-3] == ["4/4", "0", "3"]
    assert listed[3].startswith(f"Cannot be read: {root / 'a/study.json'} is damaged (")
    shown = subprocess.run(
        [*command, f"--study={root / 'b'}"], capture_output=True, text=True, check=True
    ).stdout
    assert "4/4 trials at their end, 0 infeasible, 3 failed; " in shown
    assert ">failed<" in index.render(root, ledger.find(root))


def test_a_launch_beside_a_damaged_study_ends_well(tmp_path):
    synthetic_study.write(tmp_path / "other", TRUTH, num_trials=2)
    (tmp_path / "other/trials/000/status.json").write_text("[1]")
    study = Study(tmp_path, num_trials=1)
    code, _, errors = study.run()
    assert (code, errors) == (0, "")
    with (tmp_path / "ledger.csv").open() as file:
        assert [row["trials"] for row in csv.DictReader(file)] == ["1/2", "1/1"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: [1],
        lambda stored: stored | {"trials": {"a": 1}},
        lambda stored: stored | {"trials": [{"trial": "0", "parameters": {}}]},
        lambda stored: stored | {"specification": 3},
        lambda stored: stored | {"specification": {**stored["specification"], "base_config": [1]}},
        lambda stored: stored | {"format": 2, "packing": [8]},
    ],
)
def test_a_damaged_study_is_not_gone_on_with(tmp_path, damage):
    study = Study(tmp_path, num_trials=1)
    assert study.run()[0] == 0
    path = study.path / "study.json"
    trial_lib.write_json(path, damage(trial_lib.read_json(path)))
    before = path.read_bytes()
    code, output, errors = study.run()
    assert (code, output) == (2, "")
    assert errors.startswith(f"error: {path} ")
    assert errors.count("\n") == 1
    assert path.read_bytes() == before


def test_a_damaged_list_of_launches_counts_as_none(tmp_path):
    for launch in (1, {"time": 3, "trial": 0, "parameters": {}, "metric": "m", "objective": 1.0}):
        stored = {"format": 1, "launches": [launch]}
        (tmp_path / adoptions.FILE_NAME).write_text(json.dumps(stored))
        assert adoptions.read(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["=1+1", "+a", "-a", "@a", "\ta", "\ra", "'=a", "''=a", "-0.5", "+1e3"]
)
def test_a_text_that_looks_like_a_formula_is_none_and_is_read_back(text):
    assert csv_cells.guarded(text) == f"'{text}"
    assert csv_cells.read(csv_cells.guarded(text)) == text


@pytest.mark.parametrize("value", [-0.5, 3, None, "a=b", "'a'", "", "'"])
def test_other_cells_stay_as_they_are(value):
    assert csv_cells.guarded(value) == value
    assert csv_cells.read(str(value)) == str(value)


def test_no_table_of_a_study_has_formulas(tmp_path):
    study = Study(
        tmp_path,
        num_trials=1,
        name="=cmd|' /C calc'!A0",
        goal="+1",
        nuisance={"workload": {"values": ["=1+1", "@a"]}, "hparams.learning_rate": RATE},
    )
    assert study.run()[0] == 0
    (row,) = pd.read_csv(study.path / "study.csv").to_dict("records")
    value = trial_lib.load(study.path / "trials/000").config["workload"]
    assert row["workload"] == f"'{value}"
    spaces = {"workload": search_space.Values(("=1+1", "@a"))}
    points = tmp_path / "points.csv"
    pd.DataFrame([row])[["workload"]].to_csv(points, index=False)
    assert listed_trials.check(listed_trials.rows("points.csv", tmp_path / "x.py"), spaces) == [
        {"workload": value}
    ]
    (row,) = pd.read_csv(tmp_path / "ledger.csv").to_dict("records")
    assert (row["study"], row["notes"]) == ("'=cmd|' /C calc'!A0", "'+1")
