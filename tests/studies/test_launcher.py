import json
import os
import signal
import time

import pytest

from playbook_jax import config as config_lib, trial
from tests.launched_study import STEPS, Study, gone
from tests.studies.test_specification import RATE


@pytest.mark.playbook("studies-run-in-parallel", "study-table", "diverged-trials-are-infeasible")
def test_a_study_runs_to_its_end_and_a_second_time_runs_nothing(tmp_path):
    study = Study(tmp_path, notes="infeasible=3 meet=0")
    code, output, errors = study.run()
    assert (code, errors) == (0, "")
    assert study.states() == ["COMPLETE"] * 3 + ["INFEASIBLE"] + ["COMPLETE"] * 2
    assert all(study.steps(number) == list(range(1, STEPS + 1)) for number in range(6))
    assert len(study.workers()) == 2
    assert gone(study.workers())
    cores = [attempt["cores"] for number in range(6) for attempt in study.attempts(number)]
    assert all(len(core) == 1 for core in cores)
    # A worker a core, where the machine has two.
    assert len({tuple(core) for core in cores}) == min(2, len(os.sched_getaffinity(0)))

    rates = [
        row["parameters"]["hparams.learning_rate"]
        for row in trial.read_json(study.path / "study.json")["trials"]
    ]
    best = min((n for n in range(6) if n != 3), key=lambda n: abs(rates[n] - 0.1))
    assert "test: 6 trials, 5 COMPLETE, 1 INFEASIBLE\n" in output
    assert f"Best: trial {best}, validation/loss {abs(rates[best] - 0.1):.4g} at" in output
    assert f"fine   All is well.\nReport: {study.path}/report.html\n" in output
    command = f"scripts/train.py --config={study.path}/best_config.py --workdir={study.path}_best"
    again = f"--trial={study.path}/trials/{best:03d} --workdir={study.path}_best"
    assert f"Train the best trial again, bit for bit: scripts/reproduce.py {again}\n" in output
    assert f"next one with: {study.path}/best_config.py\n" in output
    assert (
        f"See whether it was luck: scripts/replicate.py --study={study.path} --baseline=" in output
    )
    found = config_lib.to_dict(config_lib.load(study.path / "best_config.py"))
    assert found == trial.load(study.path / "trials" / f"{best:03d}").config
    assert command in (study.path / "best_config.py").read_text()
    lines = (study.path / "study.csv").read_text().splitlines()
    assert len(lines) == 7
    assert not (study.path / ".lock").exists()

    assert len(study.doubts) == 1
    assert "6 trials: with fewer than 20" in study.doubts[0]

    before = (study.path / "study.csv").read_bytes()
    assert study.run() == (code, output, errors)
    assert study.doubts == []  # they are said once
    assert all(len(study.attempts(number)) == 1 for number in range(6))
    assert (study.path / "study.csv").read_bytes() == before


@pytest.mark.playbook("studies-survive-interruptions")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_trial_goes_on_where_its_worker_was_killed(tmp_path, number):
    study = Study(tmp_path, notes="seconds=0.05", num_trials=3).start()
    study.until(lambda: len(study.steps(1)) > 3)
    os.kill(study.attempts(1)[0]["process"], number)
    assert study.wait()[0] == 0
    assert study.states() == ["COMPLETE"] * 3
    first, second = study.attempts(1)
    assert second["from"] >= 3
    assert second["process"] != first["process"]
    assert study.steps(1) == list(range(1, STEPS + 1))
    assert [len(study.attempts(n)) for n in range(3)] == [1, 2, 1]


@pytest.mark.playbook("studies-survive-interruptions")
def test_a_trial_that_kills_every_worker_fails_and_the_others_do_not(tmp_path):
    study = Study(tmp_path, notes="die=2")
    code, output, _ = study.run(workers=1)
    assert code == 1
    assert study.states() == ["COMPLETE"] * 2 + ["FAILED"] + ["COMPLETE"] * 3
    assert len(study.attempts(2)) == 3  # once, and two retries
    status = trial.read_json(study.path / "trials" / "002" / "status.json")
    assert status["reason"].startswith("its worker ended 3 times (SIGKILL, perhaps out of memory)")
    assert "5 COMPLETE, 1 FAILED\n  trial 2 FAILED: its worker ended" in output
    # A failed trial is a result too: it is not tried for ever.
    assert study.run(workers=1)[:2] == (code, output)
    assert len(study.attempts(2)) == 3


