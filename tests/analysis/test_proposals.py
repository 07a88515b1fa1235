"""What the findings propose for the next study, where it is a remedy and no search space."""

import dataclasses

import numpy as np
import pytest

from playbook_jax.analysis.data import step_records
from playbook_jax.analysis.data.proposals import ADD, EXTEND, NARROW, SET, Proposal
from playbook_jax.analysis.findings import (
    ACT,
    LOOK,
    clipping,
    early_instability,
    end_of_training,
    gradient_outliers,
    infeasible,
    late_variance,
    overfitting,
)
from playbook_jax.analysis.reports.next_draft import draft
from playbook_jax.analysis.stats import stability_fixes
from tests import finding_studies as made, synthetic_study as synthetic

RATE, WARMUP, CLIP = stability_fixes.RATE, stability_fixes.WARMUP, stability_fixes.CLIPPING
PERCENTILES = {50: 2.0, 90: 10.0, 100: 30.0}
STEPS = {"max_train_steps": 1000}


def recorded(base=None, spaces=made.ONE, clipped=0.0, at=None):
    """A study whose trials have these gradient norms."""
    records = step_records.StepRecords(percentiles=PERCENTILES, clipped_fraction=clipped)
    at = at or [0.5] * len(spaces)
    rows = [{"at": at, "objective": 0.1 + 0.01 * i, "records": records} for i in range(4)]
    return made.study(rows, spaces=spaces, base={**STEPS, **(base or {})})


def test_warmup_comes_first_then_longer_warmup_then_clipping():
    space = {"scale": "log", "low": 1, "high": 100, "type": "int"}
    assert stability_fixes.early(recorded()) == (Proposal(ADD, WARMUP, space),)
    some = recorded({"hparams": {"warmup_steps": 40}})
    assert stability_fixes.early(some) == (Proposal(ADD, WARMUP, {**space, "low": 40}),)
    short = {**made.ONE, WARMUP: {"scale": "log", "low": 1, "high": 20, "type": "int"}}
    assert stability_fixes.early(recorded(spaces=short)) == (Proposal(EXTEND, WARMUP, 100, "high"),)
    # A tenth of max_train_steps is the most; then clipping, from the median to beyond the 90th percentile.
    norms = {"scale": "log", "low": 2.0, "high": 15.0}
    most = recorded({"hparams": {"warmup_steps": 100}})
    assert stability_fixes.early(most) == (Proposal(ADD, CLIP, norms),)
    both = recorded({"hparams": {"warmup_steps": 100, "clip_norm": 1.0}})
    assert stability_fixes.early(both) == ()


@pytest.mark.playbook("aggressive-clipping")
def test_aggressive_clipping_gives_way_to_smaller_rates():
    fixed = recorded({"hparams": {"clip_norm": 0.5}}, clipped=0.9)
    (found,) = clipping.check(fixed)
    assert found.verdict == ACT
    # The 90th percentile; and rates as much smaller as clipping made the typical gradient: 0.5 / 2.
    assert found.proposals == (Proposal(SET, CLIP, 10.0), Proposal(EXTEND, RATE, 0.00025, "low"))
    spaces = {**made.ONE, CLIP: {"scale": "log", "low": 0.1, "high": 10.0}}
    (found,) = clipping.check(recorded(spaces=spaces, clipped=0.9))
    assert found.proposals == (
        Proposal(EXTEND, CLIP, 15.0, "high"),
        Proposal(NARROW, CLIP, 2.0, "low"),
        Proposal(EXTEND, RATE, 0.0005, "low"),
    )
    assert (
        clipping.check(recorded({"hparams": {"clip_norm": 50.0}}, clipped=0.01))[0].proposals == ()
    )


@pytest.mark.parametrize(
    ("check", "make"),
    [(early_instability.check, made.early), (gradient_outliers.check, made.spikes)],
)
def test_instability_that_is_seen_is_met(check, make):
    study = make(np.random.default_rng(0), 20, True)
    study.specification["base_config"] |= STEPS
    (found,) = check(study)
    assert found.verdict in (ACT, LOOK)
    name = WARMUP if check is early_instability.check else CLIP
    assert [(p.kind, p.name) for p in found.proposals] == [(ADD, name)]


def test_outlier_gradients_are_clipped_where_they_are_not():
    assert stability_fixes.clip_outliers(recorded())[0].value == {
        "scale": "log",
        "low": 2.0,
        "high": 15.0,
    }
    spaces = {**made.ONE, CLIP: {"scale": "log", "low": 5.0, "high": 50.0}}
    assert stability_fixes.clip_outliers(recorded(spaces=spaces)) == (
        Proposal(EXTEND, CLIP, 2.0, "low"),
    )


