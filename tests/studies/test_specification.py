import math

import pytest
from ml_collections import ConfigDict

from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies import specification

RATE = {"scale": "log", "low": 1e-3, "high": 1.0}
STUDY = {
    "name": "test",
    "goal": "What?",
    "base_config": "configs/digits_mlp.py",
    "objective": {"metric": "validation/loss", "mode": "min"},
    "num_trials": 20,
    "nuisance": {"hparams.learning_rate": RATE},
}


def write(path, **changes):
    """Writes a study config in which `changes` replace keys of STUDY; None removes one."""
    study = {key: value for key, value in (STUDY | changes).items() if value is not None}
    path.write_text(
        "from ml_collections import ConfigDict\n\nnan = float('nan')\n\n"
        f"def get_config():\n    return ConfigDict({study!r}, convert_dict=False)\n"
    )
    return path


@pytest.fixture
def load(tmp_path):
    return lambda **changes: specification.load(write(tmp_path / "study.py", **changes))


@pytest.mark.playbook("roles-depend-on-the-goal")
def test_roles_and_objective_reach_the_trials_config(load):
    result = load(
        scientific={"optimizer": {"values": ["nesterov", "adam"]}},
        fixed={"hparams.weight_decay": 0, "model.hidden_sizes": [32]},
    )
    # Scientific hyperparameters first: they get the dimensions that are spread most evenly.
    assert list(result.spaces) == ["optimizer", "hparams.learning_rate"]
    config = specification.trial_config(
        result.base_config, 3, {"optimizer": "adam", "hparams.learning_rate": 0.25}, False
    )
    base = config_lib.complete(config_lib.load("configs/digits_mlp.py"))
    assert config_lib.differences(config_lib.to_dict(base), config_lib.to_dict(config)) == [
        "checkpoint.metric: validation/error_rate → validation/loss",
        "hparams.learning_rate: 0.1 → 0.25",
        "hparams.weight_decay: 0.0001 → 0.0",
        "model.hidden_sizes: [128, 128] → [32]",
        "optimizer: nesterov → adam",
    ]


def test_trials_share_the_seed_unless_it_is_to_vary(load):
    for vary_seed, seeds in ((False, [5, 5]), (True, [5, 6])):
        result = load(fixed={"seed": 5}, vary_seed=vary_seed)
        configs = [
            specification.trial_config(result.base_config, t, {}, result.vary_seed) for t in (0, 1)
        ]
        assert [c.seed for c in configs] == seeds


def test_lists_from_json_become_the_tuples_of_the_config(load):
    base = load().base_config
    config = specification.trial_config(base, 0, {"model.hidden_sizes": [8, 8]}, False)
    assert config.model.hidden_sizes == (8, 8)


def test_total_steps_is_that_of_the_trials_config(load):
    base = load(fixed={"hparams.warmup_steps": 10}).base_config
    for parameters in ({}, {"hparams.warmup_steps": 70, "hparams.learning_rate": 0.1}):
        config = specification.trial_config(base, 0, parameters, False)
        assert specification.total_steps(base, parameters) == config_lib.total_steps(config)


