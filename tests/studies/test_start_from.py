"""A study that keeps the trials of another one."""

import csv
import json
import shutil

import pytest

from playbook_jax import trial
from playbook_jax.studies.store import ledger
from tests.launched_study import STEPS, Study
from tests.studies.test_specification import RATE

CONFIG = {"max_train_steps": STEPS, "notes": ""}
WIDER = {"hparams.learning_rate": RATE | {"low": 1e-2, "high": 10.0}}


@pytest.fixture
def old(tmp_path):
    study = Study(tmp_path / "old", fixed=CONFIG, num_trials=8)
    assert study.run()[0] == 0
    return study


def rows(study):
    return trial.read_json(study.path / "study.json")["trials"]


def test_old_trials_that_lie_in_the_new_space_are_kept_marked_and_never_run_again(tmp_path, old):
    inside = [row for row in rows(old) if row["parameters"]["hparams.learning_rate"] >= 1e-2]
    assert 2 <= len(inside) < 8
    new = Study(
        tmp_path / "new",
        fixed=CONFIG,
        nuisance=WIDER,
        num_trials=10,
        start_from=str(old.path),
    )
    code, output, errors = new.run()
    assert (code, errors) == (0, "")
    assert "10 trials, 10 COMPLETE" in output
    made = rows(new)
    count = len(inside)
    assert [row["parameters"] for row in made[:count]] == [row["parameters"] for row in inside]
    for row, before in zip(made, inside, strict=False):
        assert row["imported"] == {"study": str(old.path), "trial": before["trial"]}
        one, other = (
            study.path / "trials" / f"{r['trial']:03d}" / "status.json"
            for study, r in ((new, row), (old, before))
        )
        assert one.read_bytes() == other.read_bytes()
        assert new.attempts(row["trial"]) == old.attempts(before["trial"])  # of the old run alone
    fresh = made[count:]
    assert not any("imported" in row for row in fresh)
    points = [json.dumps(row["parameters"]) for row in made]
    assert len(set(points)) == 10

    with (new.path / "study.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [bool(row["imported"]) for row in table] == [True] * count + [False] * (10 - count)
    assert ledger.entry(ledger.read(new.path)).trials == f"10/10 ({count} imported)"

    # It goes on, and grows, when the old study is gone.
    shutil.rmtree(old.path)
    assert new.run()[0] == 0
    assert rows(new) == made
    new.change(fixed=CONFIG, nuisance=WIDER, num_trials=14, start_from=str(old.path))
    assert new.run()[0] == 0
    assert rows(new)[:10] == made
    assert new.states() == ["COMPLETE"] * 14
    assert len({json.dumps(row["parameters"]) for row in rows(new)}) == 14


def test_only_as_many_trials_are_kept_as_the_study_has(tmp_path, old):
    new = Study(tmp_path / "new", fixed=CONFIG, num_trials=3, start_from=str(old.path))
    assert new.run()[0] == 0
    assert ["imported" in row for row in rows(new)] == [True] * 3
    assert new.states() == ["COMPLETE"] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": "/no/study"}, "start_from: /no/study holds no study"),
        ({"objective": {"metric": "validation/error_rate", "mode": "min"}},
         "has the objective validation/loss (min), this study validation/error_rate (min)"),
        ({"fixed": CONFIG | {"batch_size": 32}},
         "could be one of this study's: trial 7 has batch_size = 128, where this study has 32"),
        ({"nuisance": {"hparams.learning_rate": RATE | {"low": 2.0, "high": 3.0}}},
         "outside of the space"),
        ({"vary_seed": True}, "start_from and vary_seed exclude each other"),
        ({"algorithm": "grid", "nuisance": {"hparams.learning_rate": {"values": [1, 2, 3, 4, 5, 6]}}},
         "start_from goes with shape 'joint', and algorithm 'halton'"),
        ({"start_from": 3}, "start_from must be the --workdir of another study; it is 3"),
    ],
)  # fmt: skip
def test_a_study_to_start_from_that_cannot_be_ends_with_one_line(tmp_path, old, changes, message):
    new = Study(tmp_path / "new", **{"fixed": CONFIG, "start_from": str(old.path)} | changes)
    code, _, errors = new.run()
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
