"""Packed trials: each as if it ran alone, whatever becomes of those beside it."""

import json
import shutil

import jax
import numpy as np
import pytest

from playbook_jax import checkpoints, trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import parallel
from playbook_jax.training import loop, packing
from tests import small
from tests.runs import bits, counted_traces, stop_after

RATES = (0.02, 0.1, 0.3)


def mlp(rate=0.05, **overrides):
    return small.digits(hparams__learning_rate=rate, **overrides)


def cnn(rate=0.05, **overrides):
    """Batch norm: statistics of each device's own; one step a call.

    Without Adam: a bias before batch norm has no gradient but rounding, which Adam would blow up.
    """
    values = {"optimizer": "nesterov", "hparams__learning_rate": rate}
    return small.shrunk(small.ROOT / "configs" / "digits_cnn.py", **(values | overrides))


def pack(directory, configs, **arguments):
    lanes = [
        None if config is None else packing.Lane(config, directory / str(i))
        for i, config in enumerate(configs)
    ]
    return packing.train(lanes, **arguments)


def assert_close(one, other):
    """Within 1e-5: a sum over a batch is made in another order beside others than alone."""
    a, b = trial.load(one), trial.load(other)
    np.testing.assert_allclose(trial.read_steps(one), trial.read_steps(other), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(a.evaluations, b.evaluations, rtol=1e-5, atol=1e-5)
    for name in ("state", "step", "reason"):
        assert a.status[name] == b.status[name]
    for step in ("latest", "best"):
        left, right = checkpoints.load(one, step), checkpoints.load(other, step)
        assert left["step"] == right["step"]
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
            left["params"],
            right["params"],
        )


@pytest.mark.parametrize("make", [mlp, cnn])
def test_packed_and_alone_agree(tmp_path, make):
    configs = [make(rate, seed=seed) for seed, rate in enumerate(RATES)]
    assert [status["state"] for status in pack(tmp_path / "packed", configs)] == ["COMPLETE"] * 3
    for i, config in enumerate(configs):
        loop.train(config, tmp_path / "alone" / str(i))
        assert_close(tmp_path / "packed" / str(i), tmp_path / "alone" / str(i))
        provenance = trial.load(tmp_path / "packed" / str(i)).provenance
        assert provenance["packing"] == {"lanes": 3, "lane": i}
        assert trial.load(tmp_path / "alone" / str(i)).provenance["packing"] is None


def test_over_a_hundred_steps_packed_and_alone_agree_to_1e_5(tmp_path):
    sizes = {"max_train_steps": 100, "eval_every_steps": 50, "hparams__warmup_steps": 20}
    configs = [mlp(rate, seed=seed, **sizes) for seed, rate in enumerate(RATES)]
    pack(tmp_path / "packed", configs)
    for i, config in enumerate(configs):
        loop.train(config, tmp_path / "alone")
        alone, packed = (trial.read_steps(tmp_path / d) for d in ("alone", f"packed/{i}"))
        assert len(packed) == 120
        np.testing.assert_allclose(packed[:100], alone[:100], rtol=1e-5, atol=1e-5)
        shutil.rmtree(tmp_path / "alone")


def test_trials_of_other_lengths_end_at_their_own_steps(tmp_path):
    configs = [mlp(max_train_steps=7), mlp(hparams__warmup_steps=13), mlp(max_train_steps=30)]
    ends = []
    statuses = pack(
        tmp_path / "packed", configs, ended=lambda lane, status: ends.append((lane, status["step"]))
    )
    assert [status["step"] for status in statuses] == [7, 53, 30]
    assert ends == [(0, 7), (2, 30), (1, 53)]  # each is told at once
    for i, config in enumerate(configs):
        loop.train(config, tmp_path / "alone" / str(i))
        assert_close(tmp_path / "packed" / str(i), tmp_path / "alone" / str(i))


@pytest.mark.parametrize("make", [mlp, cnn])
def test_one_that_diverges_leaves_the_others_alone(tmp_path, make):
    good, bad = make(0.05), make(1e30)
    statuses = pack(tmp_path / "with", [good, bad, good])
    assert [status["state"] for status in statuses] == ["COMPLETE", "INFEASIBLE", "COMPLETE"]
    alone = loop.train(bad, tmp_path / "alone")
    assert (statuses[1]["reason"], statuses[1]["step"]) == (alone["reason"], alone["step"])
    # In the place of the bad one a good one, or none: no bit of the others changes.
    pack(tmp_path / "good", [good, good, good])
    pack(tmp_path / "none", [good, None, good])
    for lane in ("0", "2"):
        assert bits(tmp_path / "with" / lane) == bits(tmp_path / "good" / lane)
        assert bits(tmp_path / "with" / lane) == bits(tmp_path / "none" / lane)


