"""The gradient's norm by parameter group, against a float64 reference."""

import jax
import numpy as np
import pytest

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.input import pipeline
from playbook_jax.training import gradient_norms, loop, program as program_lib
from tests import small
from tests.runs import stop_after

COLUMNS = ["gradient_norm/Dense_0", "gradient_norm/Dense_1"]


def config(**overrides):
    result = small.digits(**overrides)
    with result.unlocked():
        result.record_group_norms = True
    return result


def interrupted(directory, calls):
    return loop.train(config(), directory, should_stop=stop_after(calls))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("group_norms") / "trial"
    assert loop.train(config(), directory)["state"] == "COMPLETE"
    return directory


def reference_norms(run_config):
    """The norms of the first step's gradient by group, in NumPy and float64, from the formulas."""
    run_config = loop.validate(run_config)
    program = program_lib.get(run_config)
    p = jax.tree.map(
        lambda x: np.asarray(x, np.float64), loop.parallel.first(program.init(0)).params
    )
    data = program.arrays["train"]
    orders = pipeline.shard_orders(run_config, len(data["label"]))
    rows = np.concatenate([order.indices(0, 1)[0] for order in orders])
    x = data["image"][rows].reshape(len(rows), -1) / 8.0 - 1
    a = x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
    z = np.maximum(a, 0)
    logits = z @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    d = (probabilities - np.eye(10)[data["label"][rows]]) / len(rows)
    da = (d @ p["Dense_1"]["kernel"].T) * (a > 0)
    groups = [(x.T @ da, da.sum(0)), (z.T @ d, d.sum(0))]
    return [np.sqrt(sum((g**2).sum() for g in group)) for group in groups]


@pytest.mark.playbook("gradient-norm-by-group")
def test_the_norms_are_those_of_the_unclipped_gradient_of_each_module(tmp_path):
    # Clipping and weight decay must not show in them.
    run_config = config(max_train_steps=20, hparams__clip_norm=0.5, hparams__weight_decay=0.1)
    loop.train(run_config, tmp_path / "trial")
    steps = trial.load(tmp_path / "trial").steps
    assert list(steps.columns) == ["step", *trial.STEP_COLUMNS, *COLUMNS]
    assert steps["clipped"].sum() > 0
    # float32 against float64.
    np.testing.assert_allclose(steps[COLUMNS].iloc[0], reference_norms(run_config), rtol=1e-5)
    # At every step their squares add up to that of the whole.
    squares = (steps[COLUMNS].astype(float) ** 2).sum(axis=1)
    np.testing.assert_allclose(np.sqrt(squares), steps["gradient_norm"], rtol=1e-6)


def test_recording_them_changes_nothing_else(finished, tmp_path):
    loop.train(small.digits(), tmp_path / "trial")
    without, records = trial.read_steps(tmp_path / "trial"), trial.read_steps(finished)
    assert without.shape == (40, 5)
    assert records.shape == (40, 7)
    # Another program, so fused differently: the last bits may differ.
    np.testing.assert_allclose(records[:, :5], without, rtol=1e-5)
    same = [trial.load(d).evaluations for d in (tmp_path / "trial", finished)]
    np.testing.assert_allclose(same[0], same[1], rtol=1e-4)


@pytest.mark.parametrize("calls", [1, 3])
def test_a_resumed_run_has_the_same_records(finished, tmp_path, calls):
    directory = tmp_path / "trial"
    assert interrupted(directory, calls)["state"] == "INTERRUPTED"
    # What a kill leaves: a row and a part of one beyond the checkpoint.
    with (directory / "steps.f32").open("ab") as file:
        file.write(np.full(9, 7, "<f4").tobytes())
    assert loop.train(config(), directory)["state"] == "COMPLETE"
    for name in ("steps.f32", "steps.json", "summary.json"):
        assert (directory / name).read_bytes() == (finished / name).read_bytes()


def test_the_summary_has_their_curves(finished):
    curves = trial.load(finished).summary["curves"]
    records = trial.read_steps(finished)
    for column, name in enumerate(COLUMNS, 5):
        np.testing.assert_allclose(curves[name], records[:, column])  # 40 steps: nothing is thinned
    assert set(curves) == {"step", "loss", "gradient_norm", "gradient_norm_max", *COLUMNS}


def test_a_run_that_diverges_keeps_them_up_to_its_bad_step(tmp_path):
    status = loop.train(config(hparams__learning_rate=1e6), tmp_path / "trial")
    assert status["state"] == "INFEASIBLE"
    steps = trial.load(tmp_path / "trial").steps
    assert len(steps) == status["step"] + 1
    assert np.isfinite(steps[COLUMNS].iloc[:-1]).all(axis=None)


def test_off_unless_asked_for():
    assert not config_lib.complete(small.digits()).record_group_norms
    wrong = small.digits()
    with wrong.unlocked():
        wrong.record_group_norms = "Dense_0"
    with pytest.raises(
        UsageError, match="record_group_norms must be True or False; it is 'Dense_0'"
    ):
        config_lib.complete(wrong)


def test_groups_are_the_first_names_of_any_tree():
    tree = {"b": {"x": np.ones(4), "y": {"z": 3 * np.ones(4)}}, "a": [np.ones(9), None]}
    assert gradient_norms.columns(tree) == ("gradient_norm/a", "gradient_norm/b")
    np.testing.assert_allclose(gradient_norms.norms(tree), [3, np.sqrt(40)], rtol=1e-6)
    assert gradient_norms.columns(np.ones(3)) == ("gradient_norm/all",)
    # A group that is frozen as a whole is none.
    assert gradient_norms.columns({"a": {"x": None}, "b": np.ones(1)}) == ("gradient_norm/b",)
