import json
import os
import subprocess
import sys

import numpy as np
import pytest

from playbook_jax import offline_evaluation, train, trial, workload
from playbook_jax.errors import UsageError
from tests import small


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("evaluated") / "trial"
    assert train.train(small.digits(), directory)["state"] == "COMPLETE"
    return directory


def labels(split):
    return workload.find("digits")(small.digits()).splits()[split]["label"]


@pytest.mark.playbook("retrospective-selection", "offline-evaluation", "train-and-predict")
def test_the_best_checkpoint_gives_its_reported_metrics_again(directory):
    result = offline_evaluation.evaluate(directory, "best", "validation")
    best = trial.load(directory).summary["best"]
    assert result.metrics["error_rate"] == pytest.approx(best["validation/error_rate"], rel=1e-7)
    assert result.metrics["loss"] == pytest.approx(best["validation/loss"], rel=1e-6)
    assert result.examples == 300


@pytest.mark.playbook("predictions-are-saved", "standard-error", "correct-counts")
def test_predictions_counts_and_standard_errors_agree_with_each_other(directory, tmp_path):
    result = offline_evaluation.evaluate(directory, "latest", "test")
    arrays = np.load(offline_evaluation.write(tmp_path, "test-latest", result))
    np.testing.assert_array_equal(arrays["label"], labels("test"))
    wrong = arrays["prediction"] != arrays["label"]
    p = wrong.mean()
    assert result.metrics["error_rate"] == pytest.approx(p)
    assert result.standard_errors["error_rate"] == pytest.approx(np.sqrt(p * (1 - p) / len(wrong)))
    for label, counts in result.classes.items():
        mine = arrays["label"] == int(label)
        assert counts == {"examples": mine.sum(), "correct": (mine & ~wrong).sum()}
    stored = json.loads((tmp_path / "predictions" / "test-latest.json").read_text())
    assert stored["metrics"] == result.metrics


@pytest.mark.playbook("predictions-from-elsewhere")
def test_predictions_from_elsewhere_are_scored_alike(directory, tmp_path):
    ours = offline_evaluation.evaluate(directory, "best", "validation")
    rows = zip(ours.arrays["example"][::-1], ours.arrays["prediction"][::-1], strict=True)
    path = tmp_path / "served.csv"
    path.write_text("example,prediction\n" + "".join(f"{e},{p}\n" for e, p in rows))
    theirs = offline_evaluation.score(directory, path, "validation")
    assert theirs.metrics["error_rate"] == pytest.approx(ours.metrics["error_rate"])
    assert theirs.classes == ours.classes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("example,guess\n0,1\n", "must be a CSV file with whole numbers in the columns"),
        ("example,prediction\n0,one\n", "must be a CSV file with whole numbers in the columns"),
        ("example,prediction\n300,1\n", "must name examples from 0 to 299"),
        ("example,prediction\n", "must name examples from 0 to 299"),
        ("example,prediction\n1,1\n1,2\n", "predicts some examples twice"),
    ],
)
def test_bad_predictions_are_refused(directory, tmp_path, text, message):
    (tmp_path / "served.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        offline_evaluation.score(directory, tmp_path / "served.csv", "validation")


def test_what_does_not_exist_is_named(directory):
    with pytest.raises(UsageError, match=r"no checkpoint 7 \(it holds"):
        offline_evaluation.evaluate(directory, 7, "validation")
    with pytest.raises(UsageError, match=r"unknown split 'valid'; did you mean 'validation'"):
        offline_evaluation.evaluate(directory, "best", "valid")
    with pytest.raises(UsageError, match="keeps no averaged parameters"):
        offline_evaluation.evaluate(directory, "best", "validation", polyak=True)


@pytest.mark.playbook("test-set-only-when-asked")
def test_the_test_set_needs_a_flag_that_provenance_notes(directory):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "scripts/evaluate.py", f"--trial={directory}", *arguments],
            capture_output=True,
            text=True,
            cwd=small.ROOT,
            env=os.environ | {"XLA_FLAGS": ""},
        )

    refused = run("--split=test")
    assert refused.returncode == 2
    assert "add --test" in refused.stderr
    assert "test_evaluations" not in trial.load(directory).provenance
    allowed = run("--split=test", "--test")
    assert allowed.returncode == 0, allowed.stderr
    assert "error_rate" in allowed.stdout
    assert "class 0" in allowed.stdout
    assert trial.load(directory).provenance["test_evaluations"][0]["evaluated"] == "best"
