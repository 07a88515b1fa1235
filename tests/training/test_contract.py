"""What a workload does wrong, and what nothing reads of a config, is said before anything compiles."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from playbook_jax import checkpoints, optimizers, schedules, trial
from playbook_jax.errors import UsageError
from playbook_jax.training import loop, program as program_lib
from tests import small
from tests.runs import stop_after
from workloads import digits

SETTINGS = {"max_train_steps": 8, "eval_every_steps": 4, "checkpoint__every_steps": 4}


class Plain(digits.Digits):
    """The digits without anything said of the labels' range."""

    def ranges(self):
        return {}


@pytest.fixture
def refused(monkeypatch):
    """Checks what is said of the digits with some methods replaced."""

    def check(message, config=None, **methods):
        kind = type("Mine", (Plain,), methods)
        monkeypatch.setattr(program_lib.workload_lib, "find", lambda name: kind)
        program_lib._build.cache_clear()
        try:
            with pytest.raises(UsageError, match=message) as error:
                loop.validate(config or small.digits(**SETTINGS))
        finally:
            program_lib._build.cache_clear()
        assert "\n" not in str(error.value)

    return check


def changed(split, **arrays):
    data = digits.load()
    return lambda self: {**data, split: {**data[split], **arrays}}


def test_arrays_of_unequal_length_are_refused(refused):
    labels = digits.load()["train"]["label"]
    splits = changed("train", label=labels[:-3])
    refused(
        r"Mine.splits: 'train' must have as many .* 1,197 of .image., 1,194 of .la", splits=splits
    )


def test_a_missing_split_is_named(refused):
    splits = lambda self: {"train": digits.load()["train"], "valid": digits.load()["test"]}  # noqa: E731
    refused(r"Mine.splits returns no split 'validation'; did you mean 'valid'", splits=splits)
    refused(
        r"Mine.splits must return arrays by split; it returns a NoneType", splits=lambda self: None
    )
    lists = changed("train", label=[1, 2])
    refused(r"'label' must be an array of numbers.*it is a list", splits=lists)
    empty = lambda self: {n: {k: x[:0] for k, x in s.items()} for n, s in digits.load().items()}  # noqa: E731
    refused(r"'train' must have as many examples of each array, at least 1", splits=empty)
    other = changed("validation", image=digits.load()["validation"]["image"].astype(np.float32))
    refused(r"'image' is \[8, 8, 1\] uint8 in 'train' and .* float32 in 'validation'", splits=other)


def test_a_scalar_loss_and_wrong_pairs_are_refused(refused):
    pair = r"must be a numerator and a denominator for each example, both of shape \[8\] here"
    refused(rf"Mine.loss {pair}; it is a", loss=lambda self, *_: jnp.float32(1))
    refused(
        rf"Mine.loss {pair}; they are of shapes \[\] and \[\]", loss=lambda self, *_: (1.0, 1.0)
    )
    whole = lambda self, outputs, *_: (outputs, outputs)  # noqa: E731
    refused(rf"Mine.loss {pair}; they are of shapes \[8, 10\]", loss=whole)
    metrics = lambda self, outputs, batch: {"loss": (jnp.mean(outputs), 1.0)}  # noqa: E731
    refused(r"Mine.metrics: 'loss' must be a numerator", metrics=metrics)
    refused(r"Mine.metrics must return pairs by name, 'loss' among", metrics=lambda self, *_: {})
    refused(r"Mine.apply must return a pair, the outputs and", apply=lambda self, *_, train: 3)


def test_what_a_method_raises_is_told_with_its_line(refused):
    def init(self, rng):
        return {}["nothing"]

    refused(r"Mine.init fails \(line \d+ of test_contract.py\): KeyError: 'nothing'", init=init)
    refused("Mine.init fails", small.digits(model__hidden_sizes=(0,), **SETTINGS))


def test_forgotten_batch_statistics_are_named(refused):
    config = small.shrunk(small.ROOT / "configs" / "digits_cnn.py")

    def apply(self, *arguments, train):
        return Plain.apply(self, *arguments, train=train)[0], {}

    refused(
        "Mine.apply returns no batch statistics in training, though init has", config, apply=apply
    )


def test_a_label_out_of_range_is_named_where_the_workload_says_nothing_of_ranges(refused):
    labels = digits.load()["train"]["label"].copy()
    labels[5] = 10
    text = "example 5 of train: label is 10; .* of 10 classes, so it must be from 0 to 9"
    refused(text, splits=changed("train", label=labels))
    labels[5] = -1
    refused("example 5 of train: label is -1", splits=changed("train", label=labels))


def with_key(part, name):
    config = small.digits(**SETTINGS)
    with config.unlocked():
        config[part][name] = 0.0
    return config


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("hparams", "weigth_decay", r"nothing reads hparams.weigth_decay; did you mean 'weight_d"),
        ("hparams", "xyzzy", r"nothing reads hparams.xyzzy \(the workload 'digits', the optimizer"),
        ("dataset", "num_shard", r"nothing reads dataset.num_shard; did you mean 'num_shards'"),
    ],
)
def test_a_misspelt_key_in_a_config_file_is_named(part, name, message):
    with pytest.raises(UsageError, match=message):
        loop.validate(with_key(part, name))


