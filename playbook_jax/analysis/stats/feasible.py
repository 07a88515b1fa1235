"""What decides whether training works: where the trials that fail to train lie, on both sides.

Too small a learning rate learns nothing, and too large a one diverges: two failures, with what trains
between them. So each direction of the search space (an axis, or a learning rate with what it acts through:
over 1 − momentum, times the clipping threshold) is cut into a low end, a middle and a high end, where that
makes what was seen most probable, and each end is tested against the middle: by Fisher's exact test, times
the number of cuts, or by how many fail in a row from the end on. Half of the chance is for the axis of the
learning rate, the first suspect; all is times the number of ends that were looked at.

Where failures have no side, an end was found in at most 7 % of 60 simulated studies each, of 20 and of 60
trials, and left out without asking in none. Where the lowest and the highest rates fail, both ends were left
out in 27 of 40 studies of 20 trials and in all of 60 trials, no bound beyond the last trial that trained.

Which hyperparameters decide, the additive fit of `sensitivity` says with failure in place of the objective:
its parabolas have two sides. The other choice was scikit-learn's random forest (or extremely randomized
trees) with permutation importance. In 40 simulated studies where training fails above a learning_rate ·
min(clip_norm, 1) / (1 − momentum), the fit names, of 20 trials, the learning rate in all, the momentum in 8
% and clipping in 2 %; of 60 in 100, 75 and 12 %. A forest whose threshold is set by the truth that is not
known, so that it errs as often, names 100, 28 and 18 %, and 100, 90 and 42 %; but by itself it has no
threshold, and takes 3 seconds, a hundred times more to find one by permuting failures. What clipping does
is found by its direction.
"""

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from playbook_jax.analysis.data.hyperparameters import HIGH, LOW, SIDES, Hyperparameter
from playbook_jax.analysis.data.proposals import NARROW, Proposal
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.stats import boundary_clustering, directions, sensitivity
from playbook_jax.analysis.stats.directions import Direction
from playbook_jax.studies.space import conditions
from playbook_jax.studies.space.search_space import Range

CHANCE = Threshold(
    "feasible.chance",
    0.05,
    0,
    1,
    "of an end in which training fails where there is none, over all the cuts and ends; customary",
)
STRONG = Threshold(
    "feasible.strong",
    0.01,
    0,
    1,
    "from which chance on the evidence is strong, so that the next study leaves the end out without asking",
)
PURE = Threshold(
    "feasible.pure",
    0.75,
    0,
    1,
    "what part of an end's trials must fail: where more train, the end is not lost",
)
RATE = "hparams.learning_rate"
SIMPLER = 2.0  # by how much likelier (in logarithms) several hyperparameters together must be than an axis
PERCENTILE = 90  # of the gradient norms: beyond it clipping does next to nothing
FEWEST = 2  # one failure lies somewhere


@dataclasses.dataclass(frozen=True)
class End:
    """An end of a direction in which training fails.

    Attributes:
      direction: the direction.
      side: LOW or HIGH.
      edge: the place of the last trial that trains inside, before the end begins.
      failures: the trials in it that failed.
      trained: those that trained all the same.
      inside: how many lie on its other side (and not in the other end), failed and trained.
      exact: Fisher's exact probability of as many failures in the end.
      chance: the same, over all that was looked at.
    """

    direction: Direction
    side: str
    edge: float
    failures: tuple[Trial, ...]
    trained: tuple[Trial, ...]
    inside: tuple[int, int]
    exact: float
    chance: float

    def is_strong(self, study: Study) -> bool:
        """Says whether the next study leaves it out without asking."""
        purity = len(self.failures) / (len(self.failures) + len(self.trained))
        return self.chance <= STRONG.of(study) and purity >= PURE.of(study)


@dataclasses.dataclass(frozen=True)
class Interval:
    """The part of a direction in which training works.

    Attributes:
      direction: the direction.
      ends: what is outside of it, one end or both.
      gain: how much likelier what was seen is with it, in logarithms.
    """

    direction: Direction
    ends: tuple[End, ...]
    gain: float

    def end(self, side: str) -> End | None:
        """Returns the end on a side, or None."""
        return next((end for end in self.ends if end.side == side), None)


def _remembered(function: Callable[[Study], Any]) -> Callable[[Study], Any]:
    """Returns a function of a study that works once: several findings ask the same of 1,000 trials."""

    @functools.wraps(function)
    def asked(study: Study) -> Any:
        kept = study.drawn.__dict__.setdefault(
            "_feasible", {}
        )  # as a cached property keeps its value
        if function.__name__ not in kept:
            kept[function.__name__] = function(study.drawn)
        return kept[function.__name__]

    return asked


@_remembered
def find(study: Study) -> list[Interval]:
    """Returns the intervals outside of which training fails, what tells most first."""
    return _among(study, [*study.failures, *study.learned])


