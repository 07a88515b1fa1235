import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from playbook_jax import checkpoints, trial, workload
from playbook_jax.errors import UsageError
from playbook_jax.inference import export
from playbook_jax.training import loop
from tests import small

# Runs the lines of signature.json on features.npz, in a process that knows nothing of this code.
LOADER = """
import json, sys
for name in ("playbook_jax", "workloads", "flax", "optax", "orbax"):
    sys.modules[name] = None  # any import of it fails
import numpy as np
fed = np.load("features.npz")
lines = json.load(open("signature.json"))["formats"][sys.argv[1]]["load"]
results = {}
for size in sys.argv[2:]:
    features = {name: fed[name][:int(size)] for name in fed}
    exec("\\n".join(lines))
    results |= {f"{size}/{name}": np.asarray(x, np.float32) for name, x in outputs.items()}
np.savez("results.npz", **results)
"""
SIZES = (1, 7, 300)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported") / "trial"
    config = small.digits()
    with config.unlocked():
        config.hparams.polyak_decay = 0.9
    assert loop.train(config, directory)["state"] == "COMPLETE"
    return directory


def elsewhere(place, form, features, sizes, tmp_path):
    """What the exported model gives in a fresh process, having been moved: {size: {output: array}}."""
    copy = tmp_path / f"moved-{form}"
    shutil.copytree(place, copy)
    np.savez(copy / "features.npz", **features)
    subprocess.run(
        [sys.executable, "-I", "-c", LOADER, form, *map(str, sizes)],
        cwd=copy,
        check=True,
        env=small.one_device() | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    results = np.load(copy / "results.npz")
    return {
        size: {key.partition("/")[2]: results[key] for key in results if key.startswith(f"{size}/")}
        for size in sizes
    }


def digits(directory, polyak=False):
    """The validation images and the logits that the workload itself gives for them."""
    digits = workload.find("digits")(small.digits())
    saved = checkpoints.load(directory, "best")
    prefix = "polyak_" if polyak else ""
    variables = {name: saved[prefix + name] for name in ("params", "batch_stats")}
    batch = digits.splits()["validation"]
    logits, _ = digits.apply(variables, batch, {}, {}, train=False)
    return batch, np.asarray(logits)


@pytest.mark.playbook("exported-model")
def test_both_formats_predict_the_same_in_a_process_without_this_code(directory, tmp_path):
    signature = export.export(directory, "best")
    batch, logits = digits(directory)
    assert signature["inputs"] == {"image": {"shape": ["batch", 8, 8, 1], "dtype": "uint8"}}
    assert signature["outputs"] == {"outputs": {"shape": ["batch", 10], "dtype": "float32"}}
    place = signature["directory"]
    assert json.loads((place / "signature.json").read_text())["step"] == int(place.name)
    # Another thread count, batch size or XLA adds up in another order: a few float32 roundings.
    for form in export.FORMATS:
        results = elsewhere(place, form, {"image": batch["image"]}, SIZES, tmp_path)
        for size in SIZES:
            np.testing.assert_allclose(results[size]["outputs"], logits[:size], atol=1e-5)
        # The error rate that was reported in training comes back from the exported model.
        predicted = results[300]["outputs"].argmax(-1)
        reported = trial.load(directory).summary["best"]["validation/error_rate"]
        assert np.mean(predicted != batch["label"]) == pytest.approx(reported, rel=1e-6)
        assert signature["formats"][form]["largest_difference"] < 1e-5


def test_the_script_exports_the_averaged_parameters_of_any_checkpoint(directory, tmp_path):
    output = tmp_path / "model"
    command = [
        sys.executable,
        "scripts/export.py",
        f"--trial={directory}",
        "--polyak",
        "--format=stablehlo",
        "--platforms=cpu",
        f"--output={output}",
    ]
    for _ in range(2):  # the second one replaces the first
        result = subprocess.run(command, capture_output=True, text=True, cwd=small.ROOT, check=True)
        assert f"The model is in {output}" in result.stdout
    assert sorted(path.name for path in output.iterdir()) == [
        "README.txt",
        "model.stablehlo",
        "signature.json",
        "variables.npz",
    ]
    batch, logits = digits(directory, polyak=True)
    _, raw = digits(directory)
    results = elsewhere(output, "stablehlo", {"image": batch["image"]}, (5,), tmp_path)
    np.testing.assert_allclose(results[5]["outputs"], logits[:5], atol=1e-5)
    assert np.abs(logits - raw).max() > 1e-3  # so the two could not have been mistaken
    (output / "thesis.tex").touch()
    result = subprocess.run(command, capture_output=True, text=True, cwd=small.ROOT)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "holds other files (thesis.tex)" in result.stderr


class Net(nn.Module):
    """Batch norm, bfloat16, and two outputs."""

    @nn.compact
    def __call__(self, x, ids):
        x = nn.BatchNorm(use_running_average=True)(x.astype(jnp.float32))
        embedded = nn.Embed(5, 3, param_dtype=jnp.bfloat16)(ids)
        return {"score": nn.Dense(4)(x), "text": {"embedded": embedded}}


class Mixed(workload.Workload):
    def init(self, rng):
        variables = Net().init(rng, jnp.zeros((1, 6)), jnp.zeros((1, 2), int))
        shift = lambda x: x + jax.random.normal(rng, x.shape)  # noqa: E731
        return {**variables, "batch_stats": jax.tree.map(shift, variables["batch_stats"])}

    def apply(self, variables, batch, hparams, rngs, train):
        outputs = Net().apply(variables, batch["x"], batch["ids"])
        assert batch["label"].shape[0] == batch["x"].shape[0]  # looked at, not needed
        outputs["score"] = outputs["score"] * hparams["scale"]
        return outputs, {}


def mixed():
    rng = np.random.default_rng(0)
    variables = jax.tree.map(np.asarray, Mixed(None).init(jax.random.key(0)))
    batch = {
        "x": rng.integers(0, 255, (9, 6), np.uint8),
        "ids": rng.integers(0, 5, (9, 2)),  # int64, which jax takes as int32
        "label": np.zeros(9, np.int32),
    }
    return variables, batch, export.make_model(Mixed(None), variables, batch, {"scale": 3.0})


def test_batch_norm_bfloat16_nested_outputs_and_unused_features(tmp_path):
    variables, batch, model = mixed()
    assert sorted(model.inputs) == ["ids", "x"]  # the label is not asked for
    signature = export.write(
        model, tmp_path, ["stablehlo"], ["cpu"], batch, {"workload": "mixed", "step": 0}
    )
    assert signature["outputs"]["text/embedded"] == {"shape": ["batch", 2, 3], "dtype": "bfloat16"}
    expected, _ = Mixed(None).apply(variables, batch, {"scale": 3.0}, {}, train=False)
    given = {"x": batch["x"], "ids": batch["ids"]}
    results = elsewhere(tmp_path, "stablehlo", given, (2, 9), tmp_path.with_suffix(".moved"))
    for size in (2, 9):
        score = np.asarray(expected["score"])[:size]  # up to 255 × weights × 3: relative rounding
        np.testing.assert_allclose(results[size]["score"], score, rtol=1e-5, atol=1e-3)
        # Looked up in a bfloat16 table, which variables.npz holds as float32: not a bit is lost.
        embedded = np.asarray(expected["text"]["embedded"][:size], np.float32)
        np.testing.assert_array_equal(results[size]["text/embedded"], embedded)


class Stubborn(Mixed):
    """A model whose code asks whether the batch is large."""

    def apply(self, variables, batch, hparams, rngs, train):
        return (batch["x"] * (2 if batch["x"].shape[0] > 100 else 1)), {}


class Deaf(Mixed):
    def apply(self, variables, batch, hparams, rngs, train):
        return jnp.zeros(batch["x"].shape[0]), {}


def test_models_that_cannot_be_exported_say_so_in_one_line():
    variables, batch, _ = mixed()
    model = export.make_model(Stubborn(None), variables, batch, {})
    with pytest.raises(UsageError, match="cannot be exported for every batch size") as error:
        export.to_stablehlo(model)
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=r"depend on none of its features \(ids, label, x\)"):
        export.make_model(Deaf(None), variables, batch, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 7}, "holds no checkpoint 7"),
        ({"formats": ["stablehl"]}, "unknown format 'stablehl'; did you mean 'stablehlo'"),
        ({"platforms": ["gpu"]}, r"unknown platform 'gpu'.*\(known: cpu, cuda, tpu\)"),
    ],
)
def test_bad_input(directory, arguments, message):
    with pytest.raises(UsageError, match=message):
        export.export(directory, **{"step": "best", **arguments})


def test_without_tensorflow_there_is_no_saved_model(directory, monkeypatch):
    monkeypatch.setattr(
        export, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    )
    assert export.available_formats() == ("stablehlo",)
    with pytest.raises(UsageError, match=r"unknown format 'savedmodel' \(known: stablehlo\)"):
        export.export(directory, "best", formats=["savedmodel"])


def test_a_trial_without_averages_has_none_to_export(directory, tmp_path):
    loop.train(small.digits(), tmp_path / "trial")
    with pytest.raises(UsageError, match="keeps no averaged parameters"):
        export.export(tmp_path / "trial", "best", polyak=True)
