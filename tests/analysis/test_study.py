import json
import shutil

import numpy as np
import pytest

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import study as study_lib
from playbook_jax.errors import UsageError
from tests import synthetic_study as synthetic

RATE = "hparams.learning_rate"
TRUTH = synthetic.Truth(synthetic.bowl({RATE: 0.5}), infeasible=lambda units: units[RATE] > 0.85)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("study") / "s", TRUTH, num_trials=10)


@pytest.fixture
def directory(written, tmp_path):
    return shutil.copytree(written, tmp_path / "s")


def first(study, state):
    return study.of_state(state)[0].number


def change(directory, number, name, **values):
    path = directory / "trials" / f"{number:03d}" / name
    trial_lib.write_json(path, trial_lib.read_json(path) | values)


def test_reads_what_was_written(written):
    study = study_lib.load(written)
    stored = json.loads((written / "study.json").read_text())
    assert [t.parameters for t in study.trials] == [t["parameters"] for t in stored["trials"]]
    assert len(study.trials) == 10
    for trial in study.trials:
        status = json.loads((written / "trials" / f"{trial.number:03d}/status.json").read_text())
        assert (trial.state, trial.objective) == (status["state"], status["objective"])
        rows = trial_lib.read_json_lines(written / "trials" / f"{trial.number:03d}/metrics.jsonl")
        assert trial.evaluations["step"].tolist() == [row["step"] for row in rows]
    objectives = [t.objective for t in study.ranked]
    assert objectives == sorted(objectives)
    assert study.best is study.ranked[0]
    assert [h.name for h in study.hyperparameters] == list(synthetic.FOUR)
    assert study.base("hparams.end_factor") == 0
    assert study.base("hparams.nothing.at_all", 7) == 7
    assert study.value(study.trials[0], RATE) == study.trials[0].parameters[RATE]


def test_more_is_better_under_max(tmp_path):
    synthetic.write(tmp_path / "s", TRUTH, metric="validation/accuracy", mode="max", num_trials=8)
    study = study_lib.load(tmp_path / "s")
    objectives = [t.objective for t in study.ranked]
    assert objectives == sorted(objectives, reverse=True)
    assert study.costs(study.ranked) == pytest.approx(-np.array(objectives))


def test_ties_go_to_the_earlier_trial(directory):
    for number in range(10):
        if (study := study_lib.load(directory)).trials[number].objective is not None:
            change(directory, number, "status.json", objective=0.5)
    study = study_lib.load(directory)
    assert [t.number for t in study.ranked] == sorted(t.number for t in study.ranked)


def test_unfinished_trials(directory):
    complete = first(study_lib.load(directory), "COMPLETE")
    change(directory, complete, "status.json", state="RUNNING", best_step=None, objective=None)
    (directory / "trials" / f"{complete:03d}" / "summary.json").unlink()
    shutil.rmtree(directory / "trials" / "009")
    study = study_lib.load(directory)
    assert [t.number for t in study.unfinished] == sorted({complete, 9})
    assert study.trials[9].state == "PENDING"
    # Without a summary the evaluations come from the files that are being written.
    assert len(study.trials[complete].evaluations["step"]) == 20
    assert study.trials[complete].objective is None


def test_a_missing_summary_changes_nothing(directory):
    before = study_lib.load(directory)
    for path in directory.glob("trials/*/summary.json"):
        path.unlink()
    after = study_lib.load(directory)
    for old, new in zip(before.trials, after.trials, strict=True):
        assert old.objective == new.objective
        assert old.evaluations.keys() == new.evaluations.keys()
        for name in old.evaluations:
            np.testing.assert_array_equal(old.evaluations[name], new.evaluations[name])


def test_a_torn_last_line_is_left_out(directory):
    path = directory / "trials" / "000"
    (path / "summary.json").unlink()
    metrics = path / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text("\n".join([*lines[:5], lines[5][:20]]))
    records = (path / "steps.f32").read_bytes()
    (path / "steps.f32").write_bytes(records[: 20 * 7 + 3])
    assert study_lib.load(directory).trials[0].evaluations["step"].tolist() == [
        json.loads(line)["step"] for line in lines[:5]
    ]


