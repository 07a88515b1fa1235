"""A disk that fills: the study pauses with a clear line, and goes on by the same command."""

import contextlib
import errno
import os

import pytest

from playbook_jax import trial
from playbook_jax.studies.execution import full_disk
from tests.launched_study import STEPS, Study, gone

LINE = "error: the disk is full: no room for {what} in {path} ("
WAITS = "MB are free there). The study waits, and nothing is lost: make room, and the same command goes on"


def said(errors, study, what):
    """Whether that is the one line on standard error."""
    assert errors.startswith(LINE.format(what=what, path=study.path)), errors
    assert errors.endswith(WAITS + "\n")
    assert errors.count("\n") == 1
    return True


@pytest.mark.playbook("studies-survive-interruptions")
@pytest.mark.parametrize("pack", [1, 2])
@pytest.mark.parametrize("how", ["full", "raises"])
def test_a_study_that_meets_a_full_disk_waits_and_goes_on(tmp_path, how, pack):
    study = Study(tmp_path, notes=f"seconds=0.02 {how}=1")
    code, output, errors = study.run(pack=pack)
    assert code == 75
    assert said(errors, study, "trial 1" if pack == 1 or how == "full" else "trial 0")
    assert " of 6 trials at their end.\nContinue with: scripts/launch_study.py" in output
    assert gone(study.workers())
    # What ran beside it could save, and nothing was begun after that.
    assert len(study.workers()) <= 2
    assert "RUNNING" not in (study.path / "study.csv").read_text()
    assert "PENDING" in (study.path / "study.csv").read_text()
    rows = trial.read_json(study.path / "study.json")["trials"]

    # As long as there is no room, so it stays; no limit on retries, no first ones that fail alike.
    for _ in range(3):
        assert study.run()[0] == 75

    (tmp_path / "room").touch()
    code, output, errors = study.run()
    assert (code, errors) == (0, "")
    assert study.states() == ["COMPLETE"] * 6
    assert trial.read_json(study.path / "study.json")["trials"] == rows
    assert all(study.steps(number) == list(range(1, STEPS + 1)) for number in range(6))
    assert study.attempts(1)[-1]["from"] == 5


def fill(place):
    """Takes all the room there is; returns the file that holds it."""
    ballast = place / "ballast"
    descriptor = os.open(ballast, os.O_CREAT | os.O_WRONLY)
    with contextlib.suppress(OSError):
        while os.write(descriptor, b"x" * 4096):
            pass
    assert os.statvfs(place).f_bavail == 0
    os.close(descriptor)
    return ballast


def test_a_disk_that_fills_while_trials_run(small_disk):
    """Where the study directory itself has no byte left: for the table, the trials, the workers' logs."""
    place = small_disk.mounted(kilobytes=200)
    study = Study(place, notes="seconds=0.05 chatter=1", num_trials=4).start()
    study.until(lambda: len(study.steps(1)) > 3)
    ballast = fill(place)
    code, _, errors = study.wait()
    assert code == 75
    assert any(said(errors, study, what) for what in ("trial 0", "trial 1") if what in errors)
    assert gone(study.workers())
    rows = trial.read_json(study.path / "study.json")["trials"]

    ballast.unlink()
    code, _, errors = study.run()
    assert (code, errors) == (0, "")
    assert study.states() == ["COMPLETE"] * 4
    assert trial.read_json(study.path / "study.json")["trials"] == rows
    assert not list(study.path.rglob("*.part"))


def test_a_new_study_on_a_full_disk_leaves_nothing(small_disk):
    place = small_disk.mounted(kilobytes=200)
    study = Study(place)
    before = sorted(place.rglob("*"))
    ballast = fill(place)
    code, _, errors = study.run()
    assert code == 75
    assert said(errors, study, "study.json")
    assert sorted(place.rglob("*")) == sorted([*before, ballast])
    ballast.unlink()
    assert study.run()[0] == 0


@pytest.mark.parametrize("name", ["study.csv", "report.html", "best_config.py"])
def test_no_room_for_what_is_written_last(tmp_path, name):
    study = Study(tmp_path, num_trials=2)
    code, output, errors = study.run(no_room_for=name)
    assert code == 75
    assert said(errors, study, name)
    assert "Stopped with 2 of 2 trials at their end.\n" in output
    assert study.states() == ["COMPLETE"] * 2
    code, output, errors = study.run()
    assert (code, errors) == (0, "")
    assert f"Report: {study.path}/report.html\n" in output
    assert (study.path / name).exists()


def test_errors_that_tell_of_a_full_disk():
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert full_disk.is_meant(OSError(number, os.strerror(number), "a"))
        assert full_disk.is_meant(ValueError(f"cannot write to a: {os.strerror(number)}"))
    assert not full_disk.is_meant(OSError(errno.EIO, os.strerror(errno.EIO)))
    failed = trial.new_status(trial.FAILED, "disk full: nothing more can be written")
    assert full_disk.has_stopped(failed)
    assert not full_disk.has_stopped(trial.new_status(trial.FAILED, "out of memory: disk full"))
