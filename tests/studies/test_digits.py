"""The whole way of a small study on real data: through the scripts, in processes of their own."""

import re
import subprocess
import sys

import pytest

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.studies import preview, specification
from playbook_jax.training import disk_usage, loop
from tests.small import ROOT, one_device
from tests.studies.test_specification import write

RATES = [0.02, 0.05, 0.1, 1e4]  # the last one diverges
# A tiny digits MLP; four Halton points in base 2 take each of its four learning rates once.
FIXED = {
    "model.hidden_sizes": [32],
    "max_train_steps": 100,
    "eval_every_steps": 20,
    "log_every_steps": 20,
    "steps_per_call": 20,
    "checkpoint.every_steps": 100,
    "hparams.momentum": 0.95,
}


def run(script, *arguments, python=()):
    return subprocess.run(
        [sys.executable, *python, f"scripts/{script}", *map(str, arguments)],
        cwd=ROOT,
        env=one_device(),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    directory = tmp_path_factory.mktemp("digits")
    config = write(
        directory / "study.py",
        num_trials=4,
        objective={"metric": "validation/error_rate", "mode": "min"},
        fixed=FIXED,
        nuisance={"hparams.learning_rate": {"values": RATES}},
    )
    return config, directory / "s"


def test_a_preview_shows_the_trials_and_writes_study_json_only(digits):
    config, workdir = digits
    result = run("launch_study.py", f"--config={config}", f"--workdir={workdir}", "--dry_run")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "test: What?"
    assert lines[2].split() == ["trial", "hparams.learning_rate"]
    assert sorted(float(line.split()[1]) for line in lines[3:7]) == RATES
    assert lines[-2] == "4 trials, 400 steps in all"
    assert re.fullmatch(r"about 1\.\d* MB of disk, of [\d.]+ .B that are free", lines[-1])
    assert result.stderr.startswith("warning: 4 trials: with fewer than 20")
    assert [path.name for path in workdir.iterdir()] == ["study.json"]


@pytest.mark.playbook("studies-run-in-parallel", "diverged-trials-are-infeasible")
def test_a_study_on_digits_and_its_best_trial_trained_again(digits, tmp_path):
    config, workdir = digits
    result = run("launch_study.py", f"--config={config}", f"--workdir={workdir}", "--workers=2")
    assert result.returncode == 0, result.stderr
    assert "test: 4 trials, 3 COMPLETE, 1 INFEASIBLE" in result.stdout
    told = disk_usage.study_bytes(
        [loop.validate(config_lib.load(p)) for p in workdir.glob("trials/*/config.json")], 2
    )
    assert told / 2 < sum(p.lstat().st_blocks * 512 for p in workdir.rglob("*")) < told
    rates = [
        row["parameters"]["hparams.learning_rate"]
        for row in trial.read_json(workdir / "study.json")["trials"]
    ]
    trials = [trial.load(workdir / "trials" / f"{number:03d}") for number in range(4)]
    assert trials[rates.index(1e4)].status["state"] == "INFEASIBLE"
    for loaded, rate in zip(trials, rates, strict=True):
        assert loaded.config["hparams"]["learning_rate"] == rate
        assert loaded.provenance["command"][0] == "scripts/launch_study.py"
        assert loaded.provenance["threads"] == 1
    objectives = [t.status["objective"] for t in trials]
    best = min((t for t in trials if t.status["objective"]), key=lambda t: t.status["objective"])
    assert best.status["objective"] < 0.1, objectives  # chance is 0.9
    assert f"Best: trial {trials.index(best)}, validation/error_rate" in result.stdout
    assert f"Report: {workdir}/report.html\n" in result.stdout
    assert (workdir / "report.html").stat().st_size > 10_000

    again = run(
        "train.py", f"--config={workdir}/best_config.py", f"--workdir={tmp_path}/t", "--cores=1"
    )
    assert again.returncode == 0, again.stderr
    repeated = trial.load(tmp_path / "t")
    assert repeated.status == best.status
    # Bit for bit, on one core as in the worker.
    first, second = ((t.directory / "steps.f32").read_bytes() for t in (best, repeated))
    assert first == second


def test_a_config_that_training_refuses_ends_with_one_line(tmp_path):
    config = write(tmp_path / "study.py", fixed={"optimizer": "nestorov"})
    result = run(
        "launch_study.py", f"--config={config}", f"--workdir={tmp_path / 's'}", "--workers=1"
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "unknown optimizer 'nestorov'; did you mean 'nesterov'?" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()
    with pytest.raises(UsageError, match="trial 0: unknown optimizer 'nestorov'"):
        preview.preview(config, tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=/tmp/x"], "--config=FILE is missing"),
        (["--config=configs/studies/digits_mlp.py"], "--workdir=DIR is missing"),
        (
            ["--config=a.py", "--workdir=/tmp/x", "--workers=-1"],
            "--workers=-1 must not be negative",
        ),
        (["--config=a.py", "--worker=1"], "unknown flag --worker; did you mean --workers?"),
        (["--config=configs/studies/digit_mlp.py", "--workdir=/tmp/x"], "digits_mlp.py'?"),
    ],
)
def test_command_lines_that_cannot_be_run(arguments, message):
    result = run("launch_study.py", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_needs_no_heavy_import():
    result = run("launch_study.py", "--help", python=("-X", "importtime"))
    assert result.returncode == 0
    assert "--[no]dry_run" in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert "absl.flags" in imported
    assert not imported & {"jax", "numpy", "scipy", "pandas", "tensorflow"}


def test_the_studies_that_come_along_are_sound():
    for path in (ROOT / "configs" / "studies").glob("*.py"):
        study = specification.load(path)
        assert study.name == path.stem
        assert f"--config=configs/studies/{path.name}" in path.read_text()
        assert config_lib.to_dict(study.base_config)