def test_what_another_optimizer_reads_is_let_pass():
    loop.validate(with_key("hparams", "rho"))
    loop.validate(with_key("hparams", "max_shift"))  # named in the workload's text, too


class Counting(Plain):
    """Counts its steps in the batch statistics, and keeps a key and a mean there."""

    def init(self, rng):
        own = {
            "count": jnp.int32(0),
            "key": jax.random.key_data(jax.random.key(2**31 + 7)),
            "mean": jnp.float32(0),
        }
        return {**super().init(rng), "batch_stats": own}

    def apply(self, variables, batch, hparams, rngs, train):
        own = variables["batch_stats"]
        params = {"params": variables["params"]}
        outputs, _ = super().apply(params, batch, hparams, rngs, train)
        if not train:
            return outputs, {}
        mean = jnp.mean(batch["image"].astype(jnp.float32))
        return outputs, {**own, "count": own["count"] + 1, "mean": mean}


def test_state_that_is_not_float_is_saved_and_resumed_with_its_type_and_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(program_lib.workload_lib, "find", lambda name: Counting)
    program_lib._build.cache_clear()
    config = small.digits(steps_per_call=1, **SETTINGS)
    with config.unlocked():
        config.hparams.polyak_decay = 0.5
    try:
        assert loop.train(config, tmp_path / "whole")["state"] == trial.COMPLETE
        status = loop.train(config, tmp_path / "cut", should_stop=stop_after(6))
        assert status["state"] == trial.INTERRUPTED
        assert loop.train(config, tmp_path / "cut")["state"] == trial.COMPLETE
    finally:
        program_lib._build.cache_clear()
    whole, cut = (checkpoints.load(tmp_path / name, "latest") for name in ("whole", "cut"))
    jax.tree.map(np.testing.assert_array_equal, whole, cut)
    stats = whole["batch_stats"]
    assert stats["count"].dtype == np.int32
    assert stats["count"] == 8
    np.testing.assert_array_equal(stats["key"], jax.random.key_data(jax.random.key(2**31 + 7)))


OWN = """
    import optax

    from playbook_jax import optimizers, schedules
    from workloads import digits

    optimizers.OPTIMIZERS["lion_of_mine"] = lambda learning_rate, mask, *, beta1=0.9, beta2=0.99: (
        optax.lion(learning_rate, beta1, beta2)
    )
    schedules.SCHEDULES["sharp"] = lambda s, n, hparams: (1 - s / n) ** hparams["sharpness"]


    class OwnRules(digits.Digits):
        pass
"""


@pytest.fixture
def own_rules(tmp_path, monkeypatch):
    (tmp_path / "workloads").mkdir()
    (tmp_path / "workloads" / "own_rules.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path), *__import__("sys").path])
    base = (
        f"from tests import small\n\n\ndef get_config():\n    config = small.digits(**{SETTINGS})\n"
    )
    base += "    with config.unlocked():\n        config.hparams.sharpness = 1.0\n"
    base += "        config.workload, config.optimizer = 'own_rules', 'lion_of_mine'\n"
    base += "        config.schedule = 'sharp'\n    return config\n"
    (tmp_path / "base.py").write_text(base)
    yield tmp_path
    # The workload's file has added to the tables; other tests are to find them as they were.
    optimizers.OPTIMIZERS.pop("lion_of_mine", None)
    schedules.SCHEDULES.pop("sharp", None)


def study(directory, nuisance):
    text = f"""
        from ml_collections import ConfigDict


        def get_config():
            config = ConfigDict(convert_dict=False)
            config.name, config.goal, config.base_config = "own", "Which?", "base.py"
            config.objective = {{"metric": "validation/loss", "mode": "min"}}
            config.num_trials, config.nuisance = 2, {nuisance!r}
            return config
    """
    (directory / "study.py").write_text(textwrap.dedent(text))
    return directory / "study.py"


def test_a_study_honours_an_optimizer_and_a_schedule_of_ones_own(own_rules):
    from playbook_jax.studies import launcher

    space = {"scale": "linear", "low": 0.5, "high": 4.0, "type": "float"}
    path = study(own_rules, {"hparams.sharpness": space})
    assert launcher.launch(path, own_rules / "study", launcher.Options(command=["test"])) == 0
    for name in ("000", "001"):
        run = trial.load(own_rules / "study" / "trials" / name)
        sharpness = run.config["hparams"]["sharpness"]
        assert run.steps["learning_rate"].iloc[-1] == pytest.approx(
            0.05 * 0.125**sharpness, rel=1e-4
        )


def test_a_study_over_a_hyperparameter_that_nothing_reads_is_refused(own_rules):
    from playbook_jax.studies import preview

    space = {"scale": "log", "low": 1e-6, "high": 1e-2, "type": "float"}
    path = study(own_rules, {"hparams.epsilon": space})
    with pytest.raises(UsageError, match=r"nothing reads hparams.epsilon in any trial"):
        preview.preview(path, own_rules / "study")
    assert not (own_rules / "study" / "study.json").exists()