def _among(study: Study, trials: list[Trial]) -> list[Interval]:
    """Returns the intervals that some of the ended trials show."""
    failed = np.array([t.failed for t in trials], bool)
    if failed.sum() < FEWEST or (~failed).sum() < FEWEST:
        return []
    looked_at = _directions(study)
    # The learning rate is the first suspect: half of the chance is for its own axis.
    rates = [d for d in looked_at if len(d.names) == 1 and conditions.path(d.names[0]) == RATE]
    numbers = {True: len(rates), False: len(looked_at) - len(rates)}
    halves = 2 if min(numbers.values()) else 1
    found = [
        _interval(study, d, trials, failed, len(SIDES) * halves * numbers[d in rates])
        for d in looked_at
    ]
    simple = [i for i in found if i is not None]
    return sorted(simple, key=lambda i: -(i.gain - SIMPLER * (len(i.direction.names) > 1)))


@_remembered
def narrowing(study: Study) -> list[tuple[End, Proposal]]:
    """Returns the bounds that leave out the ends in which training fails, each with the end.

    An end is one of an axis: where it is that of several hyperparameters together, no bound of one of them
    leaves it out. A bound is never beyond the last trial that trained. After the axis that tells most, the
    next one is looked for among the trials that are left.
    """
    trials, made = [*study.failures, *study.learned], []
    ranges = {h.name: h for h in study.hyperparameters if isinstance(h.space, Range)}
    while True:
        found = [i for i in _among(study, trials) if i.direction.names[0] in ranges]
        taken = {p.name for _, p in made}
        found = [
            i for i in found if len(i.direction.names) == 1 and i.direction.names[0] not in taken
        ]
        if not found:
            return made
        axis = ranges[found[0].direction.names[0]]
        for end in found[0].ends:
            bound = inward(axis, end.edge, end.side)
            if bound is not None:
                sure = end.is_strong(study) and study.best not in end.trained
                wish = Proposal(NARROW, axis.name, bound, end.side, sure, first=sure)
                made.append((end, wish))
        if axis.name not in {p.name for _, p in made}:
            return made
        left_out = {t.number for end in found[0].ends for t in (*end.failures, *end.trained)}
        trials = [t for t in trials if t.number not in left_out]


@_remembered
def deciding(study: Study) -> dict[str, float]:
    """Returns which hyperparameters decide whether training works, each with its chance.

    An additive fit to failure, which has two sides; no hyperparameter where too few trials fail or train.
    """
    trials = [*study.failures, *study.learned]
    failed = np.array([t.failed for t in trials], float)
    axes = [
        h
        for h in study.hyperparameters
        if len({repr(t.parameters.get(h.name)) for t in trials}) > 1
    ]
    if min(failed.sum(), len(failed) - failed.sum()) < FEWEST or not axes:
        return {}
    scores = failed - failed.mean()
    columns = {
        h.name: boundary_clustering.columns_of(h, [t.parameters.get(h.name) for t in trials])
        for h in axes
    }
    chances = sensitivity.chances(columns, scores)
    allowed = CHANCE.of(study) / (2 * len(axes))
    return {name: chance for name, chance in chances.items() if chance <= allowed}


def _directions(study: Study) -> list[Direction]:
    axes = [h for h in study.hyperparameters if h.ordered]
    found = [directions.along(axis) for axis in axes]
    found += directions.effective_learning_rates(axes)
    return found + directions.clipped_learning_rates(axes, _norm(study))


def _norm(study: Study) -> float:
    """Returns what a gradient's norm is at most, but for outliers, in the trials that train."""
    norms = [t.records.percentiles.get(PERCENTILE, math.nan) for t in study.learned]
    norms = [norm for norm in norms if math.isfinite(norm) and norm > 0]
    return statistics.median(norms) if norms else 1.0


def _interval(
    study: Study, direction: Direction, trials: list[Trial], failed: np.ndarray, looks: float
) -> Interval | None:
    places = np.array([direction.place(t.parameters) for t in trials])
    there = np.flatnonzero(np.isfinite(places))
    there = there[np.argsort(places[there], kind="stable")]
    tails = _tails(there, places, failed)
    # An end is compared with what lies inside of both, and held only if that is no chance.
    while tails:
        inside = there[~np.isin(there, np.concatenate(list(tails.values())))]
        if not len(inside) or failed[inside].all():
            return None
        exact = {
            side: fisher(
                int(failed[tail].sum()),
                len(tail),
                int(failed[tail].sum() + failed[inside].sum()),
                len(tail) + len(inside),
            )
            for side, tail in tails.items()
        }
        chances = {
            side: min(1.0, looks * _least(failed[tail], failed[inside], side, exact[side]))
            for side, tail in tails.items()
        }
        worst = max(chances, key=chances.get)
        if chances[worst] <= CHANCE.of(study):
            break
        del tails[worst]
    if not tails:
        return None
    trained = places[inside[~failed[inside]]]
    ends = tuple(
        End(
            direction,
            side,
            float(trained.min() if side == LOW else trained.max()),
            tuple(trials[i] for i in tail if failed[i]),
            tuple(trials[i] for i in tail if not failed[i]),
            (int(failed[inside].sum()), int((~failed[inside]).sum())),
            exact[side],
            chances[side],
        )
        for side, tail in tails.items()
    )
    gain = sum(_likelihood(failed[part]) for part in (inside, *tails.values()))
    return Interval(direction, ends, gain - _likelihood(failed[there]))


