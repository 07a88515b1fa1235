"""Which hyperparameters explain the objective: analysis of variance with a response surface.

The ranks of the objectives, as normal scores, are fitted by a parabola along each axis, a level for each
name, and products of two where they stand out. What a hyperparameter explains is what is lost without it,
less what as many columns of noise would explain (ω²); whether that is chance, the F test tells; how well
the whole predicts trials that it has not seen, leaving out one at a time does (exactly, by the leverages).

So many columns need many trials. A hyperparameter is therefore looked at in two simpler ways as well: its
parabola alone, and its straight line beside those of the others. In 400 simulated studies of 20 trials and
four hyperparameters, of which one, two or all have effects of three times the noise, the surface recognises
37, 39 and 34 % of straight effects and 31, 30 and 29 % of bowls; the three together 70, 66 and 59 %, and 58,
33 and 27 %. A test that knew that effects are straight would see 81 % of the straight ones.

A random forest was the other choice. On simulated studies of four hyperparameters, each with an effect of
three times the noise, scikit-learn's has an out-of-bag R² of -0.1 with 20 trials and 0.4 with 100 where this
has 0.5 and 0.7 (with a cliff in place of a parabola 0.3 and 0.6, and this 0.1 and 0.5); it has no test of
its own for what is noise, and takes two seconds to import at the end of every study, where this takes 2 ms.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from playbook_jax.analysis.data.hyperparameters import Hyperparameter, units
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.stats import boundary_clustering, gains

# Degrees of freedom that must be left to tell noise from effects: with fewer, the F test sees only effects
# many times the noise.
FREEDOM = 6
CHANCE = Threshold(
    "sensitivity.chance",
    0.03,
    0,
    1,
    "how often anything may be said to matter that does not: half of it for the hyperparameters "
    "in each of three ways of looking, half for the pairs; by simulation that comes to 4 %",
)
# A part of an axis is good where the fit is within a tenth of what it varies from its lowest, and a tenth
# of the axis more on both sides: the fit is no better known than that.
GOOD, MARGIN = 0.1, 0.1
_DEPENDENT = 1e-10  # eigenvalues, of the largest, below which a column adds nothing to the others
MOST_PAIRS = 3  # products in the model: more are seldom told apart by the trials of a study


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a hyperparameter explains, or a pair of them beyond what each does.

    Attributes:
      hyperparameters: one or two.
      share: of the variation between trials, from 0 to 1.
      chance: how probable it is that noise explains as much.
      matters: whether it does, by CHANCE.
      noise: whether it is within noise: fixed as in the best trial it loses less than is worth having, by
        an upper bound, see `gains`.
      lost: that bound, in standard deviations.
      size: by how much it changes the objective over the places that were tried, for trials that are neither
        good nor bad, in the objective's units; for one of a pair, and for a pair, None.
      best: where on its axis the fit is best, from 0 to 1; None for names and pairs, and where that
        depends on another one.
      good: the part of the axis around it in which the fit is not much worse; likewise.
    """

    hyperparameters: tuple[Hyperparameter, ...]
    share: float
    chance: float
    matters: bool
    noise: bool = False
    size: float | None = None
    best: float | None = None
    good: tuple[float, float] | None = None
    lost: float = math.inf

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
      told: whether anything is explained, by the whole or by a hyperparameter.
    """

    effects: tuple[Effect, ...]
    pairs: tuple[Effect, ...]
    quality: float
    chance: float
    trials: int
    told: bool


def varying(study: Study) -> list[Hyperparameter]:
    """Returns the hyperparameters that differ between the trials that learned; the baseline was not drawn."""
    study = study.drawn
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
    study = study.drawn
    axes = varying(study)
    if not axes or len(study.learned) < needed(study) or len(set(study.costs(study.learned))) < 3:
        return None
    scores = boundary_clustering.normal_scores(study.costs(study.learned))
    columns = {
        h.name: boundary_clustering.columns_of(h, [t.parameters.get(h.name) for t in study.learned])
        for h in axes
    }
    level = CHANCE.of(study)
    pairs, hinted = _pairs(axes, columns, scores, level)
    whole = _Fit([*columns.values(), *pairs.values()], scores)
    mean_left_out = float(scores @ scores) * (len(scores) / (len(scores) - 1)) ** 2
    quality = 1 - whole.left_out / mean_left_out
    views = _Views(study, axes, columns, pairs, whole, whole.chance <= level and quality > 0)
    surface = gains.Surface(study, axes)
    effects = [_effect(views, h, h.name in hinted, surface) for h in axes]
    joint = [_pair(views, pair) for pair in pairs if views.told]
    return Sensitivity(
        tuple(sorted(effects, key=lambda effect: -effect.share)),
        tuple(sorted(joint, key=lambda effect: -effect.share)),
        quality,
        whole.chance,
        len(scores),
        views.told or any(effect.matters for effect in effects),
    )


class _Fit:
    """A least-squares fit. All columns have mean 0.

    Attributes:
      scores: what is fitted.
      basis: orthonormal columns that span the given ones.
      rank: how many.
      weights: of the given columns, a block each.
      residuals: what is left of the scores.
      rest: their sum of squares.
      freedom: degrees of freedom left.
      noise: the variance of the noise.
      left_out: the sum of squares of the errors of each trial by a fit to the others.
      chance: how probable it is that noise explains as much.
      share: how much of the variation it explains, less what noise would.
    """

    def __init__(self, blocks: Sequence[np.ndarray], scores: np.ndarray) -> None:
        columns = np.concatenate([np.zeros((len(scores), 0)), *blocks], axis=1)
        # By the columns' products, of which there are few whatever the number of trials.
        values, vectors = np.linalg.eigh(columns.T @ columns)
        independent = values > _DEPENDENT * max(values.max(initial=0.0), 1e-300)
        vectors = vectors[:, independent] / np.sqrt(values[independent])
        self.scores, self.basis = scores, columns @ vectors
        self.rank = self.basis.shape[1]
        projected = self.basis.T @ scores
        ends = np.cumsum([block.shape[1] for block in blocks])[:-1]
        self.weights = np.split(vectors @ projected, ends)
        self.residuals = scores - self.basis @ projected
        self.rest = float(self.residuals @ self.residuals)
        self.freedom = len(scores) - 1 - self.rank
        self.noise = max(self.rest / max(1, self.freedom), 1e-12)
        leverage = 1 / len(scores) + (self.basis**2).sum(axis=1)
        explained, total = float(projected @ projected), float(scores @ scores)
        self.chance = chance(explained / max(1, self.rank) / self.noise, self.rank, self.freedom)
        self.share = max(0.0, (explained - self.rank * self.noise) / max(total, 1e-300))
        self.left_out = float(np.sum((self.residuals / np.maximum(1 - leverage, 1e-6)) ** 2))


Names = tuple[str, str]


def _pairs(
    axes: list[Hyperparameter],
    columns: Mapping[str, np.ndarray],
    scores: np.ndarray,
    level: float,
) -> tuple[dict[Names, np.ndarray], set[str]]:
    """Returns the products that stand out, one after the other, each beside those before it.

    And the hyperparameters in any that would stand out if it were the only one: they may matter, too.
    """
    linear = {h.name: columns[h.name][:, :1] if h.ordered else columns[h.name] for h in axes}
    candidates = {
        (a.name, b.name): _product(linear[a.name], linear[b.name])
        for a, b in itertools.combinations(axes, 2)
    }
    chosen: dict[Names, np.ndarray] = {}
    hinted: set[str] = set()
    number = len(candidates)
    while candidates and len(chosen) < MOST_PAIRS:
        fit = _Fit([*columns.values(), *chosen.values()], scores)
        found = [(_gain(fit, product), pair) for pair, product in candidates.items()]
        hinted |= {name for odds, pair in found if odds <= level for name in pair}
        least, pair = min(found, key=lambda f: f[0])
        if least > level / 2 / number:
            break
        chosen[pair] = candidates.pop(pair)
    return chosen, hinted


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


@dataclasses.dataclass(frozen=True)
class _Views:
    """The ways in which each hyperparameter is looked at.

    Attributes:
      study: what it is about.
      axes: the hyperparameters.
      columns: of the fit, by hyperparameter.
      pairs: the products in it.
      whole: the fit to all of these.
      told: whether that explains anything; else nothing follows from it.
    """

    study: Study
    axes: list[Hyperparameter]
    columns: Mapping[str, np.ndarray]
    pairs: Mapping[Names, np.ndarray]
    whole: "_Fit"
    told: bool

    @functools.cached_property
    def lines(self) -> dict[str, np.ndarray]:
        """The straight lines of ordered hyperparameters, and the levels of the others."""
        return {h.name: self.columns[h.name][:, : 1 if h.ordered else None] for h in self.axes}

    @functools.cached_property
    def straight(self) -> "_Fit":
        """The fit to these."""
        return _Fit(list(self.lines.values()), self.whole.scores)

    def beside(self, name: str) -> tuple[float, float, "_Fit"]:
        """Returns what the surface loses without a hyperparameter; a pair keeps both of its own."""
        kept = [c for other, c in self.columns.items() if other != name]
        return _lost(self.whole, kept + [c for p, c in self.pairs.items() if name not in p])

    def straight_chance(self, name: str) -> float:
        """Returns how probable it is that noise explains as much as its line does beside the others."""
        kept = [c for other, c in self.lines.items() if other != name]
        return _lost(self.straight, kept)[1]

    def size(self, fitted: np.ndarray) -> float:
        """Returns by how much scores differ in the objective's units, where trials are in the middle."""
        costs = self.study.costs(self.study.learned)
        spread = [np.subtract(*np.percentile(v, [75, 25])) for v in (costs, self.whole.scores)]
        return float(np.ptp(fitted) * spread[0] / max(spread[1], 1e-12))


