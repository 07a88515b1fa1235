import dataclasses
import itertools
import math

import numpy as np
import pytest

from playbook_jax.analysis.data import hyperparameters
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, boundary
from playbook_jax.analysis.stats.boundary_clustering import Crowd, Field
from playbook_jax.studies.space import samplers, search_space
from tests import synthetic_study as synthetic

RATE, DECAY = "hparams.learning_rate", "hparams.weight_decay"
ONE = {RATE: synthetic.LEARNING_RATE}
PLACES = [(i + 0.5) / 20 for i in range(20)]


def one(cost, *, mode="min", space=synthetic.LEARNING_RATE, name=RATE):
    """A study of one hyperparameter with 20 trials at equal distances."""
    sign = 1 if mode == "min" else -1
    rows = [{"at": [u], "objective": sign * cost(u)} for u in PLACES]
    return synthetic.made(rows, spaces={name: space}, mode=mode)


@pytest.mark.playbook("search-space-boundary")
def test_fires_at_the_high_bound_with_the_numbers_behind_it():
    (finding,) = boundary.check(one(lambda u: 1 - u))
    assert finding.verdict == ACT
    assert finding.answer == "learning_rate: the best trials crowd the high bound, 10."
    # The axis has four decades; it grows by one, as the playbook's own sweeps do.
    assert finding.action == "Run another study with learning_rate from 0.001 to 100."
    assert finding.trials == (19, 18, 17, 16, 15)
    assert finding.figures == ("axis-hparams.learning_rate",)
    values, distances, chance = finding.evidence
    expected = [f"{10 ** (-3 + 4 * u):.3g}" for u in PLACES[:14:-1]]
    assert expected == ["7.94", "5.01", "3.16", "2", "1.26"]
    assert (
        "The best 5 of 20 complete trials, trials 19, 18, 17, 16 and 15, have learning_rate "
        "7.94, 5.01, 3.16, 2 and 1.26; the bound is 10." in values
    )
    # Distances 0.025, 0.075, 0.125 …; percentages are rounded.
    assert "3\u00a0% of the axis for the best one, and 12\u00a0% in the median" in distances
    assert math.comb(20, 5) == 15_504
    assert "probability below 1 in 10,000; among 2 bounds, it is remarkable from 1 in 50" in chance


@pytest.mark.playbook("search-space-boundary")
def test_fires_at_the_low_bound():
    (finding,) = boundary.check(one(lambda u: u))
    assert finding.verdict == ACT
    assert finding.answer == "learning_rate: the best trials crowd the low bound, 0.001."
    assert finding.action == "Run another study with learning_rate from 0.0001 to 10."
    assert finding.trials == (0, 1, 2, 3, 4)


@pytest.mark.playbook("search-space-boundary")
@pytest.mark.parametrize("middle", [0.3, 0.5, 0.7])
def test_is_silent_where_the_optimum_is_inside(middle):
    (finding,) = boundary.check(one(lambda u: (u - middle) ** 2))
    assert finding.verdict == FINE
    assert finding.action == ""
    assert "crowd none of 2 bounds" in finding.evidence[0]


def test_a_best_trial_alone_near_a_bound_is_told_and_does_not_fire():
    # Trial 19 is lucky; the other good ones lie in the middle.
    (finding,) = boundary.check(one(lambda u: -1 if u > 0.95 else (u - 0.5) ** 2))
    assert finding.verdict == FINE
    assert (
        "Trial 19, the best, lies in the outer tenth of learning_rate (7.94, high bound 10)"
        in (finding.evidence[1])
    )
    assert "near to some bound with probability 20\u00a0%" in finding.evidence[1]


def test_is_the_same_for_a_metric_that_is_maximized():
    costs = dict(zip(PLACES, np.random.default_rng(0).permutation(20) / 20, strict=True))
    for cost in (lambda u: 1 - u, lambda u: (u - 0.5) ** 2, costs.get):
        assert boundary.check(one(cost)) == boundary.check(one(cost, mode="max"))


def test_every_bound_is_judged():
    rows = [{"at": [u, v], "objective": u - v} for u, v in np.random.default_rng(0).random((40, 2))]
    found = boundary.check(synthetic.made(rows, spaces=ONE | {DECAY: synthetic.WEIGHT_DECAY}))
    assert [(f.verdict, f.answer) for f in found] == [
        (ACT, "learning_rate: the best trials crowd the low bound, 0.001."),
        (ACT, "weight_decay: the best trials crowd the high bound, 0.01."),
    ]


