"""Divergence on every path: in the step, at an evaluation, before a checkpoint, at the end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from playbook_jax import checkpoints, config as config_lib, trial
from playbook_jax.training import divergence, loop, program as program_lib, train_step
from tests import small
from tests.runs import new_programs, run
from workloads import digits


def saved_states(directory):
    """All that is on disk, the best states included."""
    with checkpoints.Checkpoints(directory, keep_best=9, mode="min") as saved:
        steps = saved._manager.all_steps()
        return {step: checkpoints._read(saved._manager, step) for step in steps}


def assert_finite(tree):
    for path, leaf in jax.tree.flatten_with_path(tree)[0]:
        assert np.isfinite(np.asarray(leaf, np.float64)).all(), path


@pytest.mark.playbook("diverged-trials-are-infeasible")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_diverged_run_is_infeasible_and_never_checkpointed(tmp_path, dtype):
    config = small.digits(hparams__learning_rate=1e6, checkpoint__every_steps=1)
    with config.unlocked():
        config.model.dtype = dtype
    # A save is under way at every step, also when the bad one comes.
    status = loop.train(config, tmp_path / "trial")
    assert status["state"] == "INFEASIBLE"
    assert status["objective"] is None
    assert status["best_step"] is None
    records = trial.read_steps(tmp_path / "trial")
    # The bad step is the last row and the only one with a number that is not finite.
    assert len(records) == status["step"] + 1
    finite = np.isfinite(records[:, :3]).all(axis=1)
    assert finite[:-1].all()
    assert not finite[-1]
    assert f"(step {status['step']})" in status["reason"]
    saved = saved_states(tmp_path / "trial")
    assert list(saved) == [status["step"]]  # the last good one
    assert_finite(saved)
    assert loop.train(config, tmp_path / "trial") == status


def test_a_validation_objective_that_is_not_finite_is_infeasible(tmp_path, monkeypatch):
    metrics = digits.Digits.metrics

    def overflowing(self, outputs, batch):
        pairs = metrics(self, outputs, batch)
        sure = jnp.max(jnp.abs(outputs)) > 3.5  # which comes with training
        numerator, denominator = pairs["loss"]
        return pairs | {"loss": (jnp.where(sure, jnp.inf, numerator), denominator)}

    monkeypatch.setattr(digits.Digits, "metrics", overflowing)
    overrides = {"checkpoint__every_steps": 10, "checkpoint__metric": "validation/loss"}
    with new_programs():
        status = run(tmp_path / "trial", **overrides)
    assert status["state"] == "INFEASIBLE"
    assert status["reason"] == f"validation/loss is not finite (step {status['step']})"
    assert (status["objective"], status["best_step"]) == (None, None)
    evaluations = trial.load(tmp_path / "trial").evaluations
    assert 20 <= status["step"] == evaluations["step"].iloc[-1]
    assert np.isfinite(evaluations["validation/loss"].iloc[:-1]).all()
    assert not np.isfinite(evaluations["validation/loss"].iloc[-1])
    assert len(trial.read_steps(tmp_path / "trial")) == status["step"]
    # What was saved before stays, the last evaluation's state is not there.
    assert list(saved_states(tmp_path / "trial")) == [status["step"] - 10]


def test_a_state_that_is_not_finite_is_never_saved_though_loss_and_gradient_are(
    tmp_path, monkeypatch
):
    apply = digits.Digits.apply

    def overflowing(self, variables, batch, hparams, rngs, train):
        outputs, batch_stats = apply(self, variables, batch, hparams, rngs, train)
        # As an activation of 1e20 gives, whose normalized value is fine.
        grow = jax.tree.map(lambda x: jnp.where(x < 0.5, jnp.inf, x), batch_stats)
        return outputs, grow if train else batch_stats

    monkeypatch.setattr(digits.Digits, "apply", overflowing)
    config = config_lib.override(
        config_lib.load(small.ROOT / "configs" / "digits_cnn.py"),
        {"model.channels": (4,), "max_train_steps": 4, "checkpoint.every_steps": 2},
    )
    with new_programs():
        status = loop.train(config, tmp_path / "trial")
    assert status["state"] == "INFEASIBLE"
    assert status["reason"] == "batch_stats/BatchNorm_0/mean is not finite (step 2)"
    assert np.isfinite(trial.read_steps(tmp_path / "trial")).all()
    assert saved_states(tmp_path / "trial") == {}


@pytest.mark.playbook("diverged-trials-are-infeasible")
def test_a_good_run_that_spikes_early_is_left_alone(tmp_path):
    config = config_lib.override(
        config_lib.load(small.ROOT / "configs" / "digits_mlp.py"),
        {"optimizer": "adam", "hparams.learning_rate": 0.1, "eval_every_steps": 500},
    )
    assert loop.train(config, tmp_path / "trial")["state"] == "COMPLETE"
    loss = trial.read_steps(tmp_path / "trial")[:, 0]
    assert loss.max() > 4 * loss[0]
    assert loss[-20:].mean() < loss[0] / 5


class Quadratic(program_lib.workload_lib.Workload):
    """loss = x² / 2, so that gradient descent with learning rate a multiplies x by 1 − a."""

    def init(self, rng):
        return {"params": {"x": jax.numpy.float32(1)}}

    def apply(self, variables, batch, hparams, rngs, train):
        return variables["params"]["x"] * jax.numpy.ones(2), {}

    def loss(self, outputs, batch, hparams):
        return outputs**2 / 2, jax.numpy.ones(2)


def descend(learning_rate, steps, **hparams):
    update = train_step.make_update(Quadratic(None), "sgd", "constant")
    hparams = {
        "learning_rate": learning_rate,
        "clip_norm": 0.0,
        "divergence_factor": 20.0,
    } | hparams
    hparams = train_step.cast_hparams({**config_lib.HPARAM_DEFAULTS, **hparams})
    step = jax.jit(jax.vmap(update, axis_name="batch", in_axes=(0, 0, None, None)))
    state = train_step.initial_state(Quadratic(None), "sgd", 0)
    state = jax.tree.map(lambda x: jax.numpy.asarray(x)[None], state)
    records = []
    for _ in range(steps):
        state, record = step(state, np.zeros(1), hparams, np.float32(steps))
        records.append(record[0])
    return jax.tree.map(lambda x: x[0], state), np.array(records)


@pytest.mark.playbook("diverged-trials-are-infeasible")
def test_a_loss_that_stays_high_is_divergence_and_a_spike_is_not():
    # x grows by 1.2 a step and the loss by 1.44: above 20 times its start from step 9 on, and for
    # 20 steps on end at step 28.
    state, records = descend(2.2, 60)
    assert np.isfinite(records).all()
    first_high = int(np.argmax(records[:, 0] > 20 * records[0, 0]))
    assert first_high == 9
    assert int(state.bad_step) == first_high + divergence.HIGH_LOSS_STEPS - 1
    assert float(state.params["x"]) == pytest.approx(1.2**28 * (1 if 28 % 2 == 0 else -1), rel=1e-4)
    assert int(state.step) == 28
    # One step short of that it is a spike, which good runs have too.
    assert int(descend(2.2, 28)[0].bad_step) == -1
    # 0 turns the rule off.
    assert int(descend(2.2, 60, divergence_factor=0.0)[0].bad_step) == -1


@pytest.mark.playbook("diverged-trials-are-infeasible")
def test_the_state_stays_as_it_was_before_a_bad_step():
    # 1e5 ** t overflows float32's square in the loss at t = 4.
    state, records = descend(1e5, 12, divergence_factor=0.0)
    bad = int(np.argmin(np.isfinite(records).all(axis=1)))
    assert int(state.bad_step) == bad == int(state.step)
    assert np.isfinite(float(state.params["x"]))


@pytest.mark.playbook("rising-training-loss")
def test_a_training_loss_that_ends_above_its_beginning_is_infeasible():
    on, off = {"divergence_factor": 20.0}, {"divergence_factor": 0.0}
    ended = divergence.ended_above_its_beginning
    assert ended([1.0] * 20, [1.05] * 20, on) == ""  # noise of the batches
    assert "ends at 1.2, above the 1 of step 0" in ended([1.0] * 20, [1.2] * 20, on)
    assert ended([1.0] * 20, [1.2] * 20, off) == ""
    assert ended([-3.0] * 20, [-2.0] * 20, on) == ""  # a log density
    # It rises at once and stays there; a spike at the beginning hides nothing.
    noise = np.random.default_rng(0).normal(0, 0.3, 20)
    for first in ([2.3, 3.0, 3.8, *(4 + noise[3:])], [2.3, 1e6, 50, *(4 + noise[3:])]):
        assert "above the 2.3 of step 0" in ended(first, (4 + noise).tolist(), on)


def test_the_first_batch_is_no_measure_where_batches_differ():
    rng = np.random.default_rng(0)
    # As small batches of a run that has learned nearly everything: most are easy, some are not.
    for _ in range(300):
        losses = rng.lognormal(-6, 1.0, 40).tolist()
        hparams = {"divergence_factor": 20.0}
        assert divergence.ended_above_its_beginning(losses[:20], losses[20:], hparams) == ""


def test_going_on_from_a_good_run_without_learning_is_no_divergence(tmp_path):
    """At a learning rate of 0 every batch has the loss of the same parameters."""
    assert run(tmp_path / "good", max_train_steps=400)["state"] == "COMPLETE"
    for seed in range(5):
        overrides = {"initialize_from": {"path": str(tmp_path / "good"), "step": "latest"}}
        config = small.digits(seed=seed, batch_size=8, hparams__learning_rate=0.0)
        with config.unlocked():
            config.update(overrides)
        status = loop.train(config, tmp_path / str(seed))
        assert status["state"] == "COMPLETE", status
