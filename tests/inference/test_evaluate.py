import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from playbook_jax import trial, workload
from playbook_jax.errors import UsageError
from playbook_jax.inference import evaluate as evaluate_lib
from playbook_jax.training import evaluation_batches, loop
from tests import small
from tests.runs import interrupted


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("evaluated") / "trial"
    assert loop.train(small.digits(), directory)["state"] == "COMPLETE"
    return directory


def labels(split):
    return workload.find("digits")(small.digits()).splits()[split]["label"]


@pytest.mark.playbook("retrospective-selection", "offline-evaluation", "train-and-predict")
def test_the_best_checkpoint_gives_its_reported_metrics_again(directory):
    result = evaluate_lib.evaluate(directory, "best", "validation")
    best = trial.load(directory).summary["best"]
    assert result.metrics["error_rate"] == pytest.approx(best["validation/error_rate"], rel=1e-7)
    assert result.metrics["loss"] == pytest.approx(best["validation/loss"], rel=1e-6)
    assert result.examples == 300
    assert result.step == trial.load(directory).status["best_step"]


@pytest.mark.playbook("predictions-are-saved", "standard-error", "correct-counts")
def test_predictions_counts_and_standard_errors_agree_with_each_other(directory, tmp_path):
    result = evaluate_lib.evaluate(directory, "latest", "test")
    arrays = np.load(evaluate_lib.write(tmp_path, "test-latest", result))
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
    ours = evaluate_lib.evaluate(directory, "best", "validation")
    rows = zip(ours.arrays["example"][::-1], ours.arrays["prediction"][::-1], strict=True)
    path = tmp_path / "served.csv"
    path.write_text("example,prediction\n" + "".join(f"{e},{p}\n" for e, p in rows))
    theirs = evaluate_lib.score(directory, path, "validation")
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
        ("example,prediction\n1,1\n2,\n", "row 2 is not"),
        ("example,prediction\n1,1\n2\n", "row 2 is not"),
    ],
)
def test_bad_predictions_are_refused(directory, tmp_path, text, message):
    (tmp_path / "served.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        evaluate_lib.score(directory, tmp_path / "served.csv", "validation")
    with pytest.raises(UsageError, match=r"cannot read .*elsewhere.csv: No such file"):
        evaluate_lib.score(directory, tmp_path / "elsewhere.csv", "validation")


@pytest.mark.playbook("evaluation-sample-check")
def test_the_training_sample_is_compared_with_the_whole(directory):
    result = evaluate_lib.evaluate(directory, "best", "train")
    best = trial.load(directory).summary["best"]
    for metric in ("loss", "error_rate"):
        skew = result.skew[metric]
        # What the periodic evaluation of the sample said, and what the whole gives.
        assert skew["sample"] == pytest.approx(best[f"train/{metric}"], rel=1e-6)
        assert skew["whole"] == result.metrics[metric]
    assert result.to_json()["skew"] == result.skew
    assert evaluate_lib.evaluate(directory, "best", "validation").skew == {}


@pytest.mark.playbook("evaluation-sample-check")
def test_the_skew_of_random_samples_has_standard_error_one():
    rng = np.random.default_rng(0)
    # As of sentences: the numerator is the sum of as many numbers as the denominator says.
    denominator = rng.integers(1, 20, 400).astype(float)
    numerator = rng.normal(2.0, 1.0, 400) * denominator
    scores, chosen = [], np.arange(0, 400, 4)
    for _ in range(2_000):
        order = rng.permutation(400)
        pair = (numerator[order], denominator[order])
        scores.append(evaluate_lib._skew({"loss": pair}, chosen)["loss"]["standard_errors"])
    # The mean square of 2,000 normal numbers is within 0.1 of 1 (3 of its standard deviations). Without
    # the correction for drawing a fourth of all it would be 0.75.
    assert np.mean(np.square(scores)) == pytest.approx(1, abs=0.1)
    assert evaluate_lib._skew({"loss": (numerator, denominator)}, np.arange(400)) == {}
    # All alike: nothing to tell apart.
    same = evaluate_lib._skew({"loss": (np.ones(9), np.ones(9))}, np.arange(3))["loss"]
    assert same == {"sample": 1.0, "whole": 1.0, "standard_errors": 0.0}


def test_denominators_are_written_where_examples_count_differently():
    numerator, denominator = np.array([2.0, 6.0]), np.array([1.0, 3.0])
    outputs = {"metrics": {"loss": (numerator, denominator)}, "predictions": {}}
    result = evaluate_lib._result(outputs, 2, 7)
    assert result.metrics == {"loss": 2.0}
    np.testing.assert_array_equal(result.arrays["loss_denominator"], denominator)


def test_a_checkpoint_of_another_model_is_named(directory, tmp_path):
    shutil.copytree(directory, tmp_path / "trial")
    path = tmp_path / "trial" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["hidden_sizes"] = [8]
    path.write_text(json.dumps(config))
    message = (
        r"is of another model than the workload digits now has: params/Dense_0/bias \[16\] there"
    )
    with pytest.raises(UsageError, match=message):
        evaluate_lib.evaluate(tmp_path / "trial", "best", "validation")


def test_what_does_not_exist_is_named(directory):
    with pytest.raises(UsageError, match=r"no checkpoint 7 \(it holds"):
        evaluate_lib.evaluate(directory, 7, "validation")
    with pytest.raises(UsageError, match=r"unknown split 'valid'; did you mean 'validation'"):
        evaluate_lib.evaluate(directory, "best", "valid")
    with pytest.raises(UsageError, match="keeps no averaged parameters"):
        evaluate_lib.evaluate(directory, "best", "validation", polyak=True)


def run(*arguments):
    """Runs the script, on one device where this process has four."""
    return subprocess.run(
        [sys.executable, "scripts/evaluate.py", *arguments],
        capture_output=True,
        text=True,
        cwd=small.ROOT,
        env=small.one_device(),
    )


@pytest.mark.playbook("test-set-only-when-asked")
def test_the_test_set_needs_a_flag_that_provenance_notes(directory, tmp_path):
    shutil.copytree(directory, tmp_path / "trial")
    mine = f"--trial={tmp_path / 'trial'}"
    before = trial.load(directory).provenance.get("test_evaluations", [])
    refused = run(mine, "--split=test")
    assert refused.returncode == 2
    assert "add --test" in refused.stderr
    assert trial.load(tmp_path / "trial").provenance.get("test_evaluations", []) == before
    allowed = run(mine, "--split=test", "--test")
    assert allowed.returncode == 0, allowed.stderr
    assert "error_rate" in allowed.stdout
    assert "class 0" in allowed.stdout
    step = trial.load(directory).status["best_step"]
    looks = trial.load(tmp_path / "trial").provenance["test_evaluations"]
    assert looks[:-1] == before
    assert looks[-1]["evaluated"] == f"step {step}"
    # The number of devices changes nothing but the order of a sum.
    stored = json.loads((tmp_path / "trial" / "predictions" / "test-best.json").read_text())
    four = evaluate_lib.evaluate(directory, "best", "test")
    assert stored["classes"] == four.classes
    assert stored["metrics"] == pytest.approx(four.metrics, rel=1e-6)


@pytest.mark.playbook("test-set-only-when-asked")
def test_a_look_at_the_test_set_stays_in_the_provenance_of_a_resumed_run(tmp_path):
    directory = tmp_path / "trial"
    interrupted(directory, 3)
    step = evaluate_lib.evaluate(directory, "latest", "test").step
    assert loop.train(small.digits(), directory)["state"] == "COMPLETE"
    looks = trial.load(directory).provenance["test_evaluations"]
    assert [look["evaluated"] for look in looks] == [f"step {step}"]


@pytest.mark.playbook("offline-evaluation")
def test_averaged_parameters_can_be_chosen(tmp_path):
    config = small.digits()
    with config.unlocked():
        config.hparams.polyak_decay = 0.5
    loop.train(config, tmp_path / "trial")
    last = trial.load(tmp_path / "trial").evaluations.iloc[-1]
    for polyak, prefix in ((False, ""), (True, "polyak/")):
        result = evaluate_lib.evaluate(tmp_path / "trial", "latest", "validation", polyak=polyak)
        expected = last[f"validation/{prefix}loss"]
        assert result.metrics["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--trial=DIR is missing"),
        (("--step=first",), "--trial=DIR is missing"),
        (("--trial=nowhere", "--step=first"), "--step=first: give best, latest, or a number"),
        (("--trial=nowhere",), "nowhere holds no trial"),
        (("--trial=x", "--predictions=y", "--polyak"), "--step and --polyak do not go with it"),
        (("--trial=x", "--predictions=y", "--step=best"), "--step and --polyak do not go with it"),
        (("--trial=x", "--polyk"), "unknown flag --polyk; did you mean --polyak?"),
    ],
)
def test_mistakes_on_the_command_line_give_one_line(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.playbook("evaluation-sample-check")
def test_records_are_evaluated_while_they_are_streamed(tmp_path, monkeypatch):
    config = small.shrunk(small.ROOT / "configs" / "digits_tfds.py")
    assert loop.train(config, tmp_path / "trial")["state"] == "COMPLETE"
    last = trial.load(tmp_path / "trial").evaluations.iloc[-1]

    def evaluate(split):
        return evaluate_lib.evaluate(tmp_path / "trial", "latest", split)

    whole = evaluate("train")
    monkeypatch.setattr(evaluation_batches, "RESIDENT_BYTES", 1)
    streamed = evaluate("train")
    np.testing.assert_array_equal(streamed.arrays["label"], whole.arrays["label"])
    for result in (whole, streamed):
        assert len(result.arrays["loss"]) == result.examples == 1197
        # The sample is a part of each file; training shifts the images, evaluations do not.
        assert result.skew["loss"]["sample"] == pytest.approx(last["train/loss"], rel=1e-6)
    loss = evaluate("validation").metrics["loss"]
    assert loss == pytest.approx(last["validation/loss"], rel=1e-6)
