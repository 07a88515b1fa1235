import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from playbook_jax import checkpoints, config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.input import pipeline
from playbook_jax.training import loop, program as program_lib, train_step
from tests import small
from tests.runs import assert_same, counted_traces, files, interrupted, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "trial"
    status = run(directory)
    return directory, status


@pytest.mark.playbook(
    "fixed-step-budget",
    "evaluate-at-step-intervals",
    "alternate-training-and-evaluation",
    "what-evaluations-are-for",
)
def test_a_run_leaves_what_the_contract_says(finished):
    directory, status = finished
    result = trial.load(directory)
    assert status == result.status
    assert status["state"] == "COMPLETE"
    assert len(result.steps) == status["step"] == 40
    assert result.evaluations["step"].tolist() == [10, 20, 30, 40]
    assert {"train/loss", "validation/error_rate"} <= set(result.evaluations.columns)
    assert result.steps["loss"].iloc[-5:].mean() < result.steps["loss"].iloc[0] / 2
    for name in ("provenance", "status", "summary", "config"):
        json.loads((directory / f"{name}.json").read_text(), parse_constant=pytest.fail)
    assert result.provenance["versions"]["jax"] == jax.__version__
    assert result.provenance["command"]


@pytest.mark.playbook("retrospective-selection", "objective-is-the-best-value")
def test_the_best_is_chosen_in_retrospect_and_gives_its_metric_again(finished):
    directory, status = finished
    evaluations = trial.load(directory).evaluations
    best = evaluations.loc[evaluations["validation/error_rate"].idxmin()]
    assert status["objective"] == best["validation/error_rate"]
    assert status["best_step"] == best["step"]

    loaded = checkpoints.load(directory, "best")
    assert int(loaded["step"]) == status["best_step"]
    config = loop.validate(small.digits())
    program = program_lib.get(config)
    state = program.init(0)
    saved = train_step.dataclasses.replace(
        loop.parallel.first(state), params=loaded["params"], batch_stats={}
    )
    state = program.restore({0: saved})
    variables = program.settle(state)[2][""]
    hparams = program.values({0: config}).hparams
    sums = program.start_evaluation(variables, "validation", hparams)
    wrong, total = np.asarray(sums["error_rate"])[0]
    assert wrong / total == pytest.approx(status["objective"], rel=1e-7)


def numpy_run(config, params, steps):
    """Nesterov with clipping and weight decay on the MLP, in float64, from the formulas."""
    data = program_lib.get(config).arrays["train"]
    size = len(data["label"])
    rows = np.concatenate(
        [o.indices(0, steps) for o in pipeline.shard_orders(config, size)], axis=1
    )
    h = config.hparams
    p = {k: np.asarray(v, np.float64) for k, v in params.items()}
    velocity = {k: np.zeros_like(v) for k, v in p.items()}
    records = []
    for t in range(steps):
        x = data["image"][rows[t]].reshape(len(rows[t]), -1) / 8.0 - 1
        target = np.eye(10)[data["label"][rows[t]]] * (1 - h.label_smoothing)
        target += h.label_smoothing / 10
        a = x @ p["w1"] + p["b1"]
        z = np.maximum(a, 0)
        logits = z @ p["w2"] + p["b2"]
        prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        loss = -(target * np.log(prob)).sum(1).mean()
        d = (prob - target) / len(x)
        da = (d @ p["w2"].T) * (a > 0)
        g = {"w1": x.T @ da, "b1": da.sum(0), "w2": z.T @ d, "b2": d.sum(0)}
        norm = np.sqrt(sum((v**2).sum() for v in g.values()))
        if norm > h.clip_norm:
            g = {k: v * h.clip_norm / norm for k, v in g.items()}
        rate = h.learning_rate * (1 + np.cos(np.pi * t / config.max_train_steps)) / 2
        change = {}
        for k in p:
            step = g[k] + (h.weight_decay * p[k] if p[k].ndim > 1 else 0)
            velocity[k] = h.momentum * velocity[k] + step
            change[k] = -rate * (h.momentum * velocity[k] + step)
            p[k] = p[k] + change[k]
        update_norm = np.sqrt(sum((v**2).sum() for v in change.values()))
        records.append([loss, norm, update_norm, rate, norm > h.clip_norm])
    return np.array(records, float)


