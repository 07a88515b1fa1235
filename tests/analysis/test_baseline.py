"""The baseline of a study, which was not drawn: counted apart, and named."""

import dataclasses
import json

import numpy as np
import pytest

from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.figures import best_of_k
from playbook_jax.analysis.findings import FINE, LOOK, boundary, enough_trials, isolation
from playbook_jax.analysis.reports import report
from playbook_jax.analysis.stats import best_of, isolation as slices_lib
from tests import finding_studies as made, synthetic_study as synthetic
from tests.finding_studies import plain
from tests.html_page import Page

RATE = "hparams.learning_rate"
BOWL = synthetic.Truth(synthetic.bowl({RATE: 0.5}))


def with_baseline(study, objective, at=0.5):
    """The study, its trial 0 being the baseline."""
    (axis,) = study.hyperparameters
    first = dataclasses.replace(
        study.trials[0], objective=objective, parameters={axis.name: axis.value(at)}
    )
    return dataclasses.replace(
        study,
        specification=study.specification | {"baseline": True},
        trials=(first, *study.trials[1:]),
    )


def test_the_baseline_is_no_draw():
    objectives = [0.2] + [0.1 + 0.01 * i for i in range(8)]
    study = with_baseline(made.study([{"objective": value} for value in objectives]), 0.05)
    assert study.baseline.number == 0
    assert study.best is study.baseline
    assert len(study.drawn.trials) == 8
    costs, failures = enough_trials.draws(study)
    np.testing.assert_allclose(costs, [0.1 + 0.01 * i for i in range(8)])
    assert failures == 0
    (found,) = enough_trials.check(study)
    assert (found.verdict, found.trials) == (LOOK, ())
    assert found.answer == "None of 8 trials that were drawn comes near the baseline."
    assert any("no other trial is better" in line for line in found.evidence)
    half = best_of.growth(costs, 0).half
    assert f"half as many trials is {100 * half:.2f} %" in plain(found.evidence[2])
    drawing = best_of_k.draw(study).figures[0].svg
    assert "baseline" in drawing
    parts = slices_lib.slices(study, study.hyperparameters[0])
    assert sum(part.ended for part in parts) == 8


def test_a_baseline_at_a_bound_makes_no_crowd():
    places = (np.arange(20) + 0.5) / 20
    rows = [{"at": [u], "objective": float((u - 0.5) ** 2)} for u in places]
    study = with_baseline(
        synthetic.made(rows, spaces={RATE: synthetic.LEARNING_RATE}), -1.0, at=1.0
    )
    (found,) = boundary.check(study)
    assert found.verdict == FINE
    assert "of 19 complete trials" in found.evidence[0]
    assert 0 not in found.trials


def test_the_baseline_is_named_and_has_its_own_mark(tmp_path):
    directory = synthetic.write(tmp_path / "s", BOWL, num_trials=12)
    path = directory / "study.json"
    stored = json.loads(path.read_text())
    stored["specification"]["baseline"] = True
    path.write_text(json.dumps(stored))
    study = study_lib.load(directory)
    if study.baseline in study.leaders:
        pytest.fail("choose another seed: the best few have stars")
    text = report.write(directory).read_text()
    page = Page(text)
    page.check()
    marks = page.all("path", "baseline")
    # One on each axis and one in the legend.
    assert len(marks) == len(study.hyperparameters) + 1
    assert {m.trial for m in marks} == {0, None}
    assert "The baseline, trial" in text
    assert "baseline 0</td>" in text


def test_the_baseline_of_a_comparison_is_told_and_not_compared():
    study = made.two_values(0.02)
    first = dataclasses.replace(study.trials[0], objective=0.01)
    study = dataclasses.replace(
        study,
        specification=study.specification | {"baseline": True},
        trials=(first, *study.trials[1:]),
    )
    (found,) = isolation.check(study)
    assert 0 not in found.trials
    (line,) = [e for e in found.evidence if e.startswith("Not counted")]
    assert "the baseline, trial 0, norm_order pre, came to 1.00 %, better than any" in plain(line)
