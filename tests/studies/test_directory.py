import csv
import dataclasses
import json
import multiprocessing

import pytest

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import lock
from playbook_jax.studies import launcher, specification
from playbook_jax.studies.store import best_config, directory
from playbook_jax.studies.store.directory import StudyDirectory
from tests.studies.test_specification import RATE, write


@pytest.fixture
def spec(tmp_path):
    return specification.load(write(tmp_path / "study.py"))


@pytest.fixture
def study(tmp_path):
    study = StudyDirectory(tmp_path / "s")
    yield study
    study.release()


def start(study, spec):
    """Writes a study of which one trial has started."""
    trials = launcher.extend([], spec)
    study.write(spec, trials)
    study.trial_directory(0).mkdir(parents=True)
    return trials


@pytest.mark.playbook("study")
def test_study_json_is_as_the_contract_says(study, spec):
    trials = launcher.extend([], spec)
    study.write(spec, trials)
    stored = json.loads((study.path / "study.json").read_text())
    assert list(stored) == ["format", "specification", "trials"]
    assert [row["trial"] for row in stored["trials"]] == list(range(20))
    assert stored["trials"] == trials
    described = stored["specification"]
    assert described["nuisance"] == {"hparams.learning_rate": RATE | {"type": "float"}}
    assert described["base_config"]["checkpoint"]["metric"] == "validation/loss"
    assert described["base_config_path"] == "configs/digits_mlp.py"


@pytest.mark.playbook("studies-are-reproducible")
def test_the_same_study_gives_the_same_bytes(tmp_path, spec):
    texts = []
    for name in "ab":
        study = StudyDirectory(tmp_path / name)
        study.write(spec, launcher.extend([], spec))
        study.release()
        texts.append((tmp_path / name / "study.json").read_bytes())
    assert texts[0] == texts[1]


def test_what_a_killed_launcher_was_writing_is_removed(tmp_path):
    (tmp_path / ".study.csv.1.part").write_text("")
    study = StudyDirectory(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    study.release()


def test_until_a_trial_has_started_a_new_specification_replaces_the_old_one(study, spec):
    study.write(spec, launcher.extend([], spec))
    assert study.stored_trials(dataclasses.replace(spec, seed=1)) == []


@pytest.mark.playbook("studies-can-be-extended")
def test_a_started_study_grows_and_keeps_its_points(study, spec):
    trials = start(study, spec)
    # As if the stored points had been made by another version of the sampler.
    trials[4]["parameters"]["hparams.learning_rate"] = 0.123
    study.write(spec, trials)
    longer = dataclasses.replace(spec, num_trials=30)
    grown = launcher.extend(study.stored_trials(longer), longer)
    assert grown[:20] == trials
    assert grown[20:] == launcher.extend([], longer)[20:]


def test_a_grown_study_keeps_the_order_of_its_dimensions(study, tmp_path):
    spaces = {"hparams.learning_rate": RATE, "hparams.weight_decay": RATE}
    spec = specification.load(write(tmp_path / "a.py", nuisance=spaces))
    start(study, spec)
    turned = dict(reversed(spaces.items()))
    longer = specification.load(write(tmp_path / "b.py", nuisance=turned, num_trials=30))
    grown = launcher.extend(study.stored_trials(longer), longer)
    assert grown == launcher.extend([], dataclasses.replace(spec, num_trials=30))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed: 0 → 1"),
        ({"num_trials": 10}, "num_trials: 20 → 10"),
        ({"goal": "Why?"}, "goal: What? → Why?"),
        ({"fixed": {"hparams.momentum": 0.5}}, "base_config.hparams.momentum: 0.9 → 0.5"),
        (
            {"nuisance": {"hparams.learning_rate": RATE | {"low": 0.01}}},
            "nuisance.hparams.learning_rate.low: 0.001 → 0.01",
        ),
    ],
)
def test_a_started_study_refuses_another_specification(study, spec, tmp_path, changes, message):
    start(study, spec)
    with pytest.raises(UsageError) as error:
        study.stored_trials(specification.load(write(tmp_path / "other.py", **changes)))
    assert message in str(error.value)
    assert "another --workdir" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_base_config_may_move(study, spec):
    start(study, spec)
    assert len(study.stored_trials(dataclasses.replace(spec, base_config_path="b.py"))) == 20


