"""Which hyperparameters explain the objective: analysis of variance with a response surface.

The ranks of the objectives, as normal scores, are fitted by a parabola along each axis, a level for each
name, and products of two where they stand out. What a hyperparameter explains is what is lost without it,
less what as many columns of noise would explain (ω²); whether that is chance, the F test tells; how well
the whole predicts trials that it has not seen, leaving out one at a time does (exactly, by the leverages).

A random forest was the other choice. On 20 trials, forests of scikit-learn find less (out of 200 studies
with four hyperparameters, noise a third of the effect, their out-of-bag R² was 0.2 where this has 0.6),
have no test of their own for what is noise, and importing it takes two seconds at the end of every study.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping

import numpy as np

from playbook_jax.analysis import crowding
from playbook_jax.analysis.hyperparameters import Hyperparameter
from playbook_jax.analysis.study import Study

# Degrees of freedom that must be left to tell noise from effects: with fewer, the F test sees only effects
# many times the noise.
FREEDOM = 6
# How often, over all hyperparameters or pairs together, one may be said to matter that does not.
CHANCE = 0.05
# And what is within noise: it does not stand out at all, and without it unseen trials are predicted no worse.
NOISE_CHANCE = 0.2
MOST_PAIRS = 3  # products in the model: more are seldom told apart by the trials of a study


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a hyperparameter explains, or a pair of them beyond what each does.

    Attributes:
      hyperparameters: one or two.
      share: of the variation between trials, from 0 to 1.
      chance: how probable it is that noise explains as much.
      matters: whether it does, by CHANCE.
      noise: whether it is within noise.
      best: where on its axis the fit is best, from 0 to 1; None for names and pairs.
    """

    hyperparameters: tuple[Hyperparameter, ...]
    share: float
    chance: float
    matters: bool
    noise: bool = False
    best: float | None = None

    @property
    def label(self) -> str:
        """The names, "learning_rate × momentum"."""
        return " × ".join(h.label for h in self.hyperparameters)


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What the hyperparameters of a study explain.

    Attributes:
      effects: one a hyperparameter, what explains most first.
      pairs: those that matter, likewise.
      quality: how much of the variation between trials it predicts that it has not seen; 1 is all, 0 and
        less is nothing.
      chance: how probable it is that noise explains as much as the whole does.
      trials: how many it is based on.
    """

    effects: tuple[Effect, ...]
    pairs: tuple[Effect, ...]
    quality: float
    chance: float
    trials: int

    @property
    def told(self) -> bool:
        """Whether it explains anything."""
        return self.chance <= CHANCE and self.quality > 0


def varying(study: Study) -> list[Hyperparameter]:
    """Returns the hyperparameters that differ between the trials that learned."""
    return [
        h
        for h in study.hyperparameters
        if len({repr(t.parameters.get(h.name)) for t in study.learned}) > 1
    ]


def needed(study: Study) -> int:
    """Returns how many trials it takes to tell the hyperparameters apart."""
    return 1 + FREEDOM + sum(2 if h.ordered else len(h.levels) - 1 for h in varying(study))


def analyze(study: Study) -> Sensitivity | None:
    """Returns what explains the objective of the trials that learned, or None where they are too few."""
    axes = varying(study)
    if not axes or len(study.learned) < needed(study) or len(set(study.costs(study.learned))) < 3:
        return None
    scores = crowding.normal_scores(study.costs(study.learned))
    columns = {
        h.name: crowding.columns(h, [t.parameters.get(h.name) for t in study.learned]) for h in axes
    }
    pairs = _pairs(axes, columns, scores)
    whole = _Fit(np.concatenate([*columns.values(), *pairs.values()], axis=1), scores)
    total = float(scores @ scores)
    in_pairs = {name for pair in pairs for name in pair}
    effects = [_effect(h, columns, pairs, whole, h.name in in_pairs, len(axes)) for h in axes]
    by_name = {h.name: h for h in axes}
    joint = [_pair(by_name, pair, columns, pairs, whole, len(axes)) for pair in pairs]
    mean_left_out = total * (len(scores) / (len(scores) - 1)) ** 2
    return Sensitivity(
        tuple(sorted(effects, key=lambda effect: -effect.share)),
        tuple(sorted(joint, key=lambda effect: -effect.share)),
        1 - whole.left_out / mean_left_out,
        chance((total - whole.rest) / max(1, whole.rank) / whole.noise, whole.rank, whole.freedom),
        len(scores),
    )


class _Fit:
    """A least-squares fit. All columns have mean 0.

    Attributes:
      basis: orthonormal columns that span the given ones.
      rank: how many.
      residuals: what is left of the scores.
      rest: their sum of squares.
      freedom: degrees of freedom left.
      noise: the variance of the noise.
      left_out: the sum of squares of the errors of each trial by a fit to the others.
    """

    def __init__(self, columns: np.ndarray, scores: np.ndarray) -> None:
        u, s, _ = np.linalg.svd(columns, full_matrices=False)
        self.basis = u[:, s > 1e-9 * max(1e-300, s.max(initial=0.0))]
        self.rank = self.basis.shape[1]
        self.residuals = scores - self.basis @ (self.basis.T @ scores)
        self.rest = float(self.residuals @ self.residuals)
        self.freedom = len(scores) - 1 - self.rank
        self.noise = max(self.rest / max(1, self.freedom), 1e-12)
        leverage = 1 / len(scores) + (self.basis**2).sum(axis=1)
        self.left_out = float(np.sum((self.residuals / np.maximum(1 - leverage, 1e-6)) ** 2))


Names = tuple[str, str]


def _pairs(
    axes: list[Hyperparameter], columns: Mapping[str, np.ndarray], scores: np.ndarray
) -> dict[Names, np.ndarray]:
    """Returns the products that stand out, one after the other, each beside those before it."""
    linear = {h.name: columns[h.name][:, :1] if h.ordered else columns[h.name] for h in axes}
    candidates = {
        (a.name, b.name): _product(linear[a.name], linear[b.name])
        for a, b in itertools.combinations(axes, 2)
    }
    chosen: dict[Names, np.ndarray] = {}
    number = len(candidates)
    while candidates and len(chosen) < MOST_PAIRS:
        fit = _Fit(np.concatenate([*columns.values(), *chosen.values()], axis=1), scores)
        found = [(_gain(fit, product), pair) for pair, product in candidates.items()]
        least, pair = min(found, key=lambda f: f[0])
        if least > CHANCE / number:
            break
        chosen[pair] = candidates.pop(pair)
    return chosen


def _product(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    product = (one[:, :, None] * two[:, None, :]).reshape(len(one), -1)
    return product - product.mean(axis=0)


def _gain(fit: _Fit, product: np.ndarray) -> float:
    """Returns how probable it is that noise explains as much as more columns do beside a fit."""
    new = product - fit.basis @ (fit.basis.T @ product)
    u, s, _ = np.linalg.svd(new, full_matrices=False)
    u = u[:, s > 1e-6 * max(1e-300, np.linalg.norm(product))]
    freedom = fit.freedom - u.shape[1]
    if not u.shape[1] or freedom < FREEDOM - 2:
        return 1.0
    explained = float(np.sum((u.T @ fit.residuals) ** 2))
    noise = max((fit.rest - explained) / freedom, 1e-12)
    return chance(explained / u.shape[1] / noise, u.shape[1], freedom)


def _effect(
    h: Hyperparameter,
    columns: Mapping[str, np.ndarray],
    pairs: Mapping[Names, np.ndarray],
    whole: _Fit,
    in_pair: bool,
    number: int,
) -> Effect:
    """Returns what one of so many hyperparameters explains; a pair keeps both of its own."""
    kept = [c for name, c in columns.items() if name != h.name]
    kept += [c for pair, c in pairs.items() if h.name not in pair]
    share, odds, without = _lost(whole, kept)
    matters = odds <= CHANCE / number or in_pair
    noise = not matters and odds > NOISE_CHANCE and without.left_out <= whole.left_out
    best = None if in_pair or not h.ordered else _best(columns[h.name], whole, h)
    return Effect((h,), share, odds, matters, noise, best)


def _pair(
    axes: Mapping[str, Hyperparameter],
    pair: Names,
    columns: Mapping[str, np.ndarray],
    pairs: Mapping[Names, np.ndarray],
    whole: _Fit,
    number: int,
) -> Effect:
    kept = [*columns.values(), *(c for other, c in pairs.items() if other != pair)]
    share, odds, _ = _lost(whole, kept)
    return Effect(tuple(axes[name] for name in pair), share, odds, True)


def _lost(whole: _Fit, kept: list[np.ndarray]) -> tuple[float, float, _Fit]:
    """Returns the share that is lost where only some columns are kept, its chance, and that fit."""
    scores = whole.scores
    without = _Fit(np.concatenate([np.zeros((len(scores), 1)), *kept], axis=1), scores)
    degrees = max(1, whole.rank - without.rank)
    lost = without.rest - whole.rest
    share = max(0.0, (lost - degrees * whole.noise) / float(scores @ scores))
    return share, chance(lost / degrees / whole.noise, degrees, whole.freedom), without


def _best(columns: np.ndarray, whole: _Fit, h: Hyperparameter) -> float | None:
    """Returns where the parabola of one hyperparameter is lowest, from 0 to 1."""
    places = np.linspace(0, 1, 101)
    weights = whole.weights_of(columns)
    if weights is None:
        return None
    curve = crowding.parabola(places) @ weights
    return float(places[np.argmin(curve)])


def chance(f: float, degrees: int, freedom: int) -> float:
    """Returns the probability that an F distribution with these degrees of freedom exceeds `f`."""
    if degrees < 1 or freedom < 1:
        return 1.0
    if f <= 0:
        return 1.0
    return _beta(freedom / 2, degrees / 2, freedom / (freedom + degrees * f))
