"""Packed studies on real data: killed and extended, they come to the same bits; a disk that fills."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from playbook_jax import trial
from playbook_jax.studies import launcher
from tests.launched_study import Study
from tests.runs import bits
from tests.small import ROOT, one_device
from tests.studies.test_specification import RATE

SIZES = {
    "model.hidden_sizes": [16],
    "batch_size": 32,
    "eval_batch_size": 128,
    "eval_train_examples": 100,
    "eval_every_steps": 500,
    "log_every_steps": 20,
    "steps_per_call": 20,
    "checkpoint.every_steps": 250,
}


def study(directory, num_trials, steps=1500):
    result = Study(
        directory,
        num_trials=num_trials,
        fixed={**SIZES, "max_train_steps": steps},
        nuisance={"hparams.learning_rate": RATE | {"high": 0.3}},
    )
    result.train_module, result.environment = launcher.TRAIN_MODULE, one_device()
    return result


def status(running):
    return trial.read_json(running.path / "trials" / "000" / "status.json", {"step": 0})


@pytest.mark.playbook("studies-run-packed", "studies-survive-interruptions")
def test_a_packed_study_that_is_killed_and_extended_comes_to_the_same_bits(tmp_path):
    whole = study(tmp_path / "whole", 3)
    assert whole.run(workers=2, pack=2)[::2] == (0, "")

    parts = study(tmp_path / "parts", 1).start(workers=1, pack=2)
    saved = parts.path / "trials" / "000" / "checkpoints"
    parts.until(lambda: saved.exists() and any(p.name.isdigit() for p in saved.iterdir()))
    launched = parts.process.pid
    children = f"/proc/{launched}/task/{launched}/children"
    with open(children) as file, contextlib.suppress(ProcessLookupError):
        os.kill(int(file.read().split()[0]), signal.SIGKILL)
    assert parts.wait()[::2] == (0, "")
    assert trial.load(parts.path / "trials" / "000").provenance["earlier_runs"]  # it was in time
    parts = study(tmp_path / "parts", 3)
    assert parts.run(workers=1)[::2] == (0, "")

    for number in range(3):
        directory = f"trials/{number:03d}"
        assert bits(whole.path / directory) == bits(parts.path / directory)
        provenance = trial.load(parts.path / directory).provenance
        assert provenance["packing"] == {"lanes": 2, "lane": number % 2}


@pytest.mark.parametrize("pack", [1, 2])
def test_a_real_study_waits_on_a_full_disk_and_goes_on(small_disk, pack):
    """The checkpoints are what there is no room for; the launcher's own files come before them."""
    running = study(small_disk.mounted(kilobytes=450), 2, steps=3000)
    code, _, errors = running.run(workers=1, pack=pack)
    assert (code, errors.count("\n")) == (75, 1)
    assert errors.startswith("error: the disk is full: no room for trial ")
    step = status(running)["step"]
    small_disk.grow(kilobytes=4000)
    assert running.run(workers=1)[::2] == (0, "")
    assert running.states() == ["COMPLETE"] * 2
    earlier = trial.load(running.path / "trials" / "000").provenance["earlier_runs"]
    assert step == 3000 or len(earlier) == 1


def test_the_choice_of_the_packing_is_measured_with_the_real_step(tmp_path):
    config = study(tmp_path, 3, steps=40).config
    script = [sys.executable, "scripts/launch_study.py", f"--config={config}", "--pack=auto"]
    result = subprocess.run(
        [*script, f"--workdir={tmp_path}/s", "--workers=1"],
        cwd=ROOT,
        env=one_device(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert " (a step of one trial takes 1, of 2 take " in result.stdout
    chosen = result.stdout.split("Packing: ")[1].split(" ", 1)[0]
    stored = trial.read_json(tmp_path / "s" / "study.json").get("packing", {"lanes": 1})["lanes"]
    assert (chosen, stored) in (("none,", 1), (str(stored), stored))
    provenance = trial.load(tmp_path / "s" / "trials" / "001").provenance
    assert provenance["packing"] == (None if stored == 1 else {"lanes": stored, "lane": 1})