def _least(tail: np.ndarray, inside: np.ndarray, side: str, exact: float) -> float:
    """Returns the chance of an end by either of two tests, both together.

    One is Fisher's, times the number of cuts; the other, which has no cut, that of as many trials in a row
    that fail, from the end on.
    """
    failures, number = int(tail.sum() + inside.sum()), len(tail) + len(inside)
    outermost = tail if side == LOW else tail[::-1]
    row = len(tail) if outermost.all() else int(np.argmin(outermost))
    run = math.prod((failures - i) / (number - i) for i in range(row))
    return 2 * min(run, exact * max(1, failures))


def _tails(there: np.ndarray, places: np.ndarray, failed: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the trials of each end in which more fail, the cuts where they make what was seen likeliest."""
    tails: dict[str, np.ndarray] = {}
    first = max(SIDES, key=lambda s: _cut(places[there], failed[there], s)[1])
    for side in (first, LOW if first == HIGH else HIGH, first):
        other = tails.get(LOW if side == HIGH else HIGH, np.zeros(0, int))
        left = there[
            ~np.isin(there, other)
        ]  # what the other end explains must not be held against this
        cut, _ = _cut(places[left], failed[left], side)
        tails[side] = left[:cut] if side == LOW else left[len(left) - cut :]
    return {side: tail for side, tail in tails.items() if len(tail)}


def _cut(places: np.ndarray, failed: np.ndarray, side: str) -> tuple[int, float]:
    """Returns how many of the ordered trials are in an end in which more fail, and what that explains.

    That is how much likelier what was seen is; none are in it where no cut makes it likelier.
    """
    n = len(failed)
    if side == HIGH:
        places, failed = -places[::-1], failed[::-1]
    counts = np.arange(1, n)
    inside = np.cumsum(failed)[:-1].astype(float)
    rest = failed.sum() - inside
    gain = _entropy(inside, counts) + _entropy(rest, n - counts)
    gain -= _entropy(np.array([float(failed.sum())]), np.array([n]))[0]
    more = inside / counts > rest / (n - counts)
    # Trials at one place are not to be parted.
    gain = np.where(more & (np.diff(places) > 0), gain, 0.0)
    best = int(np.argmax(gain)) if n > 1 else 0
    return (best + 1, float(gain[best])) if n > 1 and gain[best] > 1e-9 else (0, 0.0)


def _likelihood(failed: np.ndarray) -> float:
    if not len(failed):
        return 0.0
    return float(_entropy(np.array([float(failed.sum())]), np.array([len(failed)]))[0])


def _entropy(successes: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the likelihood at its highest of so many successes."""
    p = successes / of
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = successes * np.log(p), (of - successes) * np.log1p(-p)
    return np.nan_to_num(parts[0], nan=0.0) + np.nan_to_num(parts[1], nan=0.0)


def fisher(successes: int, of: int, all_successes: int, number: int) -> float:
    """Returns Fisher's exact probability of as many successes or more among `of` of `number` trials."""

    def choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    total = choose(number, of)
    least = max(successes, of - (number - all_successes), 0)
    return min(
        1.0,
        sum(
            math.exp(choose(all_successes, k) + choose(number - all_successes, of - k) - total)
            for k in range(least, min(of, all_successes) + 1)
        ),
    )


def inward(axis: Hyperparameter, place: float, side: str) -> float | int | None:
    """Returns a bound at a place of an axis in three digits, not beyond it; None for the bound there is."""
    value = axis.value(place)
    if axis.space.type == "int":
        bound = value
    else:
        apart = 1 - value if axis.space.scale == "one_minus_log" else value
        up = (side == LOW) != (axis.space.scale == "one_minus_log")
        bound = _rounded(apart, up)
        bound = round(1 - bound, 12) if axis.space.scale == "one_minus_log" else bound
    low, high = axis.space.low, axis.space.high
    other = high if side == LOW else low
    inside = low < bound < high
    return bound if inside and bound != other else None


def _rounded(value: float, up: bool) -> float:
    """Returns a number in three digits, rounded up or down."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    steps = value / unit
    rounded = math.ceil(steps - 1e-9) if up else math.floor(steps + 1e-9)
    return float(f"{rounded * unit:.3g}")
