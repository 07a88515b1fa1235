import jax
import numpy as np
import pytest
from etils import epath

from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError
from playbook_jax.inference import evaluate as evaluate_lib
from playbook_jax.training import evaluation, loop, program as program_lib
from tests import small
from tests.runs import stop_after


def evaluate(split="validation", **overrides):
    config = config_lib.complete(small.digits(**overrides))
    program = program_lib.get(config)
    hparams = program.values({0: config}).hparams
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


def with_predictions(save_predictions, **hparams):
    config = small.digits()
    with config.unlocked():
        config.save_predictions = save_predictions
        config.hparams.update(hparams)
    return config


@pytest.mark.playbook("predictions-of-chosen-examples")
def test_predictions_of_chosen_examples_are_saved_at_each_evaluation(tmp_path):
    chosen = (299, 0, 17)  # three examples on four devices, in the order that was asked for
    config = with_predictions(chosen, polyak_decay=0.5)
    assert loop.train(config, tmp_path / "run")["state"] == "COMPLETE"
    saved = sorted((tmp_path / "run" / "predictions").iterdir())
    assert [path.name for path in saved] == ["10.npz", "20.npz", "30.npz", "40.npz"]
    arrays = np.load(saved[-1])
    np.testing.assert_array_equal(arrays["example"], chosen)
    for prefix, polyak in (("", False), ("polyak/", True)):
        whole = evaluate_lib.evaluate(tmp_path / "run", "latest", "validation", polyak=polyak)
        for name in ("prediction", "label"):
            expected = whole.arrays[name][list(chosen)]
            np.testing.assert_array_equal(arrays[prefix + name], expected)
        # The last bit of a sum may depend on the shape of the batch.
        expected = whole.arrays["probability"][list(chosen)]
        np.testing.assert_allclose(arrays[prefix + "probability"], expected, rtol=1e-5)
    # An interrupted run leaves the same files.
    loop.train(config, tmp_path / "again", should_stop=stop_after(3))
    assert loop.train(config, tmp_path / "again")["state"] == "COMPLETE"
    for path in saved:
        assert (tmp_path / "again" / "predictions" / path.name).read_bytes() == path.read_bytes()


def test_predictions_of_more_examples_than_a_batch_holds(tmp_path):
    arrays = {"x": np.arange(300)}
    np.testing.assert_array_equal(evaluation.chosen_examples(3, arrays), [0, 100, 200])
    config = with_predictions(1_000)  # there are 300; batches of 128
    assert loop.train(config, tmp_path / "run")["state"] == "COMPLETE"
    arrays = np.load(tmp_path / "run" / "predictions" / "40.npz")
    whole = evaluate_lib.evaluate(tmp_path / "run", "latest", "validation")
    for name in ("example", "prediction"):
        np.testing.assert_array_equal(arrays[name], whole.arrays[name])


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ((0, 300), "there is no example 300; validation has 0 to 299"),
        ((-1,), "must be a number of examples or a tuple of their numbers"),
        (-1, "must be a number of examples"),
        (0.5, "must be a number of examples"),
        ("all", "must be a number of examples"),
    ],
)
def test_examples_that_do_not_exist_are_refused(tmp_path, chosen, message):
    with pytest.raises(UsageError, match=message):
        loop.train(with_predictions(chosen), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workload_without_predictions_has_none_to_save():
    workload = program_lib.workload_lib.find("digits")(small.digits())
    workload.predictions = lambda outputs, batch: {}
    variables = jax.eval_shape(workload.init, jax.random.key(0))
    arrays = workload.splits()["validation"]
    with pytest.raises(UsageError, match="Digits has no method `predictions` that gives some"):
        evaluation.check_predictions(workload, arrays, variables, {})


def test_narrow_floats_are_written_as_float32(tmp_path):
    x = np.arange(3).astype(jax.numpy.bfloat16)
    evaluation.write_arrays(epath.Path(tmp_path) / "x.npz", {"x": x})
    assert np.load(tmp_path / "x.npz")["x"].dtype == np.float32