@pytest.mark.playbook("three-roles", "max-train-steps-is-not-tuned", "one-question")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_trails": 3}, "key of the study config, 'num_trails'; did you mean 'num_trials'?"),
        ({"goal": None}, "the study config lacks 'goal'"),
        ({"goal": " "}, "goal must be the study's question, in words"),
        ({"name": 3}, "name must be the study's name; it is 3"),
        ({"num_trials": 0}, "num_trials must be a whole number, at least 1; it is 0"),
        ({"num_trials": 2.5}, "num_trials must be a whole number, at least 1; it is 2.5"),
        ({"num_trials": True}, "num_trials must be a whole number"),
        ({"seed": -1}, "seed must be a whole number, at least 0; it is -1"),
        ({"vary_seed": 1}, "vary_seed must be True or False"),
        ({"algorithm": "gird"}, "did you mean 'grid'? (known: grid, halton, list, uniform)"),
        ({"objective": {"metric": "validation/loss"}}, "objective must be {'metric': "),
        ({"objective": {"metric": "a", "mode": "least"}}, "objective.mode must be 'min' or 'max'"),
        ({"base_config": "configs/digits_mpl.py"}, "did you mean 'configs/digits_mlp.py'?"),
        ({"base_config": 3}, "base_config must be the path of a training config, not 3"),
        ({"nuisance": {}}, "no hyperparameter varies"),
        ({"nuisance": None}, "no hyperparameter varies"),
        ({"nuisance": [1]}, "nuisance must map names to search spaces; it is [1]"),
        (
            {"nuisance": {"hparams.learning_rat": RATE}},
            "has no 'hparams.learning_rat'; did you mean 'hparams.learning_rate'?",
        ),
        (
            {"fixed": {"hparams.learning_rate": 0.1}},
            "hparams.learning_rate is both nuisance and fixed; a hyperparameter has one role",
        ),
        (
            {"scientific": {"hparams.learning_rate": {"values": [0.1, 0.2]}}},
            "hparams.learning_rate is both scientific and nuisance",
        ),
        ({"fixed": {"hparams.momentun": 0.1}}, "did you mean 'hparams.momentum'?"),
        ({"fixed": {"hparams.momentum": 1.0}}, "hparams.momentum must be at least 0 and below 1"),
        ({"fixed": {"hparams.momentum": math.nan}}, "hparams.momentum must be finite; it is nan"),
        ({"fixed": {"optimizer": 3}}, "optimizer = 3 does not fit the config's 'nesterov'"),
        (
            {"nuisance": {"max_train_steps": {"values": [100, 200]}}},
            "max_train_steps cannot be set here; the playbook never tunes it within a study",
        ),
        ({"fixed": {"checkpoint.metric": "train/loss"}}, "it follows the study's objective"),
        (
            {"nuisance": {"batch_size": {"scale": "log", "low": 8, "high": 64}}},
            "batch_size is a whole number: its search space needs 'type': 'int'",
        ),
        (
            {"nuisance": {"hparams.warmup_steps": {"scale": "linear", "low": 0, "high": 64}}},
            "hparams.warmup_steps is a whole number",
        ),
        (
            {"nuisance": {"batch_size": {"values": [64, 1024]}}},
            "eval_batch_size 512 is smaller than batch_size 1024",
        ),
        (
            {"nuisance": {"hparams.momentum": {"scale": "linear", "low": 0.5, "high": 1.0}}},
            "hparams.momentum must be at least 0 and below 1; it is 1.0",
        ),
        ({"nuisance": {"optimizer": {"values": ["adam", 3]}}}, "optimizer = 3 does not fit"),
        (
            {"vary_seed": True, "nuisance": {"seed": {"values": [0, 1]}}},
            "seed is nuisance and vary_seed is set",
        ),
        (
            {"nuisance": {"hparams.learning_rate@optimizer=adam": RATE}},
            "depends on optimizer, which is not in the search space",
        ),
    ],
)
def test_bad_input_ends_with_one_line(load, changes, message):
    with pytest.raises(UsageError) as error:
        load(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_study_config_and_names_with_dots_say_the_way_out(tmp_path):
    with pytest.raises(UsageError, match="no config file"):
        specification.load(tmp_path / "study.py")
    (tmp_path / "study.py").write_text(
        "from ml_collections import ConfigDict\ndef get_config():\n"
        "    return ConfigDict({'nuisance': {'hparams.learning_rate': 1}})\n"
    )
    with pytest.raises(UsageError, match="convert_dict=False"):
        specification.load(tmp_path / "study.py")


def test_the_base_config_is_found_from_any_directory(tmp_path, monkeypatch):
    path = write(tmp_path / "study.py")
    monkeypatch.chdir(tmp_path)
    assert isinstance(specification.load(path).base_config, ConfigDict)
