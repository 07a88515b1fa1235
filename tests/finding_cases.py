"""Every check with the random studies that try it, for the tests and the benchmark of their error rates."""

import dataclasses
import pkgutil

import numpy as np

from playbook_jax.analysis import findings
from playbook_jax.analysis.data import retrain_noise as retrain_noise_of_a_study
from playbook_jax.analysis.findings import (
    VERDICTS,
    best_step,
    boundary,
    clipping,
    decay,
    early_instability,
    end_of_training,
    enough_trials,
    features,
    gradient_outliers,
    infeasible,
    input_bound,
    instability,
    isolation,
    late_variance,
    overfitting,
    periodicity,
    retrain_noise,
    sensitivity,
    training_fit,
    training_loss,
)
from playbook_jax.analysis.stats import replicates
from playbook_jax.studies.space import samplers, search_space
from tests import finding_studies as made, synthetic_study as synthetic
from tests.finding_studies import Case

BOWL = 0.5  # noise of an objective beside a bowl 8 Σ (u − center)², a third of what its axes make of it
SCIENTIFIC = "model.norm_order"


def sampled(rng, trials, spaces):
    """Returns Halton points as places from 0 to 1, [trials, hyperparameters]; names as their index."""
    parsed = {name: search_space.parse(name, space) for name, space in spaces.items()}
    seed = int(rng.integers(2**31))
    points = samplers.sample("halton", parsed, trials, seed)
    return np.array([[synthetic.unit(spaces[n], point[n]) for n in spaces] for point in points])


def bowl(rng, trials, center, edge=2.0):
    """A study whose best learning rate lies at `center` of its axis, and which diverges above `edge`."""
    units = sampled(rng, trials, synthetic.FOUR)
    costs = 8 * ((units - [center, 0.5, 0.5, 0.5]) ** 2).sum(axis=1) + BOWL * rng.normal(
        size=trials
    )
    rows = [
        {"at": at, "objective": None if at[0] > edge else float(cost)}
        for at, cost in zip(units, costs, strict=True)
    ]
    return synthetic.made(rows, spaces=synthetic.FOUR)


def outside(rng, trials, there):
    """The best learning rate is beyond the space, by a tenth of it; or in the middle."""
    return bowl(rng, trials, 1.1 if there else 0.5)


def edge(rng, trials, there):
    """Training diverges above 0.7 of the axis, and the best is at 0.7; or at 0.3."""
    return bowl(rng, trials, 0.7 if there else 0.3, edge=0.7)


def mostly_infeasible(rng, trials, there):
    """65 % of the space diverge, or 20 %."""
    return bowl(rng, trials, 0.3, edge=0.35 if there else 0.8)


def best_early(rng, trials, there):
    """The best steps are in the first tenth, or anywhere in the first half."""
    return at_steps(rng.uniform(0.01, 0.1 if there else 0.5, trials))


def best_late(rng, trials, there):
    """The best steps are in the last quarter, and the run goes on to gain there; or are anywhere."""
    return at_steps(rng.uniform(0.76 if there else 0.1, 1, trials))


def at_steps(places):
    """A study of trials that fall to their best at these parts of the run, and rise again."""
    t = np.arange(1, 101) / 100
    rows = []
    for i, place in enumerate(places):
        values = 0.1 + i / 1000 + 0.5 * np.abs(t - place)
        rows.append(made.trial(None, values))
    return made.study(rows, base={"schedule": "constant"})


def scientific(rng, trials, there):
    """One of two values is better by three times the noise, or neither is."""
    spaces = {SCIENTIFIC: {"values": ["pre", "post"]}, **synthetic.FOUR}
    units = sampled(rng, trials, spaces)
    costs = 2 * ((units[:, 1:] - 0.5) ** 2).sum(axis=1) + 0.1 * rng.normal(size=trials)
    costs += 0.3 * units[:, 0] * there
    rows = [
        {"at": [int(at[0]), *at[1:]], "objective": float(cost)}
        for at, cost in zip(units, costs, strict=True)
    ]
    return synthetic.made(rows, spaces=spaces, scientific=(SCIENTIFIC,))


def one_matters(rng, trials, there):
    """Over the learning rate's axis the objective changes by three times the noise; or nothing matters."""
    units = sampled(rng, trials, synthetic.FOUR)
    costs = 3 * units[:, 0] * there + rng.normal(size=trials)
    rows = [{"at": at, "objective": float(c)} for at, c in zip(units, costs, strict=True)]
    return synthetic.made(rows, spaces=synthetic.FOUR, metric="validation/loss")


def useless(rng, trials, there):
    """Weight decay does nothing, or gains three times the noise from its weak end to its strong one."""
    spaces = {n: space for n, space in synthetic.FOUR.items() if "clip" not in n}
    units = sampled(rng, trials, spaces)
    costs = 3 * units[:, 0] - 3 * units[:, 2] * (not there) + rng.normal(size=trials)
    rows = [{"at": at, "objective": float(c)} for at, c in zip(units, costs, strict=True)]
    return synthetic.made(rows, spaces=spaces, metric="validation/loss")


def alike(rng, trials, there):
    """Trials differ by nothing but the noise that ten runs of the best one show; or by three times it."""
    costs = 10 + 3 * (not there) * rng.normal(size=trials) + rng.normal(size=trials)
    rows = [{"objective": float(cost)} for cost in costs]
    study = made.study(rows, metric="validation/loss")
    runs = study.best.objective + rng.normal(size=10)
    spread = replicates.spread(runs)
    noise = retrain_noise_of_a_study.RetrainNoise(None, "the best", "/nowhere", runs, spread)
    return dataclasses.replace(study, retrain=noise)


ACT_ONLY = ("act",)  # where a LOOK is meant to come more often than one study in twenty

CASES = (
    Case("instability: best at its edge", instability.check, edge),
    Case("early instability", early_instability.check, made.early),
    Case("outlier gradients", gradient_outliers.check, made.spikes),
    Case("aggressive clipping", clipping.check, made.clipped),
    Case("infeasible fraction", infeasible.check, mostly_infeasible),
    Case("training loss rises", training_loss.check, made.rising_loss),
    Case("search space boundary", boundary.check, outside, ACT_ONLY),
    Case("good region hardly sampled", enough_trials.check, made.sparse),
    Case("trials differ by noise only", retrain_noise.check, alike),
    Case("best steps early", best_step.check, best_early, ACT_ONLY),
    Case("best steps late", best_step.check, best_late),
    Case("still improving", end_of_training.check, made.still_improving, says="still improving"),
    Case("saturated early", end_of_training.check, made.saturated, says="settled"),
    Case("overfitting", overfitting.check, made.overfitting),
    Case("overfitting of others", overfitting.check, made.overfitting_of_others),
    Case("training set not fit", training_fit.check, made.not_fit),
    Case("late variance", late_variance.check, made.late_variance),
    Case("a decay is missing", decay.check, made.constant_rate, ACT_ONLY),
    Case("periodic metrics", periodicity.check, made.periodic),
    Case("input-bound", input_bound.check, made.waiting),
    Case("a hyperparameter matters", sensitivity.check, one_matters, VERDICTS, " matter"),
    Case("a feature can go", features.check, useless, VERDICTS, " can go:"),
    Case("a scientific value beats", isolation.check, scientific, VERDICTS, " beats "),
)


def untried():
    """Returns the names of checks that no case tries."""
    tried = {case.check.__module__ for case in CASES}
    names = [module.name for module in pkgutil.iter_modules(findings.__path__)]
    return [name for name in names if f"{findings.__name__}.{name}" not in tried]
