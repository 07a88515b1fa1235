import numpy as np
import pytest

from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, input_bound
from playbook_jax.tracking import clock
from tests import finding_studies as made, synthetic_study as synthetic


def waiting(*parts):
    rows = [
        {"objective": 0.1, "timing": {"input_wait": p, "examples_per_second": 5000.0}}
        for p in parts
    ]
    return made.study(rows)


@pytest.mark.playbook("input-bound")
def test_input_bound():
    (finding,) = input_bound.check(waiting(0.05, 0.2, 0.25))
    assert finding.verdict == LOOK
    assert finding.answer.replace("\u00a0", " ") == (
        "Training is input-bound: it waits for 20 % of the time."
    )
    assert finding.trials == (1, 2)
    assert "from 5 % to 25 %), at 5,000 examples" in finding.evidence[0].replace("\u00a0", " ")
    assert "--profile" in finding.action
    assert input_bound.check(waiting(0.3, 0.4))[0].verdict == ACT


def test_not_input_bound():
    (finding,) = input_bound.check(waiting(0.02, 0.1, 0.5))
    assert (finding.verdict, finding.action) == (FINE, "")
    assert "Only trial 2 waits" in finding.evidence[1]
    assert input_bound.check(made.study([{"objective": 0.1}]))[0].verdict == CANNOT_TELL


def test_the_measurements_are_read_from_the_trials(tmp_path):
    truth = synthetic.Truth(synthetic.bowl({made.RATE: 0.5}))
    synthetic.write(tmp_path / "s", truth, num_trials=2)
    rows = [(10.0, 0.4), (30.0, 0.2)]
    lines = [
        f'{{"step": 9, "interval_seconds": {s}, "steps_per_second": 1, "examples_per_second": 5, '
        f'"input_wait": {w}}}\n'
        for s, w in rows
    ]
    (tmp_path / "s/trials/001/timing.jsonl").write_text("".join(lines) + '{"torn')
    study = study_lib.load(tmp_path / "s")
    assert study.trials[0].timing == {}
    seconds, waits = np.array(rows).T
    assert study.trials[1].timing["input_wait"] == pytest.approx(np.average(waits, weights=seconds))
    assert input_bound.check(study)[0].verdict == LOOK
    assert clock.INPUT_BOUND == 0.1
