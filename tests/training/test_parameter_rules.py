"""Frozen parameters, learning-rate multipliers and weight-decay masks by pattern."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from playbook_jax import checkpoints, optimizers, trial
from playbook_jax.errors import UsageError
from playbook_jax.input import pipeline
from playbook_jax.runtime import parallel
from playbook_jax.training import loop, parameter_rules, program as program_lib
from playbook_jax.training.parameter_rules import ParameterRules
from tests import small
from tests.runs import stop_after


def config_with(hparams=None, **values):
    config = small.digits()
    with config.unlocked():
        config.update(values)
        config.hparams.update(hparams or {})
    return config


PARAMS = {
    "encoder": {"kernel": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)},
    "head": {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)},
}


def numpy_run(config, params, steps, trained, multipliers, decayed):
    """Momentum with clipping and rules on the MLP, in float64, from the formulas."""
    data = program_lib.get(config).arrays["train"]
    size = len(data["label"])
    orders = pipeline.shard_orders(config, size)
    rows = np.concatenate([o.indices(0, steps) for o in orders], axis=1)
    h = config.hparams
    p = {k: np.asarray(v, np.float64) for k, v in params.items()}
    velocity = {k: np.zeros_like(v) for k, v in p.items()}
    records = []
    for t in range(steps):
        x = data["image"][rows[t]].reshape(len(rows[t]), -1) / 8.0 - 1
        a = x @ p["Dense_0/kernel"] + p["Dense_0/bias"]
        z = np.maximum(a, 0)
        logits = z @ p["Dense_1/kernel"] + p["Dense_1/bias"]
        prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        target = np.eye(10)[data["label"][rows[t]]]
        loss = -(target * np.log(prob)).sum(1).mean()
        d = (prob - target) / len(x)
        da = (d @ p["Dense_1/kernel"].T) * (a > 0)
        g = {
            "Dense_0/kernel": x.T @ da,
            "Dense_0/bias": da.sum(0),
            "Dense_1/kernel": z.T @ d,
            "Dense_1/bias": d.sum(0),
        }
        norm = np.sqrt(sum((g[k] ** 2).sum() for k in trained))
        scale = min(1, h.clip_norm / norm)
        rate = h.learning_rate * (1 + np.cos(np.pi * t / config.max_train_steps)) / 2
        update = 0.0
        for k in trained:
            step = scale * g[k] + (h.weight_decay * p[k] if k in decayed else 0)
            velocity[k] = h.momentum * velocity[k] + step
            change = -rate * multipliers.get(k, 1) * velocity[k]
            p[k] = p[k] + change
            update += (change**2).sum()
        records.append([loss, norm, np.sqrt(update), rate, norm > h.clip_norm])
    return np.array(records, float), p


@pytest.mark.parametrize("device_mapping", ["pmap", "shard_map"])
def test_a_run_with_all_rules_equals_a_float64_reference(tmp_path, device_mapping):
    config = loop.validate(
        config_with(
            {"weight_decay": 0.05, "clip_norm": 1.2, "slower": 0.3},
            optimizer="momentum",
            max_train_steps=20,
            device_mapping=device_mapping,
            freeze=("Dense_0/bias",),
            learning_rate_multipliers=(("Dense_0/.*", "slower"), (".*/bias", 2.0)),
            weight_decay_mask=(("Dense_1/kernel", False), ("Dense_1/.*", True)),
        )
    )
    initial = parallel.first(program_lib.get(config).init(config.seed)).params
    flat = dict(zip(parameter_rules.paths(initial), jax.tree.leaves(initial), strict=True))
    expected, params = numpy_run(
        config,
        flat,
        20,
        trained=["Dense_0/kernel", "Dense_1/kernel", "Dense_1/bias"],
        multipliers={"Dense_0/kernel": 0.3, "Dense_1/bias": 2.0},
        decayed=["Dense_0/kernel", "Dense_1/bias"],
    )
    assert loop.train(config, tmp_path / "run")["state"] == "COMPLETE"
    records = trial.read_steps(tmp_path / "run")
    assert 0 < expected[:, 4].sum() < 20  # some steps clipped, some not
    # float32 against float64, over 20 steps.
    np.testing.assert_allclose(records, expected, rtol=1e-4)
    saved = checkpoints.load(tmp_path / "run", "latest")["params"]
    for path, x in zip(parameter_rules.paths(saved), jax.tree.leaves(saved), strict=True):
        np.testing.assert_allclose(x, params[path], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(saved["Dense_0"]["bias"], flat["Dense_0/bias"])


def test_what_is_frozen_keeps_its_bits_and_has_no_optimizer_state(tmp_path):
    config = config_with(
        {"learning_rate": 0.01, "weight_decay": 0.1, "polyak_decay": 0.9},
        optimizer="adamw",
        freeze=("Dense_0/.*",),
    )
    complete = loop.validate(config)
    before = parallel.first(program_lib.get(complete).init(0)).params
    # Interrupted once: what is saved can be restored, though parts of it are missing.
    loop.train(config, tmp_path / "run", should_stop=stop_after(2))
    assert loop.train(config, tmp_path / "run")["state"] == "COMPLETE"
    after = checkpoints.load(tmp_path / "run", "latest")
    jax.tree.map(np.testing.assert_array_equal, after["params"]["Dense_0"], before["Dense_0"])
    assert not np.array_equal(after["params"]["Dense_1"]["kernel"], before["Dense_1"]["kernel"])
    shapes = [np.shape(x) for x in jax.tree.leaves(after["opt_state"])]
    # Step count twice, and two moments of the 16 × 10 layer that is trained.
    assert sorted(shapes) == [(), (), (10,), (10,), (16, 10), (16, 10)]
    jax.tree.map(  # the average of equal numbers, in float32
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5),
        after["polyak_params"]["Dense_0"],
        before["Dense_0"],
    )


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_a_multiplier_is_a_learning_rate(name):
    hparams = {"weight_decay": 0.1, "momentum": 0.9, "epsilon": 1e-3, "half": 0.5}

    def run(rate, rules):
        optimizer = optimizers.make_optimizer(name, hparams, rate)
        params, state = PARAMS, optimizer.init(PARAMS)
        for t in range(4):
            gradients = jax.tree.map(lambda p, t=t: jnp.cos(p * (t + 1)), params)
            updates, state = optimizer.update(gradients, state, params)
            updates = rules.scaled(updates, hparams)
            params = jax.tree.map(jnp.add, params, updates)
        return params

    everywhere = run(0.1, ParameterRules(learning_rate_multipliers=((".*", "half"),)))
    # A power of two, so that no bit depends on when it is multiplied.
    jax.tree.map(
        np.testing.assert_array_equal, everywhere, run(np.float32(0.1) * 0.5, ParameterRules())
    )


def test_a_multiplier_among_the_hparams_never_compiles_again():
    rules = {"learning_rate_multipliers": (("Dense_0/.*", "slower"),)}
    one, other = (loop.validate(config_with({"slower": x}, **rules)) for x in (0.1, 0.9))
    assert program_lib.get(one) is program_lib.get(other)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (
            None,
            {"encoder": {"kernel": True, "bias": True}, "head": {"kernel": False, "bias": False}},
        ),
        (
            {"encoder": False, "head": True},  # a prefix of the tree
            {"encoder": {"kernel": False, "bias": True}, "head": {"kernel": False, "bias": True}},
        ),
        (
            lambda params: jax.tree.map(lambda p: False, params),
            {"encoder": {"kernel": False, "bias": True}, "head": {"kernel": False, "bias": False}},
        ),
    ],
)
def test_masks_start_from_the_workloads_and_the_first_pattern_decides(mask, expected):
    rules = ParameterRules(
        weight_decay_mask=(("encoder/bias", True), ("head/kernel", False), ("head/k.*", True))
    )
    assert rules.decay_mask(PARAMS, mask) == expected
    assert ParameterRules().decay_mask(PARAMS, mask) is mask


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"freeze": ("Dense_2/.*",)},
            r"freeze: 'Dense_2/\.\*' matches no path; .* of 4 are Dense_",
        ),
        ({"freeze": ("Dense_0",)}, r"matches no path"),  # the whole path must match
        ({"freeze": "Dense_0/.*"}, r"freeze must be a tuple of patterns"),
        ({"freeze": ("Dense_(",)}, r"'Dense_\(' is not a regular expression"),
        ({"freeze": (".*",)}, r"leaves no parameter to train"),
        ({"learning_rate_multipliers": ((".*", -1.0),)}, r"needs a number ≥ 0 or the name of one"),
        ({"learning_rate_multipliers": ((".*", "rate"),)}, r"hparams.rate, missing; did you mean"),
        ({"learning_rate_multipliers": (".*", 1.0)}, r"must be pairs like"),
        (
            {"learning_rate_multipliers": ((".*", 1.0), ("Dense_0/.*", 0.1))},
            r"an earlier pattern decides all that 'Dense_0/\.\*' matches",
        ),
        ({"weight_decay_mask": ((".*", 0.5),)}, r"needs True or False, not 0.5"),
        ({"weight_decay_mask": (("bias", True),)}, r"weight_decay_mask: 'bias' matches no path"),
    ],
)
def test_a_rule_without_effect_is_refused_before_anything_is_written(tmp_path, values, message):
    with pytest.raises(UsageError, match=message) as error:
        loop.train(config_with(**values), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_differences_name_paths_and_shapes():
    other = {"encoder": {"kernel": np.ones((3, 4)), "bias": np.ones(2)}, "tail": np.ones(1)}
    assert parameter_rules.differences(other, PARAMS) == [
        "encoder/kernel [3, 4] there, [3, 2] here",
        "tail [1] there, missing here",
        "head/bias missing there, [2] here",
        "head/kernel missing there, [2, 2] here",
    ]