@pytest.mark.playbook("problematic-overfitting")
def test_overfitting_is_met_by_the_first_regularizer_there_is():
    study = made.overfitting(np.random.default_rng(0), 20, True)

    def proposed(hparams, spaces=()):
        study.specification["base_config"] = {"hparams": hparams}
        axes = synthetic.made([], spaces={**made.ONE, **dict(spaces)}).hyperparameters
        (found,) = overfitting.check(dataclasses.replace(study, hyperparameters=axes))
        assert found.verdict == ACT
        return [(p.kind, p.name, p.value) for p in found.proposals]

    dropout = {"scale": "linear", "low": 0.0, "high": 0.5}
    everything = {"dropout_rate": 0.0, "label_smoothing": 0.0, "weight_decay": 0.1}
    assert proposed(everything) == [(ADD, "hparams.dropout_rate", dropout)]
    decay = {"scale": "log", "low": 1e-5, "high": 1.0}
    assert proposed({"weight_decay": 0.1}) == [(ADD, "hparams.weight_decay", decay)]
    assert proposed({}) == []
    searched = {"hparams.weight_decay": synthetic.WEIGHT_DECAY}
    assert proposed(everything, searched) == [(EXTEND, "hparams.weight_decay", 0.1)]


@pytest.mark.playbook("late-variance")
def test_late_scatter_is_met_by_decay():
    rng = np.random.default_rng(0)
    for base, expected in (
        ({"schedule": "constant"}, (Proposal(SET, "schedule", "cosine"),)),
        (
            {"schedule": "linear", "hparams": {"end_factor": 0.3}},
            (Proposal(SET, "hparams.end_factor", 0.0),),
        ),
        ({"schedule": "cosine"}, ()),
    ):
        study = made.late_variance(rng, 100, True, base=base)
        (found,) = late_variance.check(study)
        assert found.verdict in (ACT, LOOK)
        sure = found.verdict == ACT
        assert found.proposals == tuple(dataclasses.replace(p, sure=sure) for p in expected)


@pytest.mark.playbook("still-improving")
def test_who_still_improves_trains_longer():
    study = made.still_improving(np.random.default_rng(0), 20, True)
    study.specification["base_config"] |= {"max_train_steps": 1000, "eval_every_steps": 25}
    # The best steps are in the last quarter: that finding asks for it, and not twice.
    (found,) = end_of_training.check(study)
    assert (found.verdict, found.proposals) == (LOOK, ())
    early = tuple(dataclasses.replace(t, best_step=500) for t in study.trials)
    (found,) = end_of_training.check(dataclasses.replace(study, trials=early))
    assert found.proposals == (
        Proposal(SET, "max_train_steps", 2000),
        Proposal(SET, "eval_every_steps", 50),
    )


def flat(loss, state=None):
    """A study in which no trial learns, its losses these."""
    records = step_records.StepRecords({"step": np.arange(len(loss)), "loss": np.array(loss)})
    row = {"objective": 0.9, "unlearned": True, "records": records}
    return made.study([row] * 5 + ([{"objective": None}] if state else []))


@pytest.mark.playbook("infeasible-fraction")
def test_where_all_fail_the_losses_say_on_which_side_to_search():
    for study, side, bounds in (
        (flat([2.3, 2.31, 2.29]), "larger", (10.0, 10000.0)),
        (flat([2.3, 9.0, 2.29]), "smaller", (1e-6, 1e-3)),
        (flat([2.3, 2.31, 2.29], "INFEASIBLE"), "smaller", (1e-6, 1e-3)),
    ):
        (found,) = infeasible.check(study)
        assert f"else search at {side} values" in found.action
        assert found.proposals == (Proposal(NARROW, RATE, bounds),)


def test_two_findings_that_want_the_same_are_one_change():
    study = made.late_variance(np.random.default_rng(0), 20, True, base={"schedule": "constant"})
    change = Proposal(SET, "schedule", "cosine")
    found = late_variance.check(study)[0]
    one, two = (dataclasses.replace(found, answer=a, proposals=(change,)) for a in ("One.", "Two."))
    made_draft = draft(study, [one, two])
    assert [c.finding.answer for c in made_draft.changes] == ["One."]
    assert made_draft.refused == []
