import jax
import numpy as np
import pytest

from playbook_jax import config as config_lib, evaluation, program as program_lib, train_step
from tests import small


def evaluate(split="validation", **overrides):
    config = config_lib.complete(small.digits(**overrides))
    program = program_lib.get(config)
    hparams = train_step.cast_hparams(config.hparams)
    state, _, variants = program.settle(program.init(3))
    sums = program.start_evaluation(variants[""], split, hparams)
    return program, state, {k: np.asarray(v)[0, 0] / np.asarray(v)[0, 1] for k, v in sums.items()}


@pytest.mark.playbook("padded-examples-weigh-nothing")
def test_the_evaluation_batch_size_changes_nothing():
    # 300 examples: whole batches, a partial last one, one batch larger than the set.
    results = [evaluate(eval_batch_size=size)[2] for size in (60, 64, 128, 512)]
    for result in results[1:]:
        assert result["error_rate"] == results[0]["error_rate"]  # counts are exact in float32
        assert result["loss"] == pytest.approx(results[0]["loss"], rel=1e-6)


@pytest.mark.playbook("padded-examples-weigh-nothing")
def test_metrics_equal_a_float64_reference():
    program, state, result = evaluate(eval_batch_size=64)
    params = jax.tree.map(lambda x: np.asarray(x[0], np.float64), state.params)
    data = program.arrays["validation"]
    x = data["image"].reshape(300, 64) / 8.0 - 1
    x = np.maximum(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"], 0)
    logits = x @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss = -log_p[np.arange(300), data["label"]].mean()
    assert result["loss"] == pytest.approx(loss, rel=1e-5)  # float32 sums of 300
    assert result["error_rate"] == pytest.approx(np.mean(logits.argmax(1) != data["label"]), 1e-6)


def test_padding_repeats_real_examples_and_has_weight_zero():
    arrays = {"x": np.arange(10.0)}
    batches = evaluation.padded_batches(arrays, 8)  # four devices
    assert batches["x"].shape == (4, 2, 2)
    assert batches["weight"].sum() == 10
    flat = np.moveaxis(batches["x"], 0, 1).ravel()
    np.testing.assert_array_equal(flat, [*range(10), 9, 9, 9, 9, 9, 9])


@pytest.mark.playbook("evaluation-sample")
def test_the_sample_of_the_training_set_is_fixed_and_spread():
    arrays = {"x": np.arange(1000)}
    sample = evaluation.train_sample(arrays, 100)["x"]
    np.testing.assert_array_equal(sample, np.arange(0, 1000, 10))
    np.testing.assert_array_equal(evaluation.train_sample(arrays, 5000)["x"], arrays["x"])