def test_a_study_whose_first_trials_fail_alike_ends_early_and_can_be_taken_up_again(tmp_path):
    study = Study(tmp_path, notes="fail=all")
    code, output, errors = study.run(workers=1)
    assert (code, output) == (1, "")
    assert errors.startswith(
        "error: the first 3 trials all FAILED alike, so the others wait: Value"
    )
    assert errors.endswith("--retry_failed\n")
    assert errors.count("\n") == 1
    assert sum(len(study.attempts(number)) for number in range(6)) <= 4  # one may have begun
    assert (study.path / "study.csv").read_text().count("FAILED") >= 3
    assert gone(study.workers())

    (tmp_path / "mended").touch()
    code, output, errors = study.run(retry_failed=True)
    assert (code, errors) == (0, "")
    assert study.states() == ["COMPLETE"] * 6
    assert "test: 6 trials, 6 COMPLETE\n" in output


def test_a_trial_that_takes_too_long_fails_and_can_be_given_more_time(tmp_path):
    study = Study(tmp_path, notes="seconds=0.05", num_trials=2)
    code, output, _ = study.run(time_limit=0.3)
    assert code == 1
    assert "trial 0 FAILED: out of time: stopped after 0.3 s\n" in output
    assert study.states() == ["FAILED"] * 2
    done = study.steps(0)
    assert 0 < len(done) < STEPS
    code, _, errors = study.run(retry_failed=True)
    assert (code, errors) == (0, "")
    assert study.states() == ["COMPLETE"] * 2
    assert study.steps(0) == list(range(1, STEPS + 1))  # it went on where it had been stopped


@pytest.mark.playbook("studies-survive-interruptions")
def test_a_killed_launcher_leaves_no_worker_and_the_same_command_goes_on(tmp_path):
    study = Study(tmp_path, notes="seconds=0.05", num_trials=3).start()
    study.until(lambda: len(study.steps(2)) > 3)
    workers = study.workers()
    study.process.kill()
    study.wait()
    points = (study.path / "study.json").read_bytes()
    # At once: what the dying workers hold of the lock is waited for.
    assert study.run()[0] == 0
    assert gone(workers)
    assert study.states() == ["COMPLETE"] * 3
    assert (study.path / "study.json").read_bytes() == points
    # Each step once: what was under way went on, what was over stayed as it was.
    assert all(study.steps(number) == list(range(1, STEPS + 1)) for number in range(3))
    again = [number for number in range(3) if len(study.attempts(number)) == 2]
    assert 1 <= len(again) <= 2


@pytest.mark.playbook("studies-survive-interruptions")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_study_saves_and_goes_on(tmp_path, number):
    study = Study(tmp_path, notes="seconds=0.05", num_trials=2).start()
    study.until(lambda: len(study.steps(1)) > 3)
    study.process.send_signal(number)
    code, output, errors = study.wait()
    assert (code, errors) == (75, "")
    assert (
        "Stopped with 0 of 2 trials at their end.\nContinue with: scripts/launch_study.py --config="
        in output
    )
    assert trial.read_json(study.path / "trials" / "001" / "status.json")["state"] == "INTERRUPTED"
    assert gone(study.workers())
    assert "1,INTERRUPTED," in (study.path / "study.csv").read_text()
    assert study.run()[0] == 0
    assert study.states() == ["COMPLETE"] * 2
    # Saved, not killed: no step was made twice.
    assert all(study.steps(n) == list(range(1, STEPS + 1)) for n in range(2))


