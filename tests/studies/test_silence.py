"""Workers that live and give no sign of it; and a launcher that is gone."""

import json
import os
import subprocess
import sys

import pytest

from playbook_jax import config as config_lib, trial
from tests.launched_study import STEPS, Study, gone
from tests.small import ROOT

LIMIT = 2.0


@pytest.mark.playbook("studies-survive-interruptions")
@pytest.mark.parametrize("pack", [1, 2])
@pytest.mark.parametrize("how", ["hang", "freeze"])
def test_a_trial_whose_process_hangs_goes_on_in_another_one(tmp_path, how, pack):
    study = Study(tmp_path, notes=f"{how}=1", num_trials=2)
    code, _, errors = study.run(silent_limit=LIMIT, pack=pack)
    assert code == 0
    assert study.states() == ["COMPLETE"] * 2
    assert study.steps(1) == list(range(1, STEPS + 1))
    first, second = study.attempts(1)
    assert (first["from"], second["from"]) == (0, 5)
    assert gone({first["process"]})
    worker = 0 if pack == 2 else errors.split()[1]  # which of the two it was
    trials = "0, 1" if pack == 2 else "1"
    assert errors == (
        f"worker {worker} was silent for 0.0333 minutes and was killed; trial {trials} goes on in "
        f"another one (see {study.path}/logs/worker-{worker}.log)\n"
    )


def test_a_trial_that_hangs_again_and_again_fails(tmp_path):
    # A directory that no second attempt is noted in hangs each time.
    study = Study(tmp_path, notes="hang=0 forget=0", num_trials=1)
    code, output, errors = study.run(silent_limit=0.5)
    assert code == 1
    assert "its worker ended 3 times (silent for 0.00833 minutes, then killed); see" in output
    assert errors.count("was killed; trial 0 goes on in another one") == 2
    assert errors.count("was killed; trial 0 has been tried 3 times") == 1


def test_a_slow_step_is_no_silence(tmp_path):
    study = Study(tmp_path, notes="ponder=0", num_trials=1)
    code, _, errors = study.run(silent_limit=LIMIT)
    assert (code, errors) == (0, "")
    assert len(study.attempts(0)) == 1


def test_a_worker_whose_launcher_is_gone_writes_no_failure(tmp_path):
    """It may notice by what it wants to say, while a trial runs; to that, this must be no error."""
    reads, writes = os.pipe()
    command = [sys.executable, "-m", "playbook_jax.studies.execution.worker", "-1", str(writes)]
    worker = subprocess.Popen(
        [*command, "tests.fake_train"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(writes,),
        text=True,
    )
    os.close(writes)
    assert os.read(reads, 100) == b'{"kind": "ready"}\n'
    config = config_lib.load(ROOT / "configs" / "digits_mlp.py")
    config = config_lib.override(config_lib.complete(config), {"notes": "seconds=0.1"})
    shared = {"base_config": config_lib.to_dict(config), "vary_seed": False, "command": []}
    directory = tmp_path / "000"
    os.close(reads)
    for message in (
        {"do": "open", **shared, "time_limit": 1000.0},
        {"do": "train", "trial": 0, "parameters": {}, "directory": str(directory)},
    ):
        worker.stdin.write(json.dumps(message) + "\n")
    worker.stdin.flush()
    assert worker.wait(30) == 0
    assert worker.stderr.read() == ""
    assert trial.load(directory).status["state"] == trial.RUNNING
    worker.stdin.close()
    worker.stderr.close()