@pytest.mark.playbook(
    "unclipped-gradient-norm", "clipping-rule", "nesterov-rule", "gradient-norm-outliers"
)
def test_every_record_equals_a_float64_reference(tmp_path):
    overrides = {
        "hparams__weight_decay": 0.01,
        "hparams__clip_norm": 1.0,
        "hparams__label_smoothing": 0.1,
        "max_train_steps": 20,
    }
    config = loop.validate(small.digits(**overrides))
    initial = loop.parallel.first(program_lib.get(config).init(config.seed)).params
    params = {
        "w1": initial["Dense_0"]["kernel"],
        "b1": initial["Dense_0"]["bias"],
        "w2": initial["Dense_1"]["kernel"],
        "b2": initial["Dense_1"]["bias"],
    }
    expected = numpy_run(config, params, 20)
    run(tmp_path / "run", **overrides)
    records = trial.read_steps(tmp_path / "run")
    assert 0 < expected[:, 4].sum() < 20  # some steps clipped, some not
    # float32 against float64, over 20 steps.
    np.testing.assert_allclose(records, expected, rtol=1e-4)


@pytest.mark.playbook("checkpoints-survive-interruptions")
@pytest.mark.parametrize("stop_at", [0, 1, 2, 3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(finished, tmp_path, stop_at):
    directory = tmp_path / "trial"
    status = interrupted(directory, stop_at)
    assert status["state"] == "INTERRUPTED"
    assert run(directory)["state"] == "COMPLETE"
    assert files(directory) == files(finished[0])
    for step in ("best", "latest"):
        assert_same(checkpoints.load(directory, step), checkpoints.load(finished[0], step))


@pytest.mark.playbook("checkpoints-survive-interruptions")
def test_a_killed_run_goes_on_from_its_checkpoint(finished, tmp_path):
    directory = tmp_path / "trial"
    interrupted(directory, 3)
    # What a kill leaves: records and metrics beyond the checkpoint, torn lines, a stale status.
    with (directory / "steps.f32").open("ab") as file:
        file.write(np.full(17, 7, np.float32).tobytes())
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "validation/error_rate": 0.0}\n{"step": 40, "valida')
    assert run(directory)["state"] == "COMPLETE"
    assert files(directory) == files(finished[0])


def test_a_finished_run_is_not_run_again(finished):
    directory, status = finished
    before = files(directory)
    assert run(directory) == status
    assert files(directory) == before


def test_the_same_bits_for_any_chunking_and_any_logging_interval(finished, tmp_path):
    run(tmp_path / "trial", steps_per_call=3, log_every_steps=5)
    expected = trial.read_steps(finished[0])
    np.testing.assert_array_equal(trial.read_steps(tmp_path / "trial"), expected)


@pytest.mark.playbook("tf-data-prefetch")
def test_both_sources_train_alike(finished, tmp_path):
    run(tmp_path / "trial", dataset__source="tf_data")
    # The gather is fused differently, so the last bits may differ.
    np.testing.assert_allclose(
        trial.read_steps(tmp_path / "trial"), trial.read_steps(finished[0]), rtol=1e-5
    )


def test_pmap_and_shard_map_train_alike(finished, tmp_path):
    config = small.digits()
    with config.unlocked():
        config.device_mapping = "shard_map"
    loop.train(config, tmp_path / "trial")
    np.testing.assert_allclose(
        trial.read_steps(tmp_path / "trial"), trial.read_steps(finished[0]), rtol=1e-6
    )


def test_one_device_and_four_give_the_same_losses(finished, tmp_path):
    code = (
        "import sys; sys.path.insert(0, '.'); from tests import small; "
        "from playbook_jax import train; "
        "from playbook_jax.runtime import compilation_cache; compilation_cache.enable(); "
        f"train.train(small.digits(), {str(tmp_path / 'trial')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=small.ROOT, env=small.one_device())
    assert jax.local_device_count() == 4
    assert len(trial.load(tmp_path / "trial").provenance["devices"]) == 1
    np.testing.assert_allclose(
        trial.read_steps(tmp_path / "trial"), trial.read_steps(finished[0]), rtol=1e-5, atol=1e-7
    )


@pytest.mark.playbook("polyak-average")
def test_polyak_averages_are_bias_corrected_and_evaluated_beside_the_raw_parameters(tmp_path):
    decay = 0.9
    config = small.digits(eval_every_steps=1, checkpoint__keep_best=100, checkpoint__every_steps=1)
    with config.unlocked():
        config.hparams.polyak_decay = decay
        config.checkpoint.metric = "validation/polyak/loss"
    config.max_train_steps = 12
    status = loop.train(config, tmp_path / "trial")
    evaluations = trial.load(tmp_path / "trial").evaluations
    assert status["objective"] == evaluations["validation/polyak/loss"].min()
    # After one step the average is the parameters themselves: only the correction makes it so.
    first = evaluations.iloc[0]
    assert first["validation/polyak/loss"] == pytest.approx(first["validation/loss"], rel=1e-5)
    # Against the weighted mean of the parameters after each step, in float64.
    states = [checkpoints.load(tmp_path / "trial", step) for step in range(1, 13)]
    weights = (1 - decay) * decay ** np.arange(11, -1, -1.0)
    for name in ("Dense_0", "Dense_1"):
        kernels = np.array([s["params"][name]["kernel"] for s in states], np.float64)
        expected = np.tensordot(weights / weights.sum(), kernels, 1)
        averaged = states[-1]["polyak_params"][name]["kernel"]
        np.testing.assert_allclose(averaged, expected, rtol=1e-4, atol=1e-6)
    # They lag behind, which is the point.
    assert evaluations.iloc[-1]["validation/polyak/loss"] > evaluations.iloc[-1]["validation/loss"]


@pytest.mark.playbook("traced-hyperparameters", "clip-threshold-can-be-tuned")
def test_no_hyperparameter_compiles_again(tmp_path):
    with counted_traces() as traces:
        run(tmp_path / "0")
        run(
            tmp_path / "1",
            seed=7,
            max_train_steps=30,
            hparams__learning_rate=1,
            hparams__momentum=0.5,
            hparams__weight_decay=0.1,
            hparams__clip_norm=2,
            hparams__label_smoothing=0.2,
            hparams__dropout_rate=0.3,
            hparams__warmup_steps=5,
            hparams__divergence_factor=0,
        )
    assert len(trial.read_steps(tmp_path / "1")) == 35
    assert 1 <= len(traces) <= 2, "loop bodies are traced once or twice for one compilation"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"workload": "digit"}, r"unknown workload 'digit'; did you mean 'digits'\?"),
        ({"optimizer": "adma"}, r"unknown optimizer 'adma'; did you mean 'adam'\?.*known: adam"),
        ({"schedule": "cosin"}, r"unknown schedule 'cosin'; did you mean 'cosine'\?"),
        ({"model.name": "mpl"}, r"unknown model of the workload digits 'mpl'; did you mean 'mlp'"),
        ({"dataset.source": "tfdata"}, r"unknown dataset.source 'tfdata'; did you mean 'tf_data'"),
        ({"batch_size": 4096, "eval_batch_size": 4096}, r"larger than the training set of 1197"),
        ({"batch_size": 30}, r"split evenly over 4 devices; the nearest that can: 28, 32"),
        (
            {"dataset.num_shards": 3},
            r"batch_size 32 .* over 4 devices and 3 dataset.num_shards; .* that can: 24, 36",
        ),
        ({"checkpoint.metric": "validation/eror_rate"}, r"did you mean 'validation/error_rate'"),
    ],
)
def test_what_cannot_run_says_so_and_leaves_nothing(tmp_path, overrides, message):
    config = config_lib.override(small.digits(), overrides)
    with pytest.raises(UsageError, match=message) as error:
        loop.train(config, tmp_path / "trial")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "trial").exists()


def test_an_error_while_training_ends_as_failed_and_can_be_resumed(finished, tmp_path, capfd):
    def fail(done, total, text):
        if done == 30:
            raise RuntimeError("the disk\nis gone")

    directory = tmp_path / "trial"
    status = loop.train(small.digits(), directory, progress=fail)
    assert status["state"] == "FAILED"
    assert status["reason"].startswith(
        "RuntimeError: the disk is gone (tests/training/test_loop.py:"
    )
    assert "Traceback" in capfd.readouterr().err
    assert run(directory)["state"] == "COMPLETE"
    assert files(directory) == files(finished[0])