@pytest.mark.parametrize(
    ("crowd", "verdict"),
    [
        # Two bounds: ACT up to a chance of 1 in 50, LOOK up to four times that.
        (Crowd(5, 0.019, 0.10, True), ACT),
        (Crowd(5, 0.021, 0.10, True), LOOK),
        (Crowd(5, 0.079, 0.10, True), LOOK),
        (Crowd(5, 0.081, 0.10, True), FINE),
        # Deep enough: up to 0.15 of the axis and one trial's share, 0.05.
        (Crowd(5, 0.019, 0.199, True), ACT),
        (Crowd(5, 0.019, 0.201, True), LOOK),
        (Crowd(5, 0.019, 0.301, True), FINE),
        # A parabola that turns round before the bound: the space may be wide enough.
        (Crowd(5, 0.019, 0.10, False), LOOK),
    ],
)
def test_thresholds(crowd, verdict):
    study = one(lambda u: 1 - u)
    axis = study.hyperparameters[0]
    assert boundary.judge(Field(study), axis, 1.0, crowd, 1) == verdict


def test_a_hint_is_worth_a_look():
    # The best five are the 1st, 2nd, 6th, 9th and 13th from the bound; the rest get worse away from it.
    best = [19, 18, 14, 11, 7]
    rows = [
        {"at": [u], "objective": best.index(i) / 100 if i in best else 1 - u / 2}
        for i, u in enumerate(PLACES)
    ]
    (finding,) = boundary.check(synthetic.made(rows, spaces=ONE))
    sums = [sum(c) for c in itertools.combinations(range(20), 5)]
    chance = sum(s <= 0 + 1 + 5 + 8 + 12 for s in sums) / math.comb(20, 5)
    assert 0.02 < chance < 0.08  # one bound's share of the alarms, and four times that
    assert finding.verdict == LOOK
    assert finding.answer == "learning_rate: the best trials may crowd the high bound, 10."
    assert finding.action == (
        "Look at the plot of learning_rate. If you see it too: run another study with learning_rate "
        "from 0.001 to 100."
    )
    assert f"with probability 1 in {round(1 / chance)};" in finding.evidence[2]


def test_what_the_objective_itself_says_far_from_the_bound_does_not_fire():
    study = one(lambda u: (u - 0.5) ** 2)
    crowd = Crowd(5, 1e-4, 0.05, True)  # as if another hyperparameter's effect hid a crowd
    assert boundary.judge(Field(study), study.hyperparameters[0], 1.0, crowd, 1) == LOOK


@pytest.mark.parametrize(
    ("rows", "answer"),
    [
        ([], "No trial is complete."),
        ([(0.1, None), (0.2, None)], "No trial is complete."),
        ([(0.1, 0.5)], "1 complete trial, 2 bounds: with so few"),
        ([(u, 0.5) for u in PLACES], "All 20 complete trials came to the same objective."),
    ],
)
def test_cannot_tell(rows, answer):
    rows = [{"at": [u], "objective": value} for u, value in rows]
    (finding,) = boundary.check(synthetic.made(rows, spaces=ONE))
    assert finding.verdict == CANNOT_TELL
    assert finding.answer.startswith(answer)


def test_cannot_tell_for_names_and_for_too_few_trials():
    names = {"optimizer": {"values": ["adam", "sgd"]}}
    rows = [{"at": [i % 2], "objective": i / 10} for i in range(20)]
    (finding,) = boundary.check(synthetic.made(rows, spaces=names))
    assert (finding.verdict, finding.action) == (CANNOT_TELL, "")
    assert "No hyperparameter that varies has an order" in finding.answer
    # 5 trials: the outermost 3 come about in 1 of 10 draws, and LOOK is at 0.16 / 8 = 1 in 50.
    rows = [{"at": [u] * 4, "objective": u} for u in PLACES[:5]]
    (finding,) = boundary.check(synthetic.made(rows, spaces=synthetic.FOUR))
    assert finding.verdict == CANNOT_TELL
    assert finding.answer.startswith("5 complete trials, 8 bounds")
    assert finding.action.startswith("Run more trials")
    study = synthetic.made(rows, spaces=synthetic.FOUR)
    study = dataclasses.replace(
        study, trials=(*study.trials, dataclasses.replace(study.trials[0], state="PENDING"))
    )
    assert boundary.check(study)[0].action == ""  # the study itself runs more


