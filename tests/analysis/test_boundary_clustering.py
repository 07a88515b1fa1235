import itertools
import math

import numpy as np
import pytest

from playbook_jax.analysis.stats import boundary_clustering, directions
from tests import synthetic_study as synthetic

RATE, DECAY = "hparams.learning_rate", "hparams.weight_decay"
ONE = {RATE: synthetic.LEARNING_RATE}
TWO = ONE | {DECAY: synthetic.WEIGHT_DECAY}


def places(n):
    """The middles of n equal stretches."""
    return [(i + 0.5) / n for i in range(n)]


def test_the_best_few_are_the_root_of_all():
    assert [boundary_clustering.few(n) for n in (1, 9, 10, 20, 100, 1000)] == [3, 3, 4, 5, 10, 32]


def test_least_chance_is_that_of_the_outermost_few():
    assert boundary_clustering.least_chance(20) == 1 / math.comb(20, 5)
    assert boundary_clustering.least_chance(2) == 1


@pytest.mark.parametrize("chosen", [(0, 1, 2), (0, 2, 5), (6, 7, 8)])
def test_chance_counts_every_choice(chosen):
    distances = np.random.default_rng(0).uniform(size=9)
    mine = sum(distances[list(chosen)])
    sums = [sum(distances[list(c)]) for c in itertools.combinations(range(9), 3)]
    expected = sum(s <= mine + 1e-9 for s in sums) / math.comb(9, 3)
    assert boundary_clustering.chance(distances, np.array(chosen)) == pytest.approx(
        expected, rel=1e-12
    )


def test_chance_of_many_trials_agrees_with_drawing_them():
    # C(40, 7) is 18 million: the normal distribution stands in. 20,000 draws have an error of 0.2 %.
    rng = np.random.default_rng(1)
    distances = rng.uniform(size=40)
    chosen = np.argsort(distances)[[0, 5, 9, 12, 16, 20, 24]]
    draws = np.array([rng.choice(distances, 7, replace=False).mean() for _ in range(20_000)])
    expected = np.mean(draws <= distances[chosen].mean())
    assert 0.02 < expected < 0.2
    assert boundary_clustering.chance(distances, chosen) == pytest.approx(expected, abs=0.01)


def test_chance_of_trials_in_one_place_is_certain():
    assert boundary_clustering.chance(np.full(40, 0.3), np.arange(7)) == 1.0


def test_crowd_at_an_end():
    # The further up, the better: the outermost 5 of 20 lie at 0.025, 0.075 … 0.225 of the axis.
    study = synthetic.made([{"at": [u], "objective": 1 - u} for u in places(20)], spaces=ONE)
    axis = directions.along(study.hyperparameters[0])
    crowd = boundary_clustering.Field(study).crowd(axis, 1.0, 0.0)
    assert crowd.few == 5
    assert crowd.depth == pytest.approx(0.125)
    assert crowd.chance == pytest.approx(1 / math.comb(20, 5))
    assert crowd.improving
    other = boundary_clustering.Field(study).crowd(axis, 0.0, 1.0)
    assert other.chance == pytest.approx(1.0)
    assert not other.improving


def test_an_optimum_before_the_end_does_not_improve_there():
    rows = [{"at": [u], "objective": (u - 0.6) ** 2} for u in places(20)]
    study = synthetic.made(rows, spaces=ONE)
    crowd = boundary_clustering.Field(study).crowd(
        directions.along(study.hyperparameters[0]), 1.0, 0.0
    )
    assert not crowd.improving


@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_another_hyperparameter_adds_is_taken_out(mode):
    # A strong effect on one axis blurs where on the other one the good trials lie.
    rng = np.random.default_rng(4)
    sign = 1 if mode == "min" else -1
    rows = [
        {"at": [u, v], "objective": sign * (10 * (u - 0.5) ** 2 - v)}
        for u, v in rng.uniform(size=(60, 2))
    ]
    study = synthetic.made(rows, spaces=TWO, mode=mode)
    field = boundary_clustering.Field(study)
    decay = directions.along(study.hyperparameters[1])
    raw = 1 - field.positions(decay)
    hidden = boundary_clustering.chance(raw, np.arange(boundary_clustering.few(60)))
    crowd = field.crowd(decay, 1.0, 0.0)
    assert crowd.chance < hidden / 100
    assert crowd.depth < 0.1


def test_with_too_few_trials_nothing_is_taken_out():
    # 7 trials, 4 columns: a fit would explain everything. So the crowd is that of the objectives.
    rng = np.random.default_rng(3)
    rows = [{"at": at, "objective": rng.uniform()} for at in rng.uniform(size=(7, 2))]
    study = synthetic.made(rows, spaces=TWO)
    field = boundary_clustering.Field(study)
    assert not field.adjusted
    decay = directions.along(study.hyperparameters[1])
    crowd = field.crowd(decay, 1.0, 0.0)
    distances = 1 - field.positions(decay)  # the best first
    assert crowd.depth == pytest.approx(np.median(distances[:3]))
    assert crowd.chance == boundary_clustering.chance(distances, np.arange(3))


def test_trials_that_lack_the_hyperparameter_are_left_out():
    rows = [{"at": [u], "objective": 1 - u} for u in places(20)]
    study = synthetic.made(rows, spaces=ONE)
    for trial in study.trials[::2]:
        trial.parameters.clear()
    axis = directions.along(study.hyperparameters[0])
    field = boundary_clustering.Field(study)
    assert np.isnan(field.positions(axis)).sum() == 10
    crowd = field.crowd(axis, 1.0, 0.0)
    assert crowd.few == boundary_clustering.few(10) == 4
    assert crowd.chance == pytest.approx(1 / math.comb(10, 4))


def test_too_few_to_compare():
    study = synthetic.made([{"at": [u], "objective": u} for u in places(3)], spaces=ONE)
    axis = directions.along(study.hyperparameters[0])
    assert boundary_clustering.Field(study).crowd(axis, 1.0, 0.0) is None
    same = synthetic.made([{"at": [0.5], "objective": i} for i in range(9)], spaces=ONE)
    assert boundary_clustering.Field(same).crowd(axis, 1.0, 0.0) is None