@pytest.mark.parametrize(("make", "calls"), [(mlp, 1), (mlp, 3), (cnn, 4), (cnn, 7)])
def test_stopped_anywhere_and_continued_every_bit_is_the_same(tmp_path, make, calls):
    configs = [make(0.02), make(0.1, max_train_steps=9), None, make(0.1, seed=3)]
    pack(tmp_path / "whole", configs)
    first = pack(tmp_path / "parts", configs, should_stop=stop_after(calls))
    assert "INTERRUPTED" in [status and status["state"] for status in first]
    for _ in range(100):
        last = pack(tmp_path / "parts", configs, should_stop=stop_after(calls))
        if all(status is None or status["state"] == "COMPLETE" for status in last):
            break
    for lane in ("0", "1", "3"):
        assert bits(tmp_path / "parts" / lane) == bits(tmp_path / "whole" / lane)


def test_trials_at_different_steps_go_on_together(tmp_path):
    """One lost its checkpoint; the others are ahead of it, and then done."""
    configs = [cnn(rate, max_train_steps=18) for rate in RATES]
    pack(tmp_path / "whole", configs)
    pack(tmp_path / "parts", configs, should_stop=stop_after(8))
    for path in (tmp_path / "parts" / "1" / "checkpoints").iterdir():
        shutil.rmtree(path)
    pack(tmp_path / "parts", configs)
    for lane in map(str, range(3)):
        assert bits(tmp_path / "parts" / lane) == bits(tmp_path / "whole" / lane)


def test_what_is_over_is_not_run_again(tmp_path):
    configs = [mlp(0.02), mlp(1e30)]
    before = pack(tmp_path, configs)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    told = []
    assert pack(tmp_path, configs, ended=lambda *end: told.append(end)) == before
    assert told == list(enumerate(before))
    assert stamps == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


def test_averages_and_predictions_are_packed_too(tmp_path):
    configs = [cnn(rate) for rate in (0.02, 0.1)]
    for config in configs:
        with config.unlocked():
            config.hparams.polyak_decay, config.save_predictions = 0.5, 7
    pack(tmp_path / "packed", configs)
    for i, config in enumerate(configs):
        loop.train(config, tmp_path / "alone" / str(i))
        assert_close(tmp_path / "packed" / str(i), tmp_path / "alone" / str(i))
        packed, alone = (
            np.load(tmp_path / run / str(i) / "predictions" / "12.npz")
            for run in ("packed", "alone")
        )
        for name in alone.files:
            np.testing.assert_allclose(packed[name], alone[name], rtol=1e-4, atol=1e-5)


def test_one_program_whatever_the_hyperparameters_and_the_lanes(tmp_path):
    with counted_traces() as traces:
        pack(tmp_path / "a", [mlp(rate) for rate in RATES])
        pack(tmp_path / "b", [mlp(0.7, seed=9, hparams__warmup_steps=3), None, mlp(0.01)])
    assert 1 <= len(traces) <= 2, "loop bodies are traced once or twice for one compilation"


def test_an_error_ends_all_that_still_ran(tmp_path, monkeypatch, capsys):
    reads = iter(range(10**9))
    first = parallel.first

    def failing(tree):
        if next(reads) > 14:
            raise OSError(5, "Input/output error")
        return first(tree)

    monkeypatch.setattr(parallel, "first", failing)
    statuses = pack(tmp_path, [mlp(max_train_steps=8), mlp(), mlp()])
    assert [status["state"] for status in statuses] == ["COMPLETE", "FAILED", "FAILED"]
    assert json.loads((tmp_path / "2" / "status.json").read_text())["state"] == "FAILED"
    assert capsys.readouterr().err.count("Traceback") == 1


def test_what_differs_in_more_than_values_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match=r"can't be packed.*batch_size: 32 → 64.*hparams"):
        pack(tmp_path / "trials", [mlp(), mlp(batch_size=64)])
    assert not (tmp_path / "trials").exists()
