import math
import os

import numpy as np
import pytest

from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError
from tests import small


def check(message, **overrides):
    with pytest.raises(UsageError, match=message) as error:
        config_lib.complete(small.digits(**overrides))
    assert "\n" not in str(error.value)


@pytest.mark.playbook("evaluation-batch-size")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"batch_size": 0}, r"batch_size must be a whole number, at least 1; it is 0"),
        ({"max_train_steps": -5}, r"max_train_steps must be a whole number, at least 1; it is -5"),
        ({"eval_batch_size": 16}, r"eval_batch_size 16 is smaller than batch_size 32"),
        ({"hparams__learning_rate": math.nan}, r"hparams.learning_rate must be finite; it is nan"),
        ({"hparams__momentum": math.inf}, r"hparams.momentum must be finite; it is inf"),
        ({"hparams__momentum": 1.0}, r"hparams.momentum must be at least 0 and below 1"),
        ({"hparams__weight_decay": -0.1}, r"hparams.weight_decay must not be negative"),
        ({"hparams__warmup_steps": 2.5}, r"hparams.warmup_steps must be a whole number"),
        ({"checkpoint__mode": "least"}, r"checkpoint.mode must be 'min' or 'max'"),
        ({"seed": -1}, r"seed must be a whole number"),
    ],
)
def test_bad_values_are_named(overrides, message):
    check(message, **overrides)


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UsageError, match=r"no 'hparams.learning_rat'; did you mean 'hparams.lear"):
        small.digits(hparams__learning_rat=0.1)


@pytest.mark.playbook("no-early-stopping")
def test_early_stopping_is_refused_with_the_reason():
    config = small.digits()
    with config.unlocked():
        config.checkpoint.early_stopping_patience = 3
    with pytest.raises(UsageError, match="fixed number of steps, then chooses the best checkpoint"):
        config_lib.complete(config)


def test_the_timescale_of_rsqrt_must_be_positive():
    config = small.digits()
    with config.unlocked():
        config.hparams.rsqrt_timescale = 0
    with pytest.raises(UsageError, match="rsqrt_timescale must be positive"):
        config_lib.complete(config)


def test_missing_and_foreign_keys():
    config = small.digits()
    with config.unlocked():
        del config["schedule"]
    with pytest.raises(UsageError, match="lacks 'schedule'"):
        config_lib.complete(config)
    config = small.digits()
    with config.unlocked():
        config.eval_every_step = 3
    with pytest.raises(UsageError, match="did you mean 'eval_every_steps'"):
        config_lib.complete(config)


def test_values_keep_their_types():
    with pytest.raises(UsageError, match=r"batch_size = 'many' does not fit"):
        small.digits(batch_size="many")
    assert small.digits(hparams__learning_rate=1).hparams.learning_rate == 1.0
    assert small.digits(model__hidden_sizes=[3, 4]).model.hidden_sizes == (3, 4)


def test_a_config_survives_json():
    config = config_lib.complete(small.digits())
    again = config_lib.from_dict(config_lib.to_dict(config))
    assert again.model.hidden_sizes == (16,)
    assert config_lib.static_part(again) == config_lib.static_part(config)
    assert not config_lib.differences(config_lib.to_dict(config), config_lib.to_dict(again))


@pytest.mark.playbook("warmup-prepended")
def test_warmup_lengthens_the_run():
    config = small.digits(max_train_steps=10_000, hparams__warmup_steps=1_000)
    assert config_lib.total_steps(config_lib.complete(config)) == 11_000


@pytest.mark.playbook("traced-hyperparameters")
def test_only_what_is_static_decides_the_program():
    base = config_lib.static_part(config_lib.complete(small.digits()))
    traced = small.digits(
        hparams__learning_rate=1.0, seed=5, max_train_steps=77, optimizer="nesterov"
    )
    assert config_lib.static_part(config_lib.complete(traced)) == base
    assert config_lib.static_part(config_lib.complete(small.digits(batch_size=64))) != base


def test_a_missing_file_suggests_its_neighbour():
    with pytest.raises(
        UsageError, match=r"no config file '.*digits_mpl.py'; did you mean '.*digits_mlp.py"
    ):
        config_lib.load(small.ROOT / "configs" / "digits_mpl.py")


def test_differences_are_listed_by_path():
    old, new = {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": np.pi}
    assert config_lib.differences(old, new) == ["a.c: 2 → 3", f"d: (absent) → {np.pi}"]


def test_a_config_of_before_an_optional_key_existed_is_the_same_config():
    new = config_lib.to_dict(config_lib.complete(small.digits()))
    old = {key: value for key, value in new.items() if key not in ("freeze", "initialize_from")}
    old["hparams"] = {k: v for k, v in new["hparams"].items() if k != "clip_norm"}
    assert config_lib.differences(config_lib.with_optional(old), new) == []
    changed = new | {"freeze": ["Dense_0/.*"]}
    assert config_lib.differences(config_lib.with_optional(old), changed) == [
        "freeze: [] → ['Dense_0/.*']"
    ]


def test_a_config_that_is_changed_within_a_second_is_read_anew(tmp_path):
    path, text = tmp_path / "c.py", "from ml_collections import ConfigDict\n"
    for value in (1, 2):
        path.write_text(f"{text}def get_config():\n    return ConfigDict({{'a': {value}}})\n")
        os.utime(path, (0, 0))
        assert config_lib.load_python(path).a == value
    assert [p.name for p in tmp_path.iterdir()] == ["c.py"]
