"""The checks of training curves: each fires, is silent, and cannot tell; numbers recomputed in NumPy."""

import dataclasses

import numpy as np
import pytest

from playbook_jax.analysis.findings import (
    ACT,
    CANNOT_TELL,
    FINE,
    LOOK,
    end_of_training,
    late_variance,
    overfitting,
    periodicity,
    training_fit,
    training_loss,
)
from playbook_jax.analysis.stats import curve_shapes
from tests import finding_studies as made, synthetic_study as synthetic
from tests.finding_studies import plain, straight

CHECKS = (overfitting, late_variance, end_of_training, training_loss, periodicity, training_fit)
N = made.EVALUATIONS
STEP = made.STEPS / N
CONSTANT = {"schedule": "constant"}


def rng(seed=0):
    return np.random.default_rng(seed)


# --- Whatever the study, there is an answer ---


@pytest.mark.parametrize("module", CHECKS, ids=lambda m: m.__name__.rsplit(".", 1)[-1])
def test_nothing_to_see_cannot_be_told(module):
    empty = synthetic.made([], spaces=made.ONE)
    short = made.study([made.trial(rng(), np.array([0.3, 0.2]))] * 2)
    failed = made.study([{"objective": None}] * 3)
    blank = made.study([{"objective": 0.1, "evaluations": {}}] * 8)
    for study in (empty, short, failed, blank):
        (finding,) = module.check(study)
        assert (finding.verdict, finding.action) == (CANNOT_TELL, "")
        assert finding.answer.endswith(".")


# --- Shapes ---


def test_scatter_is_that_of_the_second_half_beside_a_trend():
    noise = 0.02 * rng().normal(size=4000)
    values = np.linspace(3, 1, 4000) + noise
    values[:2000] += 0.5 * rng(1).normal(size=2000)
    # 2,000 values tell a standard deviation to 1.6 %; neighbours that are subtracted, a little less.
    assert curve_shapes.scatter(values) == pytest.approx(0.02, rel=0.06)
    assert np.isnan(curve_shapes.scatter(np.ones(3)))


def test_what_is_counted_is_known_to_one_at_best():
    counted = np.array([10, 9, 5, 4, 4, 5, 6, 6, 6, 6, 6, 6]) / 300
    assert curve_shapes.noise(counted) == pytest.approx(1 / 300)
    assert curve_shapes.scatter(counted) < 0.001
    assert curve_shapes.rise(counted)[1] > 0.05  # two examples more than at best are no overfitting
    assert curve_shapes.noise(np.full(10, 0.1)) == 0
    smooth = rng().normal(size=100)
    assert curve_shapes.noise(smooth) == curve_shapes.scatter(smooth)


@pytest.mark.parametrize("length", [8, 20, 37, 120, 300])
def test_chances_are_those_of_flat_curves(length):
    flat = rng(length).normal(size=(1000, length))
    for shape in (lambda v: curve_shapes.rise(v)[1], lambda v: curve_shapes.late_fall(v)[1]):
        chances = np.array([shape(values) for values in flat])
        # Of 1,000, 5 % are 50 with a standard deviation of 7; lengths that lie between those that were
        # simulated may be off by some more.
        assert 0.02 < np.mean(chances <= 0.05) < 0.08
    assert curve_shapes.rise(np.linspace(1, 0, length))[1] == 1.0
    if length >= 20:  # of 8 values in steps of 2 / 7, none is known to be exact
        assert curve_shapes.rise(np.abs(np.linspace(-1, 1, length)))[1] < 0.01


