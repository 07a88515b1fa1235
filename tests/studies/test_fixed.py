"""What a study says it held fixed is what its trials trained with: read from their own configs."""

import pytest

from playbook_jax import config as config_lib, trial
from tests.launched_study import Study
from tests.studies.test_specification import RATE

FIXED = {
    "max_train_steps": 6,
    "hparams.momentum@optimizer=nesterov": 0.5,
    "hparams.beta1@optimizer=adam": 0.7,
}
CHANGES = {
    "num_trials": 2,
    "fixed": FIXED,
    "scientific": {"optimizer": {"values": ["nesterov", "adam"]}},
    "nuisance": {"hparams.learning_rate": RATE},
}


def trained(study):
    """The configs that the trials of a study directory were run with."""
    return [trial.load(path).config for path in sorted((study / "trials").iterdir())]


def stored(study):
    return trial.read_json(study / "study.json")


def test_every_trial_of_a_group_trains_with_the_fixed_values_that_hold_for_its_study(tmp_path):
    study = Study(tmp_path, shape="group", **CHANGES)
    code, _, errors = study.run()
    assert (code, errors) == (0, "")
    for name, key, value in (("nesterov", "momentum", 0.5), ("adam", "beta1", 0.7)):
        directory = study.path / f"optimizer={name}"
        configs = trained(directory)
        assert [config["hparams"][key] for config in configs] == [value] * 2
        assert stored(directory)["specification"]["fixed"][f"hparams.{key}"] == value
        # It is fixed, so no trial names it among what varies.
        assert list(stored(directory)["trials"][0]["parameters"]) == ["hparams.learning_rate"]
        best = config_lib.to_dict(config_lib.load(directory / "best_config.py"))
        assert best in configs
    # The value that holds for one optimizer alone is the base config's in the other one's study.
    assert trained(study.path / "optimizer=adam")[0]["hparams"]["momentum"] == 0.9
    assert study.run()[0] == 0  # nothing has changed: the same command finds all at their end


@pytest.mark.parametrize("shape", ["joint", "group"])
def test_fixed_lengths_that_depend_on_another_value_are_trained_and_counted(tmp_path, shape):
    study = Study(
        tmp_path,
        shape=shape,
        num_trials=2,
        fixed={"max_train_steps@batch_size=32": 6, "max_train_steps@batch_size=64": 3},
        scientific={"batch_size": {"values": [32, 64]}},
        nuisance={"hparams.learning_rate": RATE},
    )
    code, _, errors = study.run()
    assert (code, errors) == (0, "")
    found = [trial.load(path.parent) for path in study.path.rglob("config.json")]
    assert len(found) == (2 if shape == "joint" else 4)
    for one in found:
        expected = {32: 6, 64: 3}[one.config["batch_size"]]
        assert one.config["max_train_steps"] == one.status["step"] == expected


def test_a_joint_study_trains_with_its_conditional_fixed_values(tmp_path):
    study = Study(tmp_path, **CHANGES)
    assert study.run()[0] == 0
    configs = {config["optimizer"]: config["hparams"] for config in trained(study.path)}
    assert configs["nesterov"]["momentum"] == 0.5
    assert configs["adam"]["beta1"] == 0.7
    assert configs["adam"]["momentum"] == 0.9