@pytest.mark.parametrize(
    ("name", "space", "side", "expected"),
    [
        # Half the axis where it is linear.
        ("hparams.x", {"scale": "linear", "low": 1.0, "high": 3.0}, "high", 4.0),
        ("hparams.x", {"scale": "linear", "low": 1.0, "high": 3.0}, "low", 0.0),
        ("hparams.x", {"scale": "linear", "low": -1.0, "high": 3.0}, "low", -3.0),
        # A decade, or half of an axis that has fewer than two.
        (RATE, {"scale": "log", "low": 1e-3, "high": 1e-1}, "low", 1e-4),
        (RATE, {"scale": "log", "low": 1e-2, "high": 1e-1}, "high", 0.32),
        ("hparams.momentum", {"scale": "one_minus_log", "low": 0.5, "high": 0.99}, "high", 0.9986),
        ("hparams.momentum", {"scale": "linear", "low": 0.8, "high": 0.9}, "high", 0.95),
        # Fractions end at 1, rates at 0, layers at 1.
        ("hparams.dropout_rate", {"scale": "linear", "low": 0.0, "high": 0.8}, "high", 0.9),
        ("hparams.dropout_rate", {"scale": "linear", "low": 0.0, "high": 0.8}, "low", None),
        ("hparams.momentum", {"scale": "one_minus_log", "low": 0.0, "high": 0.99}, "low", None),
        ("model.layers", {"scale": "linear", "low": 2, "high": 6, "type": "int"}, "low", 1),
        ("model.layers", {"scale": "linear", "low": 1, "high": 6, "type": "int"}, "low", None),
        ("model.width", {"scale": "log", "low": 16, "high": 256, "type": "int"}, "high", 1000),
        ("model.width", {"values": [16, 64]}, "high", None),
    ],
)
def test_extended_bounds(name, space, side, expected):
    new = boundary.extended(hyperparameters.parse(name, "nuisance", space), side)
    assert new == (None if expected is None else pytest.approx(expected))
    assert type(new) is type(expected)


def test_actions_where_no_bound_lies_further_out():
    listed = one(lambda u: 1 - u, space={"scale": "linear", "low": 0, "high": 1})
    dropout = "hparams.dropout_rate"
    (finding,) = boundary.check(
        one(lambda u: u, name=dropout, space={"scale": "linear", "low": 0.0, "high": 0.8})
    )
    assert finding.verdict == LOOK  # there is nothing that must be done
    assert "Nothing lies below 0: fix dropout_rate there" in finding.action.replace(
        "nothing", "Nothing"
    )
    values = {"batch_size": {"values": [32, 64, 128, 256]}}
    rows = [{"at": [i % 4], "objective": 1 - (i % 4) / 4 + i / 1000} for i in range(40)]
    (finding,) = boundary.check(synthetic.made(rows, spaces=values))
    assert finding.answer == "batch_size: the best trials crowd the high bound, 256."
    assert finding.action == "Run another study that also lists values of batch_size above 256."
    assert boundary.check(listed)[0].verdict == ACT


def simulated(cost, trials, seed, noise):
    """A Halton study of four hyperparameters."""
    spaces = {name: search_space.parse(name, space) for name, space in synthetic.FOUR.items()}
    rng = np.random.default_rng(seed)
    points = samplers.sample("halton", spaces, trials, seed)
    units = [
        [synthetic.unit(synthetic.FOUR[name], point[name]) for name in spaces] for point in points
    ]
    rows = [{"at": u, "objective": cost(u) + noise * rng.normal()} for u in units]
    return synthetic.made(rows, spaces=synthetic.FOUR)


def fired(cost, noise, studies, trials=20):
    """The fraction of studies in which a bound is told to be crowded, at each end of each axis."""
    found = [
        [f.answer for f in boundary.check(simulated(cost, trials, seed, noise)) if f.verdict == ACT]
        for seed in range(studies)
    ]
    return found


@pytest.mark.playbook("search-space-boundary")
@pytest.mark.parametrize(
    ("cost", "noise"),
    [
        (lambda u: 0.0, 1.0),  # the objective does not depend on any hyperparameter
        (lambda u: 8 * sum((x - 0.5) ** 2 for x in u), 0.5),  # the optimum is in the middle
    ],
    ids=["none", "middle"],
)
def test_false_alarms_are_as_rare_as_told(cost, noise):
    # 5 % of 100 studies; the seeds are fixed, so that this is no game of chance.
    alarms = [answers for answers in fired(cost, noise, 100) if answers]
    assert len(alarms) <= 5


@pytest.mark.playbook("search-space-boundary")
def test_an_optimum_outside_is_seldom_missed():
    def cost(u):
        return 8 * (u[0] - 1.1) ** 2 + 8 * sum((x - 0.5) ** 2 for x in u[1:])

    found = fired(cost, 0.5, 60)  # of 200, it is found in 94 %
    right = "learning_rate: the best trials crowd the high bound, 10."
    assert sum(right in answers for answers in found) >= 0.85 * 60
    assert sum(bool(set(answers) - {right}) for answers in found) <= 0.05 * 60
