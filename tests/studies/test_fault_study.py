import random
import shutil

import pytest

from tools import study_faults
from tools.study_faults import ALL, ENDING, LAUNCHER, RUNNING, STARTING, WORKER, WORKERS, Fault


@pytest.mark.playbook("studies-survive-interruptions")
def test_a_study_whose_processes_are_killed_ends_in_the_same_bits(tmp_path):
    config = study_faults.write_config(tmp_path / "study.py", trials=3, steps=2_000)
    alone, _, _ = study_faults.left_alone(config, tmp_path / "alone", workers=2)
    killed = study_faults.Study(config, tmp_path / "killed", workers=2)
    faults = [Fault(WORKERS, RUNNING, 0.0), Fault(ALL, RUNNING, 0.1), Fault(LAUNCHER, ENDING, 0.0)]
    record = study_faults.disturb(killed, faults, random.Random(0))
    assert study_faults.judge(alone, killed, record, at_once=2) == []
    assert record.kills.total() == 3
    assert record.interrupted > 0
    assert len(killed.processes) >= 3 * 3  # a launcher and two workers, three times
    assert "3 trials: " in study_faults.table(alone, killed, record)

    # It would have noticed.
    table = killed.path / "study.csv"
    table.write_text(table.read_text().replace("0.", "1.", 1))
    (killed.path / "report.html").unlink()
    (killed.path / ".status.json.1.part").touch()
    shutil.copy(alone.trial(0) / "steps.f32", killed.trial(1))
    assert [line.split(": step")[0] for line in study_faults.judge(alone, killed, record, 2)] == [
        "trial 1",
        "report.html is missing",
        "study.csv is not the same",
        "left over: .status.json.1.part",
    ]
    record.look(faults[0])
    assert record.wrong == [f"trial 1 had ended, and was touched before {faults[0]}"]


def test_faults_are_random_and_no_trial_is_given_up_by_design(monkeypatch):
    faults = study_faults.draw(50, starting=4.0, running=100.0, choice=random.Random(1))
    assert len(faults) == 50
    assert {fault.victim for fault in faults} == {LAUNCHER, WORKER, WORKERS, ALL}
    assert [fault.moment for fault in faults[-4:]] == [ENDING] * 4
    assert {fault.moment for fault in faults[:-4]} == {STARTING, RUNNING}
    assert 0 < max(f.seconds for f in faults if f.moment == RUNNING) <= 4.0
    assert str(Fault(WORKER, RUNNING, 0.5)) == "a worker, running for 0.50 s"

    study = study_faults.Study("", "", workers=2)
    monkeypatch.setattr(study, "workers", lambda: [1, 2])
    for spared, victim in ((0, WORKER), (1, WORKER), (2, ALL)):
        study.spared = spared
        fault = study_faults.bearable(study, Fault(WORKER, RUNNING, 0.5))
        assert fault == Fault(victim, RUNNING, 0.5)
