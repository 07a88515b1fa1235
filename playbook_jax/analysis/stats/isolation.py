"""The best trial for each value of a scientific hyperparameter, and how sure it is.

Source: playbook, "Detecting whether a change is useful with isolation plots": the nuisance hyperparameters
are optimized away by the best trial of each value; a hyperparameter with bounds is cut into buckets.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.studies.space.search_space import Range

LEVEL = 0.95  # of the intervals; customary
# A bucket should hold so many trials that its best is no single draw, and there is little to see in more
# than eight of them. As many whole numbers count as listed values.
PER_BUCKET, MOST_BUCKETS, FEWEST_BUCKETS = 6, 8, 2


@dataclasses.dataclass(frozen=True)
class Slice:
    """The trials of one value, or of one bucket.

    Attributes:
      label: the value, or "0.001 to 0.01".
      low: where it begins on the axis, from 0 to 1; NaN for a name.
      high: where it ends.
      complete: its COMPLETE trials, the best first.
      failures: those that are INFEASIBLE or learned nothing.
      maximize: whether more is better.
    """

    label: str
    low: float
    high: float
    complete: tuple[Trial, ...]
    failures: tuple[Trial, ...]
    maximize: bool

    @property
    def best(self) -> Trial | None:
        """The best trial, or None."""
        return self.complete[0] if self.complete else None

    @property
    def ended(self) -> int:
        """How many trials have ended: complete or infeasible."""
        return len(self.complete) + len(self.failures)

    @property
    def costs_of_a_step(self) -> list[str]:
        """The number of parameters and the milliseconds of a step, in words, where they were recorded."""
        told = []
        sizes = {t.model_size for t in self.complete if t.model_size}
        if sizes:
            most = "" if len(sizes) == 1 else f" to {formatting.count(max(sizes))}"
            told.append(f"{formatting.count(min(sizes))}{most} parameters")
        rates = [t.timing.get("steps_per_second", 0.0) for t in self.complete]
        rates = [rate for rate in rates if rate > 0]
        if rates:
            told.append(f"{formatting.number(1000 / float(np.median(rates)), 2)} ms a step")
        return told

    @functools.cached_property
    def costs(self) -> np.ndarray:
        """The objectives of the ended trials in their order, less being better, infinite for failures."""
        sign = -1.0 if self.maximize else 1.0
        good = [sign * trial.objective for trial in self.complete]
        return np.array(good + [math.inf] * len(self.failures))

    @functools.cached_property
    def chances(self) -> np.ndarray:
        """How probable it is that each of the ended trials is the best of a bootstrap sample of them all.

        Exact, and not by drawing samples: the best of n draws is beyond the i best with probability
        ((n − i) / n)ⁿ.
        """
        n = self.ended
        beyond = ((n - np.arange(n + 1)) / n) ** n
        return beyond[:-1] - beyond[1:]

    @property
    def interval(self) -> tuple[float, float]:
        """The bootstrap interval of the best objective; an end is infinite where no trial may be complete.

        The best of a sample is never better than the best of all, so that one end is the best itself.
        """
        ends = _quantiles(self.costs, self.chances)
        return (-ends[1], -ends[0]) if self.maximize else ends


def slices(study: Study, hyperparameter: Hyperparameter) -> list[Slice]:
    """Returns the slices that have an ended trial, in the order of the axis; the baseline was not drawn."""
    study = study.drawn
    name = hyperparameter.name
    failed = {t.number for t in study.failures}
    ended = [t for t in [*study.learned, *study.failures] if name in t.parameters]
    values = [t.parameters[name] for t in ended]
    keys, ends, places = (_listed if is_listed(hyperparameter) else _bucketed)(
        hyperparameter, values
    )
    made = []
    for index, (key, (low, high)) in enumerate(zip(keys, ends, strict=True)):
        members = [t for t, place in zip(ended, places, strict=True) if place == index]
        complete = tuple(t for t in members if t.number not in failed)
        failures = tuple(t for t in members if t.number in failed)
        if members:
            made.append(Slice(key, low, high, complete, failures, study.maximize))
    return made


Parts = tuple[list[str], list[tuple[float, float]], list[int]]  # labels, ends, each value's index


def _listed(hyperparameter: Hyperparameter, values: list[Any]) -> Parts:
    levels = hyperparameter.levels or sorted(set(values))
    texts = [formatting.value(level) for level in levels]
    places = [texts.index(v) if (v := formatting.value(value)) in texts else -1 for value in values]
    words = [
        level if isinstance(level, str) else named(hyperparameter.name, level) for level in levels
    ]
    return words, [(math.nan, math.nan)] * len(levels), places


def _bucketed(hyperparameter: Hyperparameter, values: list[Any]) -> Parts:
    edges = buckets(len(values))
    ends = list(itertools.pairwise(edges))
    texts = [formatting.value(hyperparameter.value(edge)) for edge in edges]
    words = [f"{a} to {b}" for a, b in itertools.pairwise(texts)]
    units = np.array([hyperparameter.unit(value) for value in values])
    inside = np.clip(np.searchsorted(edges, units, side="right") - 1, 0, len(ends) - 1)
    return (
        words,
        ends,
        [-1 if math.isnan(u) else int(i) for u, i in zip(units, inside, strict=True)],
    )


def named(path: str, value: Any) -> str:
    """Returns "num_layers 3": a value that says not by itself of what."""
    return f"{path.partition('@')[0].rpartition('.')[2]} {formatting.value(value)}"


def is_listed(hyperparameter: Hyperparameter) -> bool:
    """Says whether there is a slice for each value, and no buckets."""
    space = hyperparameter.space
    if not isinstance(space, Range):
        return True
    return space.type == "int" and space.high - space.low < MOST_BUCKETS


def buckets(trials: int) -> list[float]:
    """Returns the edges of the buckets of an axis, from 0 to 1, for so many trials."""
    number = min(MOST_BUCKETS, max(FEWEST_BUCKETS, trials // PER_BUCKET))
    return [i / number for i in range(number + 1)]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two slices, the one with the better best trial first.

    Attributes:
      better: the one.
      worse: the other.
      gain: by how much the best trial is better; not negative.
      interval: the bootstrap interval of the gain, both slices drawn anew.
      ahead: how many trials of the better slice are better than the best of the worse one.
      chance: how probable it is that the best `ahead` trials of both all have one and the same value, if
        the value makes no difference.
      adjusted_ahead: like `ahead`, of the complete trials, with the effects of the other hyperparameters
        taken out; 0 where the other slice is then ahead, None where that was not done.
      adjusted_chance: like `chance`.
    """

    better: Slice
    worse: Slice
    gain: float
    interval: tuple[float, float]
    ahead: int
    chance: float
    adjusted_ahead: int | None
    adjusted_chance: float