def test_a_second_ctrl_c_kills(tmp_path):
    study = Study(tmp_path, notes="seconds=1 deaf=0").start(workers=1)
    study.until(lambda: study.attempts(0))
    study.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert study.process.poll() is None  # waits for the trial that does not listen
    study.process.send_signal(signal.SIGINT)
    assert study.wait()[0] == 75
    assert gone(study.workers())


@pytest.mark.playbook("studies-can-be-extended")
def test_a_finished_study_can_be_extended_and_not_be_changed(tmp_path):
    study = Study(tmp_path)
    study.run(workers=1)
    old = trial.read_json(study.path / "study.json")["trials"]
    study.change(num_trials=8)
    code, output, _ = study.run(workers=1)
    assert code == 0
    assert "8 trials, 8 COMPLETE" in output
    assert trial.read_json(study.path / "study.json")["trials"][:6] == old
    assert [len(study.attempts(number)) for number in range(8)] == [1] * 8

    before = {path: path.stat().st_mtime_ns for path in study.path.rglob("*")}
    study.change(num_trials=8, seed=1)
    code, output, errors = study.run(workers=1)
    assert (code, output) == (2, "")
    assert "holds trials of another study (seed: 0 → 1); use another --workdir" in errors
    assert errors.count("\n") == 1
    after = {path: path.stat().st_mtime_ns for path in study.path.rglob("*")}
    before.pop(study.path, None), after.pop(study.path, None)  # the lock came and went
    assert after == before


def test_a_config_that_cannot_be_run_leaves_nothing(tmp_path):
    spaces = {"hparams.momentum": {"scale": "linear", "low": 0.5, "high": 0.99}}
    study = Study(tmp_path, nuisance=spaces)
    code, output, errors = study.run(workers=1)
    assert (code, output) == (2, "")
    # The first of the sampler's points above 0.9 is the fourth.
    assert errors == "error: trial 3: momentum 0.91846 is too much for this test\n"
    assert not study.path.exists()


def test_a_trial_that_cannot_be_run_ends_the_launcher(tmp_path):
    study = Study(tmp_path, notes="refuse=1")
    code, _, errors = study.run(workers=1)
    assert (code, errors) == (2, "error: trial 1: the directory is not for this trial\n")
    assert not (study.path / "trials" / "001").exists()


def test_only_one_launcher_at_a_time(tmp_path):
    study = Study(tmp_path, notes="seconds=0.05", num_trials=2).start(workers=1)
    study.until(lambda: study.attempts(0))
    second = Study(tmp_path, notes="seconds=0.05", num_trials=2).start(workers=1)
    code, _, errors = second.wait()
    assert code == 2
    assert f"is in use by process {study.process.pid}" in errors
    assert study.wait()[0] == 0


def test_workers_that_cannot_start_say_why(tmp_path):
    study = Study(tmp_path)
    study.train_module = "tests.no_such_module"
    code, output, errors = study.run(workers=1)
    assert (code, output) == (1, "")
    assert "the workers do not start (exit code 1): ModuleNotFoundError: No module named" in errors
    assert f"see {study.path}/logs/worker-" in errors
    assert not (study.path / "study.json").exists()
    # And after that, the directory is as good as new.
    study.train_module = "tests.fake_train"
    assert study.run(workers=1)[0] == 0


@pytest.mark.playbook("traced-hyperparameters", "architecture-is-a-family")
def test_each_static_config_goes_to_the_worker_that_has_compiled_it(tmp_path):
    spaces = {
        "hparams.learning_rate": RATE,
        "model.hidden_sizes": {"values": [[8], [16]]},
    }
    study = Study(tmp_path, notes="seconds=0.002 meet=0", nuisance=spaces, num_trials=10)
    assert study.run()[0] == 0
    workers = {}
    for row in json.loads((study.path / "study.json").read_text())["trials"]:
        sizes = tuple(row["parameters"]["model.hidden_sizes"])
        workers.setdefault(sizes, []).append(study.attempts(row["trial"])[0]["process"])
    # At most the last ones, when a worker has none of its own left, go to the other.
    assert len(workers) == 2
    for processes in workers.values():
        assert len(set(processes[:-2])) == 1, workers
