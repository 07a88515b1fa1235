"""Computation in bfloat16: parameters, statistics, norms and loss stay in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from playbook_jax import checkpoints, layers, trial, workload
from playbook_jax.training import loop
from tests import small

MODELS = ("digits_mlp", "digits_cnn", "stdlib_lm")
STEPS = 30


def make(name, dtype):
    """The config with a training that is short, but long enough for some learning."""
    return small.shrunk(
        small.ROOT / "configs" / f"{name}.py",
        model__dtype=dtype,
        max_train_steps=STEPS,
        hparams__learning_rate={"digits_mlp": 0.1, "digits_cnn": 0.003, "stdlib_lm": 0.02}[name],
        hparams__dropout_rate=0.0,
    )


def floating_types(tree):
    dtypes = {np.asarray(x).dtype for x in jax.tree.leaves(tree)}
    return {dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)}


@pytest.mark.parametrize("name", MODELS)
def test_training_keeps_its_state_in_float32_and_ends_near_float32s_result(name, tmp_path):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        status = loop.train(make(name, dtype), tmp_path / dtype)
        assert status["state"] == "COMPLETE"
        run = trial.load(tmp_path / dtype)
        losses[dtype] = run.evaluations["validation/loss"].iloc[-1]
        first = run.steps["loss"].iloc[0]
        assert len(run.steps) == STEPS
    saved = checkpoints.load(tmp_path / "bfloat16", "latest")
    assert floating_types(saved) == {np.dtype("float32")}
    assert bool(saved["batch_stats"]) == (name == "digits_cnn")
    # It has learned what there is to learn in so few steps, as float32 has.
    gain = first - losses["float32"]
    assert gain > 0.3 * first
    assert 0 < abs(losses["bfloat16"] - losses["float32"]) < 0.1 * gain


@pytest.mark.parametrize("name", MODELS)
def test_the_model_computes_in_bfloat16_and_its_loss_in_float32(name):
    config = make(name, "bfloat16")
    model = workload.find(config.workload)(config)
    batch = {key: x[:16] for key, x in model.splits()["train"].items()}
    hparams = {"label_smoothing": 0.1, "dropout_rate": 0.0}

    # Not in one function with the loss: there XLA may leave out the rounding in between.
    outputs, _ = jax.jit(lambda v: model.apply(v, batch, hparams, {}, train=False))(
        jax.jit(model.init)(jax.random.key(0))
    )
    assert outputs.dtype == jnp.bfloat16
    loss = model.loss(outputs, batch, hparams)
    assert floating_types((loss, model.metrics(outputs, batch))) == {np.dtype("float32")}
    wide = np.asarray(outputs, np.float64)
    log_p = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    labels = batch["label"] if name != "stdlib_lm" else batch["bytes"][:, 1:]
    true = np.take_along_axis(log_p, labels[..., None].astype(int), -1)[..., 0]
    counts = np.ones_like(true) if name != "stdlib_lm" else labels != 0
    expected = np.sum((-0.9 * true - 0.1 * log_p.mean(-1)) * counts, tuple(range(1, true.ndim)))
    # bfloat16 rounds to 4e-3.
    np.testing.assert_allclose(loss[0], expected, rtol=1e-5)


@pytest.mark.parametrize(("kind", "axis", "epsilon"), [("layer", 1, 1e-6), ("batch", 0, 1e-5)])
def test_norms_compute_in_float32(kind, axis, epsilon):
    # Around 100 bfloat16 has a resolution of 0.5, and sums of 64 such numbers one of 32.
    x = jnp.asarray(np.random.default_rng(0).normal(100, 4, (64, 64)), jnp.bfloat16)

    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.make_norm(kind, train=True, dtype=jnp.bfloat16)(x)

    y, _ = Norm().init_with_output(jax.random.key(0), x)
    wide = np.asarray(x, np.float64)
    centered = wide - wide.mean(axis, keepdims=True)
    expected = centered / np.sqrt(wide.var(axis, keepdims=True) + epsilon)
    assert y.dtype == jnp.bfloat16
    # The result is rounded once, to 8 bits.
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-4)