def test_a_rise_is_measured_on_the_smoothed_curve():
    values = straight(rise=0.08, noise=0.001)
    risen, chance, lowest = curve_shapes.rise(values)
    w = max(3, N // 8)
    smoothed = np.array([values[i : i + w].mean() for i in range(N - w + 1)])
    assert risen == pytest.approx(smoothed[-1] - smoothed.min())
    assert abs(lowest - 20) <= 2
    assert chance < 1e-3


# --- Overfitting ---


def runs(rises, *, levels=None, train=None, **options):
    """A study of trials, the best first, whose validation rises by so much after the middle."""
    levels = levels or [0.1 + 0.01 * i for i in range(len(rises))]
    rows = []
    for i, (rise, level) in enumerate(zip(rises, levels, strict=True)):
        validation = straight(level, rise=rise, noise=0.001, seed=i)
        rows.append(
            made.trial(rng(), validation, train if train is not None else straight(0, lowest=N))
        )
    return made.study(rows, **options)


@pytest.mark.playbook("problematic-overfitting")
def test_overfitting_among_the_best():
    assert overfitting.check(runs([0.05, 0.05, 0, 0, 0]))[0].verdict == ACT
    # One of three is worth a look: where it was acted on, the next study got worse.
    (finding,) = overfitting.check(runs([0.05, 0, 0, 0, 0]))
    assert finding.verdict == LOOK
    assert (
        finding.answer
        == "The validation error rises again in 1 of 3 trials that are compared: trial 0."
    )
    assert "more regularization (dropout, label smoothing or weight decay)" in finding.action
    assert finding.trials == (0,)
    # Means over five evaluations without the noise, whose means scatter by 0.1 / √5 %.
    means = np.convolve(straight(0.1, rise=0.05), np.full(5, 0.2), mode="valid")
    told = plain(finding.evidence[0])
    risen = float(told.split("ends ")[1].split(" %")[0])
    assert risen == pytest.approx(100 * (means[-1] - means.min()), abs=0.15)
    # Lowest at evaluation 20, counted from 0: at step 525.
    assert abs(int(told.split("at step ")[1].rstrip(".")) - 525) <= 3 * STEP


def test_no_overfitting_where_validation_stays_or_training_rises_too():
    assert overfitting.check(runs([0, 0, 0, 0]))[0].verdict == FINE
    # Less than 3 % of the best value, though it is more than scatter.
    assert overfitting.check(runs([0.0029, 0, 0, 0]))[0].verdict == FINE
    unstable = runs([0.05, 0.05, 0.05], train=straight(0.02, rise=0.03, noise=0.0005))
    (finding,) = overfitting.check(unstable)
    assert finding.verdict == FINE
    assert "rises again in trials 0, 1 and 2, but training gets worse as well" in finding.answer


@pytest.mark.playbook("overfitting-anywhere")
def test_overfitting_elsewhere():
    (finding,) = overfitting.check(runs([0] * 6 + [0.05, 0, 0.05, 0, 0.05, 0]))
    assert finding.verdict == LOOK
    assert finding.answer == "The best trials do not overfit, but 3 of 9 others do."
    assert sorted(finding.trials) == [6, 8, 10]
    assert "scatter would make 0.18 look so" in finding.evidence[1]  # 2 % of 9
    # One of 27 may be chance: with 2 % each, in 42 % of studies.
    assert overfitting.check(runs([0] * 29 + [0.02]))[0].verdict == FINE


def scientific(study, name):
    axes = tuple(
        dataclasses.replace(h, role="scientific") if h.name == name else h
        for h in study.hyperparameters
    )
    return dataclasses.replace(study, hyperparameters=axes)


@pytest.mark.playbook("problematic-overfitting")
@pytest.mark.parametrize(
    ("name", "verdict"), [("model.layers", ACT), ("hparams.weight_decay", FINE)]
)
def test_the_best_of_each_scientific_value_counts(name, verdict):
    spaces = {name: {"values": [1, 2]}, **made.ONE}
    rows = []
    for i, rise in enumerate([0, 0, 0, 0, 0.05, 0]):  # trial 4 is the best of the second value
        row = made.trial(rng(), straight(0.1 + 0.01 * i, rise=rise, noise=0.001, seed=i))
        rows.append(row | {"at": [int(i >= 4), 0.5]})
    study = scientific(synthetic.made(rows, spaces=spaces), name)
    (finding,) = overfitting.check(study)
    assert finding.verdict == verdict
    assert "trial 4" in finding.answer
    if verdict == FINE:
        assert "the study is about regularization" in finding.answer
        assert finding.action == ""


def test_a_regularizer_that_is_searched_is_named():
    space = {"hparams.weight_decay": synthetic.WEIGHT_DECAY}
    (finding,) = overfitting.check(runs([0.05, 0.05, 0.05], spaces=space))
    assert finding.action.startswith("Search stronger regularization (weight_decay, or")


def test_an_accuracy_that_falls_again_is_overfitting_too():
    rows = []
    for i in range(4):
        row = made.trial(rng(), straight(0.1 + 0.01 * i, rise=0.05, noise=0.001, seed=i))
        error = row["evaluations"].pop("validation/error_rate")
        row["evaluations"]["validation/accuracy"] = 1 - error
        rows.append(row | {"objective": 1 - row["objective"]})
    study = made.study(rows, metric="validation/accuracy", mode="max")
    assert overfitting.check(study)[0].verdict == ACT


# --- The end of training ---


def ending(shape, base=None, best=None):
    rows = []
    for i in range(4):
        values = 0.1 + shape + 0.0005 * rng(i).normal(size=N)
        row = made.trial(rng(), values, values / 2)
        rows.append(row | ({} if best is None else {"best_step": best}))
    return made.study(rows, base=base)


T = np.arange(N) / (N - 1)


@pytest.mark.playbook("still-improving")
def test_still_improving():
    study = ending(0.1 * (1 - T), base=CONSTANT)
    (finding,) = end_of_training.check(study)
    assert finding.verdict == LOOK
    assert "still improving at the end: training is compute-bound" in finding.answer
    # A fifth of the run is 8 of 39 intervals.
    assert f"before: {100 * 0.1 * 8 / 39:.1f}"[:-1] in plain(finding.evidence[0])
    assert finding.action == ""  # the best steps already ask for more
    (finding,) = end_of_training.check(ending(0.1 * (1 - T), base=CONSTANT, best=600))
    assert finding.action.startswith("Train longer if you can afford it")
    (finding,) = end_of_training.check(ending(0.1 * (1 - T), base={"schedule": "cosine"}))
    assert (finding.verdict, finding.action) == (CANNOT_TELL, "")
    assert "decays to zero" in finding.answer


def test_a_fall_must_be_more_than_scatter_and_matter():
    drop = np.where(T > 0.8, -0.004, 0.0)  # 4 % of the value, from one fifth to the next
    scatter = 0.02 * (-1.0) ** np.arange(N)

    def improving(shape):
        rows = [made.trial(rng(), 0.1 + shape + 1e-5 * rng(i).normal(size=N)) for i in range(3)]
        return "still improving" in end_of_training.check(made.study(rows, base=CONSTANT))[0].answer

    assert improving(drop)
    assert not improving(drop + scatter)
    assert not improving(drop / 4)  # 1 %


@pytest.mark.playbook("saturated-early")
def test_saturated():
    early = 0.5 * np.exp(-30 * T)
    (finding,) = end_of_training.check(ending(early, best=600))
    assert finding.verdict == LOOK
    assert "had settled long before the end" in finding.answer
    at = float(plain(finding.evidence[1]).split("after ")[1].split(" %")[0]) / 100
    assert 0.15 <= at <= 0.35  # 0.5 exp(−30 t) is 2 % of 0.1 at t = 0.18
    assert finding.action.startswith("Fewer steps do: set max_train_steps to")
    # Neither: the curves fall until 60 % of the run.
    assert end_of_training.check(ending(0.2 * np.clip(0.6 - T, 0, 1)))[0].verdict == FINE


def test_training_that_goes_on_is_not_saturated():
    rows = []
    for i in range(4):
        noise = 0.0005 * rng(i).normal(size=N)
        rows.append(made.trial(rng(), 0.1 + 0.5 * np.exp(-30 * T) + noise, 0.1 - 0.09 * T + noise))
    assert end_of_training.check(made.study(rows))[0].verdict == FINE
    shapes = [0.5 * np.exp(-30 * T)] * 2 + [0.2 * np.clip(0.6 - T, 0, 1)]
    rows = [made.trial(rng(), 0.1 + s + 0.0005 * rng(1).normal(size=N)) for s in shapes]
    assert end_of_training.check(made.study(rows))[0].verdict == FINE  # one of three goes on
    again = 0.5 * np.exp(-30 * T) + 0.1 * np.clip(T - 0.8, 0, 1)
    assert end_of_training.check(ending(again))[0].verdict == FINE


# --- The training loss ---


def losses(*curves):
    """A study of trials whose 1,000 steps have these losses."""
    rows = [
        {"objective": 0.1 + i / 100, "records": made.records(loss, np.ones(len(loss)))}
        for i, loss in enumerate(curves)
    ]
    return made.study(rows)


def loss(rise, seed=0):
    t = np.linspace(0, 1, made.STEPS)
    values = 0.5 + 2 * np.clip(1 - 4 * t, 0, 1) + rise * np.clip(2 * t - 1, 0, 1)
    return values + 0.05 * rng(seed).normal(size=made.STEPS)


@pytest.mark.playbook("training-loss-rises-on-the-way")
def test_training_loss():
    (finding,) = training_loss.check(losses(*[loss(0.0, i) for i in range(6)]))
    assert finding.verdict == FINE
    (finding,) = training_loss.check(losses(loss(0), loss(1, 1), *[loss(0, i) for i in range(5)]))
    assert finding.verdict == LOOK
    assert finding.answer == "The training loss rises again in trial 1, of the best few of 7."
    # It had fallen by 2, and gives back 1, of which the smoothed end (an eighth of the run) has 7 / 8.
    assert "trial 1 gives back 44 %" in plain(finding.evidence[0])
    (finding,) = training_loss.check(losses(*[loss(1, i) for i in range(6)]))
    assert finding.verdict == ACT
    assert "bug in the training pipeline" in finding.action
    # Less than a tenth of what the loss had fallen, and trials that are not among the best few.
    assert training_loss.check(losses(*[loss(0.15, i) for i in range(6)]))[0].verdict == FINE
    few = losses(*[loss(i == 9, i) for i in range(10)])
    (finding,) = training_loss.check(few)
    assert (finding.verdict, finding.trials) == (FINE, (9,))


# --- Is the training set fit? ---


def fitted(train, validation=0.2):
    rows = [
        made.trial(rng(), np.full(10, validation) + i / 1000, np.full(10, train)) for i in range(4)
    ]
    return made.study(rows)


@pytest.mark.playbook("training-set-not-fit")
def test_training_fit():
    (finding,) = training_fit.check(fitted(0.19))
    assert finding.verdict == LOOK
    assert "do not fit the training set" in finding.answer
    assert finding.action.startswith("Do not expect regularization to help.")
    assert "trial 0: 19.00 % in training, 20.00 % in validation" in plain(finding.evidence[0])
    (finding,) = training_fit.check(fitted(0.1))
    assert finding.verdict == FINE
    assert "Training has 50 % of the error" in plain(finding.answer)
    assert training_fit.check(fitted(0.001))[0].answer == "The best trials fit the training set."
    # A task so easy that both are nearly perfect: there is nothing to fit better.
    assert training_fit.check(fitted(0.005, 0.005))[0].verdict == FINE
