import json
import math

import numpy as np
import pytest

from playbook_jax import trial
from playbook_jax.errors import UsageError

CONFIG = {"seed": 0, "hparams": {"learning_rate": 0.1}}


def test_json_is_strict(tmp_path):
    trial.write_json(tmp_path / "a.json", {"x": math.nan, "y": [np.float32(1.5), math.inf], 3: "é"})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"x": None, "y": [1.5, None], "3": "é"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.playbook("every-number-can-be-traced")
def test_what_is_written_is_read_back(tmp_path):
    writer = trial.Writer(tmp_path / "t", CONFIG)
    records = np.arange(15, dtype=np.float32).reshape(3, 5)
    records[2, 0] = np.nan
    writer.append_steps(records[:2])
    writer.append_steps(records[2:])
    writer.append("metrics.jsonl", {"step": 2, "validation/loss": 0.5, "train/loss": math.nan})
    writer.write("status.json", trial.new_status(trial.COMPLETE, step=3) | {"best_step": 2})
    result = trial.load(tmp_path / "t")
    assert result.config == CONFIG
    assert result.status["state"] == "COMPLETE"
    assert list(result.steps.columns) == ["step", *trial.STEP_COLUMNS]
    np.testing.assert_array_equal(result.steps[list(trial.STEP_COLUMNS)].to_numpy(), records)
    assert result.evaluations["validation/loss"].tolist() == [0.5]
    assert math.isnan(result.evaluations["train/loss"][0])


def test_rewinding_cuts_later_records_and_torn_lines(tmp_path):
    writer = trial.Writer(tmp_path, CONFIG)
    writer.append_steps(np.ones((30, 5), np.float32))
    with (tmp_path / "steps.f32").open("ab") as file:
        file.write(b"torn")
    for step in (10, 20, 30):
        writer.append("metrics.jsonl", {"step": step, "validation/loss": step / 10})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "validat')
    writer.rewind(20)
    assert len(trial.load(tmp_path).steps) == 20
    assert trial.load(tmp_path).evaluations["step"].tolist() == [10, 20]


def test_readers_survive_torn_files(tmp_path):
    writer = trial.Writer(tmp_path, CONFIG)
    writer.append_steps(np.ones((2, 5), np.float32))
    with (tmp_path / "steps.f32").open("ab") as file:
        file.write(b"torn")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "validation/loss": 2}\n{"st')
    (tmp_path / "status.json").write_text("{")
    result = trial.load(tmp_path)
    assert result.status["state"] == "PENDING"
    assert len(result.steps) == 2
    assert len(result.evaluations) == 1
    assert result.summary["steps"] == 2


@pytest.mark.playbook("unclipped-gradient-norm")
def test_the_summary_describes_the_gradient_norms(tmp_path):
    writer = trial.Writer(tmp_path, CONFIG)
    rng = np.random.default_rng(0)
    records = np.ones((5000, 5), np.float32)
    records[0, 0] = 2.5
    records[:, 1] = np.exp(rng.normal(size=5000))
    records[:, 4] = rng.random(5000) < 0.3
    writer.append_steps(records)
    summary = trial.summarize(tmp_path, trial.new_status())
    norms = records[:, 1].astype(np.float64)
    percentiles = summary["gradient_norm"]["percentiles"]
    assert percentiles["90"] == pytest.approx(np.quantile(norms, 0.9))
    for name, value in percentiles.items():
        # Sorted by hand: between two neighbours, by how far the rank lies between them.
        rank = (len(norms) - 1) * int(name) / 100
        low, high = np.sort(norms)[[int(rank), min(int(rank) + 1, len(norms) - 1)]]
        assert value == pytest.approx(low + (high - low) * (rank % 1))
    assert summary["initial_loss"] == 2.5
    assert summary["clipped_fraction"] == pytest.approx(np.mean(records[:, 4]))
    assert sum(summary["gradient_norm"]["histogram"]["counts"]) == 5000
    assert len(summary["curves"]["step"]) == trial.CURVE_POINTS
    assert summary["curves"]["gradient_norm_max"][0] == pytest.approx(norms[:25].max())
    assert summary["curves"]["gradient_norm"][0] == pytest.approx(norms[:25].mean())


def test_the_summary_of_a_run_without_any_step(tmp_path):
    trial.Writer(tmp_path, CONFIG)
    summary = trial.summarize(tmp_path, trial.new_status())
    assert summary["steps"] == 0
    assert summary["initial_loss"] is None
    assert summary["clipped_fraction"] is None
    assert summary["best"] is None


def test_thinning_keeps_the_best_evaluation(tmp_path):
    writer = trial.Writer(tmp_path, CONFIG)
    for step in range(1, 1001):
        writer.append("metrics.jsonl", {"step": step, "validation/loss": float(step)})
    summary = trial.summarize(tmp_path, trial.new_status() | {"best_step": 333})
    assert 333 in summary["evaluations"]["step"]
    assert len(summary["evaluations"]["step"]) <= trial.CURVE_POINTS + 1
    assert summary["best"] == {"step": 333, "validation/loss": 333.0}
    assert summary["final"]["step"] == 1000


def test_what_a_killed_process_was_writing_is_removed_when_the_trial_goes_on(tmp_path):
    for _ in range(2):  # it had not even its config; it had
        (tmp_path / ".config.json.1.part").write_text("{")
        (tmp_path / ".steps.f32.part").write_text("")
        writer = trial.Writer(tmp_path, {"a": 1})
        assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    assert writer.status["state"] == "PENDING"


def test_a_directory_of_another_config_is_refused(tmp_path):
    trial.Writer(tmp_path, CONFIG)
    with pytest.raises(UsageError, match=r"another config \(hparams.learning_rate: 0.1 → 0.2\)"):
        trial.Writer(tmp_path, {"seed": 0, "hparams": {"learning_rate": 0.2}})
    trial.Writer(tmp_path, CONFIG)


def test_a_directory_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="not empty and holds no trial"):
        trial.Writer(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"):
        trial.Writer(tmp_path / "file" / "run", CONFIG)


def test_no_trial(tmp_path):
    with pytest.raises(UsageError, match="holds no trial"):
        trial.load(tmp_path)
