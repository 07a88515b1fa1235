"""A study for each scientific value, run together."""

import csv
import json
import os
import shutil

import pytest

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.studies import group, launcher, preview, specification, trial_points
from tests.launched_study import STEPS, Study, gone
from tests.studies.test_specification import RATE, write

BETA = {"scale": "one_minus_log", "low": 0.5, "high": 0.9}
GROUP = {
    "shape": "group",
    "scientific": {"optimizer": {"values": ["nesterov", "adam"]}},
    "nuisance": {
        "hparams.learning_rate@optimizer=nesterov": RATE,
        "hparams.learning_rate@optimizer=adam": RATE | {"low": 1e-5, "high": 1e-2},
        "hparams.momentum@optimizer=nesterov": BETA,
        "hparams.weight_decay": RATE,
    },
    "num_trials": 3,
}
FIXED = {"max_train_steps": STEPS, "notes": "seconds=0.02"}
NAMES = ["optimizer=nesterov", "optimizer=adam"]


@pytest.fixture
def load(tmp_path):
    return lambda **changes: specification.load(write(tmp_path / "study.py", **GROUP | changes))


def rows(path):
    return trial.read_json(path / "study.json")["trials"]


@pytest.mark.playbook("a-study-for-each-value", "conditional-hyperparameters")
def test_each_study_has_what_exists_for_its_value(load):
    nesterov, adam = group.members(load(fixed={"hparams.momentum@optimizer=adam": 0.5}))
    assert [m.directory for m in (nesterov, adam)] == NAMES
    assert list(nesterov.specification.nuisance) == [
        "hparams.learning_rate",
        "hparams.momentum",
        "hparams.weight_decay",
    ]
    assert list(adam.specification.nuisance) == ["hparams.learning_rate", "hparams.weight_decay"]
    assert adam.specification.nuisance["hparams.learning_rate"].high == 1e-2
    assert adam.specification.scientific == {}
    assert adam.specification.fixed == {"optimizer": "adam", "hparams.momentum": 0.5}
    assert adam.specification.base_config.optimizer == "adam"
    assert adam.specification.base_config.hparams.momentum == 0.5
    assert nesterov.specification.base_config.hparams.momentum == 0.9
    assert adam.specification.name == "test, optimizer=adam"
    # As any other study, it can be read back from its study.json and be extended.
    assert not adam.specification.order


@pytest.mark.playbook("a-study-for-each-value")
def test_values_that_search_the_same_space_try_the_same_points(load):
    spec = load(
        scientific={"model.hidden_sizes": {"values": [[32], [32, 32]]}},
        nuisance={"hparams.learning_rate": RATE, "hparams.weight_decay": RATE},
        num_trials=5,
    )
    first, second = group.members(spec)
    assert [m.directory for m in (first, second)] == ["hidden_sizes=32", "hidden_sizes=32x32"]
    assert trial_points.points(first.specification) == trial_points.points(second.specification)
    assert len(trial_points.points(first.specification)) == 5


def test_two_scientific_hyperparameters_make_a_study_for_each_combination(load):
    spec = load(
        scientific={
            "optimizer": {"values": ["nesterov", "adam"]},
            "hparams.dropout_rate": {"scale": "linear", "low": 0.0, "high": 0.5, "points": 3},
        }
    )
    assert [m.directory for m in group.members(spec)] == [
        f"optimizer={name}_dropout_rate={rate}"
        for name in ("nesterov", "adam")
        for rate in (0.0, 0.25, 0.5)
    ]


@pytest.mark.playbook("a-study-for-each-value", "studies-survive-interruptions")
def test_a_group_runs_is_killed_goes_on_and_grows(tmp_path):
    study = Study(tmp_path, notes="seconds=0.02", **GROUP).start()
    last = study.path / NAMES[1] / "trials" / "000" / "attempts"
    study.until(last.exists)
    before = {name: rows(study.path / name) for name in NAMES}
    study.process.kill()
    study.wait()
    assert study.run()[0] == 0
    for name in NAMES:
        assert rows(study.path / name) == before[name]
        assert [row["trial"] for row in before[name]] == [0, 1, 2]
    study.change(**GROUP | {"num_trials": 4, "fixed": FIXED})
    code, output, errors = study.run()
    assert (code, errors) == (0, "")
    for name in NAMES:
        directory = study.path / name
        assert rows(directory)[:3] == before[name]
        assert len(rows(directory)) == 4
        optimizer = name.removeprefix("optimizer=")
        for row in rows(directory):
            loaded = trial.load(directory / "trials" / f"{row['trial']:03d}")
            assert loaded.status["state"] == "COMPLETE"
            assert loaded.config["optimizer"] == optimizer
            assert "optimizer" not in row["parameters"]
            flat = config_lib.flatten(loaded.config)
            assert {k: flat[k] for k in row["parameters"]} == row["parameters"]
            steps = (loaded.directory / "steps").read_text().split()
            assert len(steps) == STEPS  # none was made twice
        assert (directory / "study.csv").exists()
        assert (directory / "best_config.py").exists()
    assert "the best of each study:\n  optimizer=nesterov  validation/loss" in output
    with (study.path / "group.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["study"], row["optimizer"], row["COMPLETE"]) for row in table] == [
        (name, name.removeprefix("optimizer="), "4") for name in NAMES
    ]


