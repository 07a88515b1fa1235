"""Which features can go: in a study, and between two configurations."""

import dataclasses

import numpy as np
import pytest

from playbook_jax.analysis.data import adoption, features
from playbook_jax.analysis.data.adoption import Chosen, Comparison, Side
from playbook_jax.analysis.data.proposals import SET, Proposal
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK, features as finding_features
from playbook_jax.analysis.reports import adoption_page, adoption_report, adoption_text
from playbook_jax.analysis.stats import gains
from tests import synthetic_study as synthetic
from tests.html_page import Page

RATE, DROPOUT, DECAY, CLIP = (
    f"hparams.{name}" for name in ("learning_rate", "dropout_rate", "weight_decay", "clip_norm")
)
SPACES = {RATE: synthetic.LEARNING_RATE, DROPOUT: {"scale": "linear", "low": 0.0, "high": 0.5}}


def study(gain, spaces=SPACES, trials=100, noise=0.1, scientific=()):
    """A study in which the rate matters, and `gain` says what the second hyperparameter's place adds."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(trials):
        at = rng.random(len(spaces))
        cost = 3 + 8 * (at[0] - 0.5) ** 2 - gain(at[1]) + noise * rng.normal()
        rows.append({"at": at, "objective": float(cost)})
    return synthetic.made(rows, spaces=spaces, metric="validation/loss", scientific=scientific)


@pytest.mark.playbook("features-that-can-go")
@pytest.mark.parametrize(
    ("gain", "verdict", "told"),
    [
        (lambda u: 0.0, LOOK, "dropout_rate can go"),
        (lambda u: -0.5 * u, LOOK, "dropout_rate can go"),  # it harms: off is as good as anywhere
        (lambda u: 0.5 * u, FINE, "No feature is shown to be without use."),
        (lambda u: -2 * (u - 0.5) ** 2, FINE, "No feature is shown to be without use."),
    ],
)
def test_what_does_not_help_can_go(gain, verdict, told):
    made = study(gain)
    (found,) = finding_features.check(made)
    assert (found.verdict, told in found.answer) == (verdict, True)
    expected = (Proposal(SET, DROPOUT, 0.0, sure=False),) if verdict == LOOK else ()
    assert found.proposals == expected
    if verdict == LOOK:
        assert found.action.startswith("Set dropout_rate to 0, and check it by replicates")


def test_what_is_lost_is_bounded_as_by_least_squares():
    rng, u = np.random.default_rng(1), np.linspace(0, 1, 101)
    # One hyperparameter, and a straight effect beside normal noise: no other scale or degree is better.
    made = synthetic.made(
        [{"at": [at], "objective": float(-3 * at + rng.normal())} for at in u],
        spaces={DROPOUT: SPACES[DROPOUT]},
        metric="validation/loss",
    )
    (axis,) = made.hyperparameters
    costs = made.costs(made.learned)
    places = np.array([axis.unit(t.parameters[DROPOUT]) for t in made.learned])
    columns = np.stack([np.ones_like(places), places, places**2], axis=1)
    weights, *_ = np.linalg.lstsq(columns, costs, rcond=None)
    sd = np.sqrt(((costs - columns @ weights) ** 2).sum() / 98)
    covariance = sd**2 * np.linalg.inv(columns.T @ columns)
    bounds = []
    for at in np.linspace(0.05, 1, 20):
        contrast = np.array([0, -at, -(at**2)])
        error = np.sqrt(contrast @ covariance @ contrast)
        bounds.append(
            contrast @ weights + 1.6606 * error
        )  # Student's 95 % with 98 degrees of freedom
    surface = gains.Surface(made, [axis])
    assert surface.most_lost(axis, 0.0) == pytest.approx(max(bounds) / sd, rel=0.01)
    # Held where it is best, next to nothing is lost.
    assert surface.most_lost(axis, 0.5) < 0.5


def test_of_a_clipping_threshold_the_largest_is_weakest():
    spaces = {RATE: synthetic.LEARNING_RATE, CLIP: synthetic.CLIP_NORM}
    helps, harms = study(lambda u: -0.5 * u, spaces), study(lambda u: 0.5 * u, spaces)
    assert finding_features.check(helps)[0].verdict == FINE
    (found,) = finding_features.check(harms)
    assert "clip_norm can go" in found.answer


def test_what_is_not_tried_near_off_is_not_judged():
    narrow = {RATE: synthetic.LEARNING_RATE, DECAY: {"scale": "log", "low": 1e-4, "high": 1e-3}}
    for spaces in (narrow, {RATE: synthetic.LEARNING_RATE, "hparams.momentum": synthetic.MOMENTUM}):
        (found,) = finding_features.check(study(lambda u: 0.0, spaces))
        assert found.answer == "No feature's strength varies down to off, so none is judged."
    (found,) = finding_features.check(study(lambda u: 0.0, trials=6))
    assert (found.verdict, found.action) == (CANNOT_TELL, "")
    failed = synthetic.made([{"at": [0.5, 0.5], "objective": None}] * 3, spaces=SPACES)
    assert finding_features.check(failed)[0].verdict == CANNOT_TELL
    # What the study asks about is for its reader.
    (found,) = finding_features.check(study(lambda u: 0.0, scientific=(DROPOUT,)))
    assert (found.verdict, found.proposals) == (LOOK, ())


def test_features_that_two_configs_differ_in():
    old = {
        "hparams": {"dropout_rate": 0.3, "weight_decay": 1e-4, "clip_norm": 0.0, "momentum": 0.9}
    }
    new = {
        "hparams": {"dropout_rate": 0.0, "weight_decay": 1e-3, "clip_norm": 1.0, "momentum": 0.0}
    }
    assert features.switched(old, new) == ([DROPOUT], [CLIP])
    assert features.switched(new, old) == ([CLIP], [DROPOUT])
    assert features.switched(old, old) == ([], [])


def without(mine, theirs, **config):
    """The candidate has no dropout, the baseline has."""
    sides = [
        Side(
            f"trial 3 of runs/{name}",
            {"hparams": {"dropout_rate": rate, **config}},
            np.array(costs),
            chosen=chosen,
        )
        for name, rate, costs, chosen in (
            ("a", 0.0, mine, Chosen(3, 0.1, np.array([0.1, 0.2]))),
            ("b", 0.3, theirs, None),
        )
    ]
    return Comparison("validation/loss", False, "seed", *sides)


@pytest.mark.playbook("features-that-can-go")
def test_what_is_no_worse_without_a_feature_lets_it_go():
    scatter = np.linspace(-1, 1, 20)
    alike = without(1 + 0.1 * scatter, 1 + 0.1 * scatter[::-1])
    worse = without(1.3 + 0.1 * scatter, 1 + 0.1 * scatter)
    few = without(1 + 0.1 * scatter[[2, 9, 17]], 1 + 0.1 * scatter[[1, 10, 18]])
    for compared, can_go, words in (
        (alike, True, "it can go within noise"),
        (worse, False, "it cannot go: without, it is worse"),
        (few, None, "cannot be told yet"),
    ):
        decision = adoption.decide(compared)
        found = adoption_report.to_dict(compared, decision)
        assert found["removable"] is can_go
        assert found["features"]["off"] == [DROPOUT]
        assert words in found["features"]["text"]
        assert words in adoption_text.text(compared, decision, 1000)
    # The other way round, it is a feature that is not shown to help.
    other = dataclasses.replace(alike, candidate=alike.baseline, baseline=alike.candidate)
    found = adoption_report.to_dict(other, adoption.decide(other))
    assert (found["removable"], found["features"]["on"]) == (None, [DROPOUT])
    assert (
        "adds dropout_rate, which is not shown to help: leave it out" in found["features"]["text"]
    )


def test_a_decision_has_a_page(tmp_path):
    scatter = np.linspace(-1, 1, 20)
    compared = without(1 + 0.1 * scatter, 1 + 0.1 * scatter[::-1])
    decision = adoption.decide(compared)
    path = adoption_page.save(tmp_path, compared, decision)
    (body,) = (e for e in Page(path.read_text()).elements if e.name == "body")
    text = " ".join(body.text.replace("\u00a0", " ").split())
    assert adoption_text.verdict(decision).replace("\u00a0", " ") in text
    assert "it can go within noise" in text
    assert path.read_text().count('class="dot"') == 40
    assert "scripts/studies.py --study=runs/a --adopt --trial=3" in text
    # Names are only text, and one side alone has a page, too.
    hostile = dataclasses.replace(compared.candidate, source="trial 3 of <script>x</script>")
    alone = dataclasses.replace(compared, candidate=hostile, baseline=None)
    text = adoption_page.render(alone, adoption.decide(alone))
    assert "<script>x" not in text
    nothing = dataclasses.replace(hostile, objectives=np.array([]))
    alone = dataclasses.replace(alone, candidate=nothing)
    assert "No run has come to its end." in adoption_page.render(alone, adoption.decide(alone))
