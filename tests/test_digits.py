import jax
import numpy as np
import pytest

from playbook_jax import checkpoints, config as config_lib, train, trial, workload
from playbook_jax.errors import UsageError
from tests import small

CONFIG = config_lib.load(small.ROOT / "configs" / "digits_cnn.py")


def make(**overrides):
    return workload.find("digits")(config_lib.override(CONFIG, overrides))


@pytest.fixture(scope="module")
def batch():
    return {k: x[:8] for k, x in make().splits()["train"].items()}


@pytest.mark.playbook("zero-residual-branches")
def test_residual_branches_of_the_cnn_begin_at_zero(batch):
    cnn = make()
    variables = cnn.init(jax.random.key(0))

    def logits(params):
        return np.asarray(cnn.apply(variables | {"params": params}, batch, {}, {}, train=False)[0])

    params = variables["params"]
    plain = logits(params)
    block = params["Residual_1"]
    noise = block | {"Conv_1": jax.tree.map(lambda x: x + 1, block["Conv_1"])}
    np.testing.assert_array_equal(logits(params | {"Residual_1": noise}), plain)
    # The branch does reach the output once its scale is not zero any more.
    noise = noise | {"residual_scale": np.float32(1)}
    assert np.abs(logits(params | {"Residual_1": noise}) - plain).max() > 0.1


def test_batch_statistics_travel_through_the_run(tmp_path):
    config = small.shrunk(small.ROOT / "configs" / "digits_cnn.py")
    status = train.train(config, tmp_path / "trial")
    assert status["state"] == "COMPLETE"
    saved = checkpoints.load(tmp_path / "trial", "latest")
    means = [
        x for path, x in jax.tree.leaves_with_path(saved["batch_stats"]) if "mean" in str(path)
    ]
    assert len(means) == 5  # two in each block, and one before the head
    assert all(np.abs(mean).max() > 0.01 for mean in means)
    # They are what evaluation uses: without them, it gives another loss.
    cnn = workload.find("digits")(config)
    data = cnn.splits()["validation"]

    def loss(batch_stats):
        variables = {"params": saved["params"], "batch_stats": batch_stats}
        outputs, _ = cnn.apply(variables, data, {}, {}, train=False)
        numerator, denominator = cnn.metrics(outputs, data)["loss"]
        return np.sum(numerator) / np.sum(denominator)

    reported = trial.load(tmp_path / "trial").evaluations["validation/loss"].iloc[-1]
    assert loss(saved["batch_stats"]) == pytest.approx(reported, rel=1e-5)
    fresh = jax.tree.map(np.zeros_like, saved["batch_stats"])
    assert abs(loss(fresh) - reported) > 0.01 * reported


@pytest.mark.playbook("layer-norm-instead")
def test_layer_norm_takes_batch_norms_place_by_one_value(batch):
    variables = make(**{"model.norm": "layer"}).init(jax.random.key(0))
    assert "batch_stats" not in variables
    assert set(variables["params"]["Residual_0"]["LayerNorm_0"]) == {"scale", "bias"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.norm", "batchnorm", "unknown norm 'batchnorm'; did you mean 'batch'"),
        (
            "model.norm_placement",
            "pre_norm",
            "unknown norm_placement 'pre_norm'; did you mean 'pre'",
        ),
        ("model.dtype", "bf16", "unknown model.dtype 'bf16'"),
    ],
)
def test_a_misspelt_architecture_is_told_before_anything_is_written(key, value, message):
    with pytest.raises(UsageError, match=message):
        train.validate(config_lib.override(CONFIG, {key: value}))


def test_splits_are_disjoint_whole_and_like_each_other():
    splits = make().splits()
    assert sum(len(split["label"]) for split in splits.values()) == 1_797
    for split in splits.values():
        shares = np.bincount(split["label"], minlength=10) / len(split["label"])
        # A tenth each, within three standard deviations of a random draw of 300.
        np.testing.assert_allclose(shares, 0.1, atol=3 * np.sqrt(0.1 * 0.9 / 300))
