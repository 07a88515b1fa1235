import itertools

import jax
import numpy as np
import pytest

from playbook_jax import checkpoints, config as config_lib, layers, trial, workload
from playbook_jax.errors import UsageError
from playbook_jax.studies import specification, trial_points
from playbook_jax.training import loop
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
    status = loop.train(config, tmp_path / "trial")
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
        loop.validate(config_lib.override(CONFIG, {key: value}))


def test_splits_are_disjoint_whole_and_like_each_other():
    splits = make().splits()
    assert sum(len(split["label"]) for split in splits.values()) == 1_797
    for split in splits.values():
        shares = np.bincount(split["label"], minlength=10) / len(split["label"])
        # A tenth each, within three standard deviations of a random draw of 300.
        np.testing.assert_allclose(shares, 0.1, atol=3 * np.sqrt(0.1 * 0.9 / 300))


@pytest.mark.playbook("architecture-is-a-family")
@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn"])
def test_the_activation_is_a_hyperparameter_of_the_shipped_models(name, batch, tmp_path):
    path = small.ROOT / "configs" / f"{name}.py"
    config = config_lib.complete(config_lib.load(path))
    logits, programs = {}, set()
    for activation in layers.ACTIVATIONS:
        changed = config_lib.override(config, {"model.activation": activation})
        programs.add(config_lib.static_part(changed))
        model = workload.find("digits")(changed)
        variables = model.init(jax.random.key(0))
        logits[activation] = np.asarray(model.apply(variables, batch, {}, {}, train=False)[0])
    assert len(programs) == len(layers.ACTIVATIONS) >= 4
    for one, two in itertools.combinations(logits, 2):
        assert np.abs(logits[one] - logits[two]).max() > 1e-3, (one, two)
    wrong = workload.find("digits")(config_lib.override(config, {"model.activation": "gelo"}))
    with pytest.raises(UsageError, match=r"model\.activation.*gelu"):
        wrong.init(jax.random.key(0))
    # And so of a study: the three of the playbook's architecture vary by their config keys.
    study = tmp_path / "study.py"
    study.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict({study_of(path, name)!r}, convert_dict=False)\n"
    )
    spec = specification.load(study)
    points = [tuple(point.values()) for point in trial_points.points(spec)]
    assert len(set(points)) == len(points) == 8
    for point in trial_points.points(spec):
        specification.trial_config(spec.base_config, 0, point, False)


def study_of(path, name):
    sizes = {"digits_mlp": "model.hidden_sizes", "digits_cnn": "model.channels"}[name]
    return {
        "name": "family",
        "goal": "Which width, depth and activation?",
        "base_config": str(path),
        "objective": {"metric": "validation/loss", "mode": "min"},
        "algorithm": "grid",
        "scientific": {
            "model.activation": {"values": ["relu", "gelu"]},
            sizes: {"values": [[8], [16], [8, 8], [16, 16]]},
        },
    }


def test_the_activation_of_the_mlp_is_the_one_that_is_named(batch):
    config = config_lib.load(small.ROOT / "configs" / "digits_mlp.py")
    values = {"model.activation": "tanh", "model.hidden_sizes": (7,)}
    mlp = workload.find("digits")(config_lib.override(config, values))
    variables = mlp.init(jax.random.key(0))
    first, last = (variables["params"][f"Dense_{i}"] for i in (0, 1))
    x = batch["image"].reshape(8, -1).astype(np.float64) / 8 - 1
    hidden = np.tanh(x @ np.asarray(first["kernel"]) + first["bias"])
    actual = mlp.apply(variables, batch, {}, {}, train=False)[0]
    np.testing.assert_allclose(actual, hidden @ last["kernel"] + last["bias"], atol=1e-5)