def compare(one: Slice, two: Slice, adjusted: Mapping[int, float]) -> Comparison:
    """Returns how the best trials of two slices compare, each of which has a complete trial.

    Args:
      one: a slice.
      two: another one.
      adjusted: by number of the complete trials, their scores without what other hyperparameters explain,
        less being better (see `crowding.Field.scores`); empty where they cannot be had.
    """
    better, worse = (one, two) if one.costs[0] <= two.costs[0] else (two, one)
    ahead = int(np.sum(better.costs < worse.costs[0]))
    adjusted_ahead = None
    if adjusted:
        first, second = ([adjusted[t.number] for t in s.complete] for s in (better, worse))
        adjusted_ahead = sum(score < min(second) for score in first)
    with np.errstate(invalid="ignore"):
        gains = np.nan_to_num(
            worse.costs[:, None] - better.costs[None, :], nan=0.0, posinf=math.inf, neginf=-math.inf
        )
    weights = worse.chances[:, None] * better.chances[None, :]
    order = np.argsort(gains, axis=None, kind="stable")
    interval = _quantiles(gains.ravel()[order], weights.ravel()[order])
    return Comparison(
        better,
        worse,
        float(worse.costs[0] - better.costs[0]),
        interval,
        ahead,
        _same(ahead, better.ended, worse.ended),
        adjusted_ahead,
        _same(adjusted_ahead or 0, len(better.complete), len(worse.complete)),
    )


def _same(number: int, one: int, two: int) -> float:
    """Returns the probability that the best `number` of two kinds of trials are all of one kind."""
    if not number:
        return 1.0
    return min(
        1.0, (math.comb(one, number) + math.comb(two, number)) / math.comb(one + two, number)
    )


def _quantiles(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Returns the ends of the interval that holds LEVEL of the weight; values in their order."""
    below = np.cumsum(weights)
    tail = (1 - LEVEL) / 2
    low, high = (np.searchsorted(below, q - 1e-9) for q in (tail, 1 - tail))
    last = len(values) - 1
    return float(values[min(low, last)]), float(values[min(high, last)])