def test_the_studies_of_a_group_share_their_workers(tmp_path):
    study = Study(tmp_path, **GROUP)
    assert study.run(workers=1)[0] == 0
    workers = {
        attempt["process"]
        for path in study.path.glob("*/trials/*/attempts")
        for attempt in trial.read_json_lines(path)
    }
    assert len(workers) == 1
    assert gone(workers)
    assert not list(study.path.rglob(".lock"))
    # Again: nothing is left to run, and no worker is started.
    code, output, _ = study.run()
    assert code == 0
    assert output.count("3 trials, 3 COMPLETE") == 2


def test_a_varied_seed_is_the_number_of_the_trial_in_its_study(tmp_path):
    study = Study(tmp_path, **GROUP | {"vary_seed": True})
    assert study.run()[0] == 0
    for name in NAMES:
        seeds = [
            trial.load(study.path / name / "trials" / f"00{number}").config["seed"]
            for number in range(3)
        ]
        assert seeds == [0, 1, 2]
        assert all("seed" not in row["parameters"] for row in rows(study.path / name))


def test_a_failed_trial_is_its_studys(tmp_path):
    # By the numbers in the studies: trial 1 of each kills its worker.
    study = Study(tmp_path, notes="die=1", **GROUP)
    assert study.run()[0] == 1
    for name in NAMES:
        states = [
            trial.read_json(p)["state"] for p in sorted((study.path / name).rglob("status.json"))
        ]
        assert states == ["COMPLETE", "FAILED", "COMPLETE"]


def test_trials_go_to_their_studies_turn_by_turn(tmp_path, load):
    spec = load()
    whole, directory = group.open_group(spec, tmp_path / "g")
    assert whole.num_trials == 6
    assert [p["optimizer"] for p in whole.points] == ["nesterov", "adam"] * 3
    trials = [{"trial": t, "parameters": p} for t, p in enumerate(whole.points)]
    for index, member in enumerate(directory.members):
        own = directory.trials_of(index, trials)
        assert [row["parameters"] for row in own] == trial_points.points(member.specification)
        statuses = directory.statuses_of(index, {t: {"of": t} for t in range(6)})
        assert statuses == {n: {"of": 2 * n + index} for n in range(3)}
        for number in range(3):
            path = tmp_path / "g" / NAMES[index] / "trials" / f"00{number}"
            assert directory.trial_directory(2 * number + index) == path
    directory.release(undo=True)
    assert not (tmp_path / "g").exists()


def test_a_preview_writes_every_study_and_a_new_one_replaces_it(tmp_path, capsys):
    path = tmp_path / "g"
    preview.preview(write(tmp_path / "study.py", **GROUP), path)
    output = capsys.readouterr().out
    assert "6 trials, 6,000 steps in all" in output
    assert sorted(p.name for p in path.iterdir()) == ["group.json", *sorted(NAMES)]
    stored = json.loads((path / "group.json").read_text())
    assert stored["studies"] == [
        {"directory": name, "values": {"optimizer": name.removeprefix("optimizer=")}}
        for name in NAMES
    ]
    other = {"optimizer": {"values": ["nesterov", "sgd"]}}
    nuisance = {"hparams.learning_rate": RATE}
    config = write(tmp_path / "study.py", **GROUP | {"scientific": other, "nuisance": nuisance})
    preview.preview(config, path)
    assert sorted(p.name for p in path.iterdir()) == [
        "group.json",
        "optimizer=nesterov",
        "optimizer=sgd",
    ]
    assert len(rows(path / "optimizer=sgd")) == 3
    (path / "optimizer=sgd" / "trials" / "000").mkdir(parents=True)
    for changes, message in (
        ({"seed": 1}, "holds trials of another study .*seed: 0 → 1"),
        ({"scientific": {"optimizer": {"values": ["sgd", "adam"]}}}, "trials of another group"),
    ):
        changed = GROUP | {"scientific": other, "nuisance": nuisance} | changes
        with pytest.raises(UsageError, match=message):
            preview.preview(write(tmp_path / "study.py", **changed), path)
    assert sorted(p.name for p in path.iterdir()) == [
        "group.json",
        "optimizer=nesterov",
        "optimizer=sgd",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": "groups"}, "unknown shape 'groups'; did you mean 'group'?"),
        ({"scientific": {}, "nuisance": {"hparams.learning_rate": RATE}}, "nothing is scientific"),
        (
            {"nuisance": {"hparams.learning_rate@optimizer=adam": RATE}},
            "with optimizer=nesterov no hyperparameter varies",
        ),
        (
            {"scientific": {"hparams.momentum": BETA}, "nuisance": {"hparams.learning_rate": RATE}},
            "hparams.momentum: a grid needs the number of its values",
        ),
        (
            {
                "algorithm": "grid",
                "num_trials": None,
                "nuisance": {"hparams.learning_rate": RATE | {"points": 3}},
            },
            "shape 'group' goes with 'halton' and 'uniform'",
        ),
    ],
)
def test_a_group_that_cannot_be_ends_with_one_line_and_leaves_nothing(tmp_path, changes, message):
    config = write(tmp_path / "study.py", **GROUP | changes)
    with pytest.raises(UsageError) as error:
        launcher.open_study(specification.load(config), tmp_path / "g")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "g").exists()


def test_a_group_and_a_study_do_not_mix(tmp_path, load):
    path = tmp_path / "g"
    preview.preview(write(tmp_path / "study.py", **GROUP), path)
    alone = specification.load(write(tmp_path / "study.py"))
    with pytest.raises(UsageError, match=r"is not empty and holds no study"):
        launcher.open_study(alone, path)
    shutil.rmtree(path)
    preview.preview(tmp_path / "study.py", path)
    with pytest.raises(UsageError, match=r"is not empty and holds no study \(study.json\)"):
        launcher.open_study(load(), path)
    assert os.listdir(path) == ["study.json"]