def test_a_deleted_trial_is_known_from_the_table(directory):
    shutil.rmtree(directory / "trials" / "003")
    (directory / "study.csv").write_text("trial,state,objective\n3,COMPLETE,0.125\n²,x,y\n")
    trial = study_lib.load(directory).trials[3]
    assert trial.state == "MISSING"
    assert trial.reason == "its directory is gone; study.csv has it as COMPLETE with 0.125"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"state": "DONE"}, "is damaged"),
        ({"step": "many"}, "has a step that is no number"),
        ({"objective": None}, "says COMPLETE and has no objective"),
        ({"objective": "0.1"}, "says COMPLETE and has no objective"),
        ({"best_step": None}, "says COMPLETE and has no best step in its run"),
        ({"best_step": 10**30}, "says COMPLETE and has no best step in its run"),
    ],
)
def test_a_damaged_status_is_a_state(directory, values, reason):
    number = first(study_lib.load(directory), "COMPLETE")
    change(directory, number, "status.json", **values)
    study = study_lib.load(directory)
    assert study.trials[number].state == "UNREADABLE"
    assert study.trials[number].reason == f"status.json {reason}"
    assert study.trials[number] not in study.ranked


@pytest.mark.parametrize("text", ["", '{"state": "COMP', "\x00\xff", "[]"])
def test_a_torn_status_is_a_state(directory, text):
    (directory / "trials" / "000" / "status.json").write_text(text)
    assert study_lib.load(directory).trials[0].state == "UNREADABLE"


@pytest.mark.parametrize(
    "evaluations",
    [None, [], "x", {}, {"step": []}, {"step": [None, 2]}, {"step": "x"}, {"loss": [1]}],
)
def test_evaluations_that_cannot_be_used_are_none(directory, evaluations):
    change(directory, 0, "summary.json", evaluations=evaluations)
    assert study_lib.load(directory).trials[0].evaluations == {}


def test_evaluations_keep_what_can_be_used(directory):
    stored = {"step": [1, 2], "a": [None, 3], "b": [1], "c": ["x", "y"], "d": 5}
    change(directory, 0, "summary.json", evaluations=stored)
    evaluations = study_lib.load(directory).trials[0].evaluations
    assert evaluations.keys() == {"step", "a"}
    assert np.isnan(evaluations["a"][0])


@pytest.mark.parametrize(
    ("first", "last", "unlearned"),
    [
        (2.3, 2.2, True),
        (2.3, 2.0, False),
        (2.3, 2.071, True),  # 0.9 times 2.3 is 2.07
        (2.3, 2.069, False),
        (None, 2.2, False),
        (2.3, None, False),
        (-1.0, -1.0, False),  # a tenth of what is below 0 means nothing
    ],
)
def test_a_loss_that_ends_where_it_began(directory, first, last, unlearned):
    before = study_lib.load(directory)
    complete, infeasible = (before.of_state(s)[0].number for s in ("COMPLETE", "INFEASIBLE"))
    for number in (complete, infeasible):
        change(directory, number, "summary.json", initial_loss=first, curves={"loss": [5, last]})
    study = study_lib.load(directory)
    assert study.trials[complete].unlearned == unlearned
    assert study.trials[complete].reason == (
        "the training loss ended about where it began" if unlearned else ""
    )
    assert not study.trials[infeasible].unlearned
    assert study.trials[infeasible].reason.startswith("the loss is not finite")
    assert (study.trials[complete] in study.failures) == unlearned
    assert (study.trials[complete] in study.learned) != unlearned
    assert study.trials[complete] in study.ranked
    assert study.trials[infeasible] in study.failures


def test_conditional_hyperparameters_are_where_they_exist(directory):
    stored = json.loads((directory / "study.json").read_text())
    for row in stored["trials"][::2]:
        del row["parameters"]["hparams.momentum"]
    (directory / "study.json").write_text(json.dumps(stored))
    study = study_lib.load(directory)
    assert ["hparams.momentum" in t.parameters for t in study.trials] == [False, True] * 5


def test_where_there_is_no_study(tmp_path):
    with pytest.raises(UsageError, match="does not exist; give the --workdir"):
        study_lib.load(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"holds no study: it has no study\.json"):
        study_lib.load(tmp_path)


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "[]",
        "{}",
        '{"specification": {}, "trials": []}',
        '{"specification": {"objective": {"metric": 3, "mode": "min"}}, "trials": []}',
        '{"specification": {"objective": {"metric": "x", "mode": "best"}}, "trials": []}',
        '{"specification": {"objective": {"metric": "x", "mode": "min"}, "nuisance": 3}, "trials": []}',
        '{"specification": {"objective": {"metric": "x", "mode": "min"}, "fixed": 3}, "trials": []}',
        '{"specification": {"objective": {"metric": "x", "mode": "min"}}, "trials": [{"trial": 0}]}',
    ],
)
def test_a_damaged_study_is_told_in_one_line(tmp_path, stored):
    (tmp_path / "study.json").write_text(stored)
    with pytest.raises(UsageError, match=r"study\.json is damaged") as caught:
        study_lib.load(tmp_path)
    assert "\n" not in str(caught.value)