def chances(columns: Mapping[str, np.ndarray], scores: np.ndarray) -> dict[str, float]:
    """Returns for blocks of columns how probable it is that noise explains as much as each does.

    Beside the others or alone, whichever stands out more.
    """
    whole = _Fit(list(columns.values()), scores)
    found = {}
    for name, block in columns.items():
        beside = _lost(whole, [c for other, c in columns.items() if other != name])[1]
        found[name] = min(beside if whole.freedom >= FREEDOM else 1.0, _Fit([block], scores).chance)
    return found


def _effect(views: _Views, h: Hyperparameter, hinted: bool, surface: gains.Surface) -> Effect:
    """Returns what one of the hyperparameters explains."""
    study, columns = views.study, views.columns[h.name]
    share, odds, _ = views.beside(h.name)
    alone = _Fit([columns], views.whole.scores)
    in_pair = views.told and any(h.name in pair for pair in views.pairs)
    least = min(alone.chance, views.straight_chance(h.name), odds if views.told else 1.0)
    matters = least <= CHANCE.of(study) / 2 / len(views.axes) or in_pair
    weights = views.whole.weights[list(views.columns).index(h.name)]
    if not views.told or (matters and odds > least and share < alone.share):
        weights, share = alone.weights[0], alone.share
    size = None if in_pair else views.size(columns @ weights)
    lost = surface.most_lost(h, study.best.parameters.get(h.name))
    small = not matters
    if (
        study.retrain is not None and size is not None
    ):  # what stands out may still be within its noise
        small = size <= gains.WORTH.of(study) * study.retrain.sd
    noise = small and not in_pair and not hinted and lost <= gains.WORTH.of(study)
    places = units(h, [t.parameters.get(h.name) for t in study.learned])
    best, good = _best(weights, places) if h.ordered and not in_pair else (None, None)
    return Effect((h,), share, least, matters, noise, size, best, good, lost)


