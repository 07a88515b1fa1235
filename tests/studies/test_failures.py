"""Trials that fail: what a user is told of them, when, and what becomes of the others."""

import pytest

from playbook_jax import trial
from playbook_jax.tracking import raised
from tests.launched_study import Study
from tests.small import ROOT
from tests.studies.test_specification import RATE

SIZES = {"values": [[32], [13], [64]]}


def test_a_model_that_raises_is_named_at_once_with_its_trial_and_its_line(tmp_path):
    study = Study(tmp_path, fixed={"max_train_steps": 3, "model.hidden_sizes": [13]}, num_trials=2)
    code, output, errors = study.run()
    assert (code, output) == (1, "")
    assert errors.startswith("error: no trial can be run: trial 0 (hparams.learning_rate 0.001")
    assert "): TypeError: 13 units bring bad luck (" in errors
    line = next(
        number
        for number, text in enumerate(
            (ROOT / "tests/fake_train.py").read_text().split("\n"), start=1
        )
        if "bring bad luck" in text
    )
    assert f" bring bad luck (tests/fake_train.py:{line}, in validate); see {study.path}/" in errors
    assert errors.count("\n") == 1
    assert not (study.path / "study.json").exists()


def test_trials_whose_model_raises_are_failed_and_the_others_run(tmp_path):
    study = Study(
        tmp_path,
        num_trials=6,
        scientific={"model.hidden_sizes": SIZES},
        fixed={"max_train_steps": 3},
    )
    code, _, errors = study.run()
    assert code == 1
    rows = trial.read_json(study.path / "study.json")["trials"]
    for row, state in zip(rows, study.states(), strict=True):
        broken = row["parameters"]["model.hidden_sizes"] == [13]
        assert state == ("FAILED" if broken else "COMPLETE")
    reasons = [
        line.split(",")[2]
        for line in (study.path / "study.csv").read_text().splitlines()
        if ",FAILED," in line
    ]
    assert reasons
    assert all(text.strip('"').startswith("TypeError: 13 units bring bad") for text in reasons)
    assert study.doubts[0].startswith("warning: trial ")
    assert "FAILED: TypeError: 13 units bring bad luck (" in study.doubts[0]
    assert errors == "" or "FAILED" in errors  # the progress line counts them
    # The same command does not try them again, --retry_failed does, with the same end.
    assert study.run()[0] == 1
    assert study.run(retry_failed=True)[0] == 1
    assert all(len(study.attempts(number)) <= 1 for number in range(6))


def test_trials_that_begin_to_fail_alike_in_the_middle_end_the_study_early(tmp_path):
    study = Study(
        tmp_path,
        num_trials=12,
        fixed={"max_train_steps": 3, "notes": "fail_from=4"},
        nuisance={"hparams.learning_rate": RATE},
    )
    code, _, errors = study.run(workers=1)
    assert code == 1
    assert "error: 3 trials in a row FAILED alike, so the others wait: TypeError: traced " in errors
    assert "To go on with the others: scripts/launch_study.py" in errors
    assert (study.path / "study.csv").read_text().count(",FAILED,") == 3


@pytest.mark.parametrize(
    ("reasons", "alike"),
    [
        (["TypeError: at 1 (a/m.py:3, in f)", "TypeError: in jit of g (a/m.py:3, in f)"], True),
        (["TypeError: at 1 (a/m.py:3, in f)", "TypeError: at 1 (a/m.py:4, in f)"], False),
        (["TypeError: at 1 (a/m.py:3, in f)", "ValueError: at 1 (a/m.py:3, in f)"], False),
        (["ValueError: no 1", "ValueError: no 2"], True),
        (["ValueError: no 1", "ValueError: yes 1"], False),
    ],
)
def test_failures_are_compared_by_what_was_raised_and_where(reasons, alike):
    assert len({raised.cause(reason) for reason in reasons}) == (1 if alike else 2)


def test_an_error_in_a_library_is_described_by_the_users_line():
    try:
        __import__("json").loads("[")
    except ValueError as error:
        text = raised.describe(error)
    assert text.startswith("JSONDecodeError: Expecting value")
    assert "tests/studies/test_failures.py:" in text
    assert text.endswith("in test_an_error_in_a_library_is_described_by_the_users_line)")