def test_a_directory_that_cannot_hold_a_study(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write to .*Not a directory"):
        StudyDirectory(tmp_path / "file" / "study")
    with pytest.raises(UsageError, match=r"is not empty and holds no study \(file\)"):
        StudyDirectory(tmp_path)
    with pytest.raises(UsageError, match="a local or mounted disk"):
        StudyDirectory("gs://bucket/study")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text("{")
    torn = StudyDirectory(tmp_path / "study")
    with pytest.raises(UsageError, match="cannot be read as a study"):
        torn.stored_trials(None)
    torn.release()


def test_undo_leaves_nothing_and_no_foreign_file_is_touched(tmp_path):
    study = StudyDirectory(tmp_path / "a" / "b")
    (study.logs / "worker-0.log").touch()
    study.release(undo=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "c" / "logs").mkdir(parents=True)
    (tmp_path / "c" / "logs" / "mine").touch()
    StudyDirectory(tmp_path / "c").release(undo=True)
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["logs"]
    assert (tmp_path / "c" / "logs" / "mine").exists()


def hold(path, ready, go):
    held = lock.Lock(path)
    ready.set()
    go.wait()
    held.release()


def test_the_lock_keeps_a_second_launcher_out(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / ".lock", ready, go))
    process.start()
    ready.wait()
    with pytest.raises(
        UsageError, match=rf"is in use by process {process.pid} on \S+ since .+ UTC; wait"
    ):
        StudyDirectory(tmp_path)
    go.set()
    process.join()
    study = StudyDirectory(tmp_path)
    study.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.playbook("study-table")
def test_the_table_has_a_row_a_trial(study, tmp_path):
    spaces = {"hparams.learning_rate": RATE, "model.hidden_sizes": {"values": [[64], [64, 64]]}}
    spec = specification.load(write(tmp_path / "a.py", nuisance=spaces, num_trials=3))
    trials = launcher.extend([], spec)
    statuses = {
        0: trial.new_status(trial.COMPLETE, step=10) | {"best_step": 5, "objective": 0.25},
        1: trial.new_status(trial.INFEASIBLE, "loss is nan, or so", 3),
        2: trial.new_status(),
    }
    study.write_table(trials, statuses)
    with (study.path / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    rates = [row["parameters"]["hparams.learning_rate"] for row in trials]
    assert [float(row.pop("hparams.learning_rate")) for row in rows] == rates
    sizes = [tuple(json.loads(row.pop("model.hidden_sizes"))) for row in rows]
    assert sizes == [row["parameters"]["model.hidden_sizes"] for row in trials]
    columns = ("trial", "state", "reason", "step", "best_step", "objective")
    assert [tuple(row[c] for c in columns) for row in rows] == [
        ("0", "COMPLETE", "", "10", "5", "0.25"),
        ("1", "INFEASIBLE", "loss is nan, or so", "3", "", ""),
        ("2", "PENDING", "", "0", "", ""),
    ]


@pytest.mark.parametrize(("mode", "expected"), [("min", 1), ("max", 0)])
def test_the_best_is_complete_and_the_earliest_on_a_tie(mode, expected):
    objectives = {0: 0.3, 1: 0.1, 2: 0.1, 3: 0.3, 4: None}
    statuses = {
        t: trial.new_status(trial.COMPLETE if v else trial.INFEASIBLE) | {"objective": v}
        for t, v in objectives.items()
    }
    # What a trial reached before it failed does not rank.
    statuses[5] = trial.new_status(trial.FAILED) | {"objective": 0.0 if mode == "min" else 1.0}
    assert directory.best(statuses, mode) == expected
    assert directory.best({5: statuses[5]}, mode) is None


@pytest.mark.playbook("best-configuration")
def test_a_config_written_as_python_is_the_same_config(tmp_path, spec):
    config = config_lib.to_dict(spec.base_config) | {
        "notes": 'quote " \\ é\n"""',
        "model": {"name": "x", "sizes": [], "nested": {"a": [[1, 2], [3]], "empty": {}}},
    }
    path = tmp_path / "best_config.py"
    path.write_text(best_config.source(config, 'A """docstring""" with \\ in it.\n\n    command\n'))
    assert config_lib.to_dict(config_lib.load(path)) == config


def test_a_trial_that_could_not_end_itself_is_written_down_as_failed(study, spec):
    config = config_lib.to_dict(spec.base_config)
    status = study.fail(7, config, "its worker died")
    assert study.status(7) == status
    assert (status["state"], status["reason"]) == (trial.FAILED, "its worker died")
    assert trial.load(study.trial_directory(7)).config == config
    assert study.trial_directory(7).name == "007"
    assert study.trial_directory(1234).name == "1234"


def test_the_packing_is_kept_by_whoever_writes_a_started_study(study, spec):
    study.lanes = 4
    trials = start(study, spec)
    study.release()
    again = StudyDirectory(study.path)
    assert again.lanes == 1
    assert again.stored_trials(spec) == trials
    assert again.lanes == 4
    again.write(dataclasses.replace(spec, num_trials=30), trials)
    stored = json.loads((study.path / "study.json").read_text())
    assert list(stored) == ["format", "packing", "specification", "trials"]
    assert stored["packing"] == {"lanes": 4}
    study.lock = again.lock