def _pair(views: _Views, pair: Names) -> Effect:
    """Returns what two of the hyperparameters explain together, beyond what each does."""
    others = [c for other, c in views.pairs.items() if other != pair]
    share, odds, _ = _lost(views.whole, [*views.columns.values(), *others])
    return Effect(tuple(h for h in views.axes if h.name in pair), share, odds, True)


def _lost(whole: _Fit, kept: list[np.ndarray]) -> tuple[float, float, _Fit]:
    """Returns the share that is lost where only some columns are kept, its chance, and that fit."""
    scores = whole.scores
    without = _Fit(kept, scores)
    degrees = max(1, whole.rank - without.rank)
    lost = without.rest - whole.rest
    share = max(0.0, (lost - degrees * whole.noise) / float(scores @ scores))
    return share, chance(lost / degrees / whole.noise, degrees, whole.freedom), without


def _best(weights: np.ndarray, tried: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Returns where a parabola is lowest, and the good part around: neither beyond a trial that trained."""
    first, last = float(np.nanmin(tried)), float(np.nanmax(tried))
    places = np.linspace(first, last, 101)
    curve = boundary_clustering.parabola(places) @ weights
    good = places[curve <= curve.min() + GOOD * np.ptp(curve)]
    ends = max(first, float(good[0]) - MARGIN), min(last, float(good[-1]) + MARGIN)
    return float(places[np.argmin(curve)]), ends


def chance(f: float, degrees: int, freedom: int) -> float:
    """Returns the probability that an F distribution with these degrees of freedom exceeds `f`."""
    if degrees < 1 or freedom < 1 or f <= 0:
        return 1.0
    from scipy import special  # a third of a second, unless the study's points were drawn with it

    return float(special.fdtrc(degrees, freedom, f))
