"""Do the best trials crowd one end of an axis more than chance would make them?

With 20 trials and four hyperparameters, one of the best three lies in the outer tenth at some of the
eight bounds in most studies, whatever the objective looks like. So what counts is how the best few
lie together, compared with any other few of the same trials, and after the effects of the other
hyperparameters have been taken out: what they add to the objective hides where the good trials lie.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.stats.directions import Direction

_EXACT = (
    20_000  # choices of a few trials that are all tried; of more, the normal distribution tells
)
_PENALTIES = np.geomspace(0.01, 300, 16)


@dataclasses.dataclass(frozen=True)
class Crowd:
    """How the best few trials lie towards one end of an axis.

    Attributes:
      few: how many they are.
      chance: the probability that as many of these trials, drawn at random, lie as close to that end
        on average.
      depth: the median of their distances from that end, as a fraction of the axis.
      improving: whether a parabola through all trials still improves near that end.
    """

    few: int
    chance: float
    depth: float
    improving: bool


def few(trials: int) -> int:
    """Returns how many of so many trials are "the best few": 5 of 20, 10 of 100."""
    return max(3, math.ceil(math.sqrt(trials)))


def least_chance(trials: int) -> float:
    """Returns the smallest probability that so many trials can give: the one of the outermost few."""
    return 1 / math.comb(trials, few(trials)) if trials >= few(trials) else 1.0


class Field:
    """The COMPLETE trials of a study on the axes of its hyperparameters."""

    def __init__(self, study: Study, trials: Sequence[Trial] | None = None) -> None:
        """Places the trials.

        Args:
          study: the study.
          trials: COMPLETE ones, the best first; all of them when None.
        """
        self.trials = list(study.ranked if trials is None else trials)
        self.study = study
        # What failed to train is worst, whatever it had reached before.
        failed = np.array([trial.failed for trial in self.trials], bool)
        self._scores = normal_scores(np.where(failed, np.inf, study.costs(self.trials)))
        self._effects = self._fit()

    @property
    def adjusted(self) -> bool:
        """Whether the effects of other hyperparameters are taken out of what is compared."""
        return len(self._effects) > 1

    def positions(self, direction: Direction) -> np.ndarray:
        """Returns where the trials lie in a direction, from 0 to 1; NaN where they do not."""
        return np.array([direction.place(trial.parameters) for trial in self.trials])

    def crowd(self, direction: Direction, end: float, start: float) -> Crowd | None:
        """Returns how the best few lie towards `end` of the stretch of an axis that begins at `start`.

        Args:
          direction: the axis, or another direction.
          end: the end in question: 0 for the low bound, 1 for the high one.
          start: the other end.

        Returns:
          None where fewer than two different positions can be compared.
        """
        positions = self.positions(direction)
        there = np.isfinite(positions)
        positions = positions[there]
        number = few(len(positions))
        if len(positions) <= number or np.ptp(positions) == 0:
            return None
        scores = self.scores(direction.names)[there]
        distances = np.abs(positions - end) / abs(end - start)
        best = np.argsort(scores, kind="stable")[:number]
        return Crowd(
            number,
            chance(distances, best),
            float(np.median(distances[best])),
            _improving(positions, scores, end, start),
        )

    def scores(self, names: Sequence[str]) -> np.ndarray:
        """Returns the trials' normal scores, less being better, without what others than `names` explain."""
        others = [v for name, v in self._effects.items() if name not in names]
        return self._scores - sum(others, np.zeros(len(self._scores)))

    def _fit(self) -> dict[str, np.ndarray]:
        """Returns what each hyperparameter adds to the scores, by parabolas fitted all together.

        With fewer than two trials a column the fit would explain noise away and make crowds where
        there are none, so that nothing is taken out then.
        """
        effects = {
            h.name: columns_of(h, [trial.parameters.get(h.name) for trial in self.trials])
            for h in self.study.hyperparameters
        }
        number = sum(c.shape[1] for c in effects.values())
        if 2 * number > len(self.trials):
            return {}
        weights = _ridge(np.concatenate(list(effects.values()), axis=1), self._scores)
        ends = np.cumsum([c.shape[1] for c in effects.values()])[:-1]
        parts = zip(effects.items(), np.split(weights, ends), strict=True)
        return {name: c @ part for (name, c), part in parts}


def _improving(positions: np.ndarray, scores: np.ndarray, end: float, start: float) -> bool:
    """Says whether the parabola through the scores still falls near the end.

    A tenth before it, so that an optimum at the end itself counts.
    """
    weights = _ridge(parabola(positions), scores)
    x = 2 * (start + 0.9 * (end - start)) - 1
    return bool((weights[0] + 3 * x * weights[1]) * (end - start) < 0)


def columns_of(hyperparameter: Hyperparameter, values: list) -> np.ndarray:
    """Returns the columns of the fit: a parabola's, or an indicator for each name; means 0."""
    if hyperparameter.ordered:
        positions = np.array([hyperparameter.unit(value) for value in values])
        return parabola(np.nan_to_num(positions, nan=0.5))
    names = [str(value) for value in values]
    columns = np.stack([[name == n for name in names] for n in sorted(set(names))], axis=1) * 1.0
    return columns - columns.mean(axis=0)


def parabola(positions: np.ndarray) -> np.ndarray:
    """Returns two Legendre polynomials on [0, 1], [n, 2], means 0: the penalty treats them alike."""
    x = 2 * positions - 1
    columns = np.stack([x, (3 * x**2 - 1) / 2], axis=1)
    return columns - columns.mean(axis=0)


def normal_scores(costs: np.ndarray) -> np.ndarray:
    """Returns what ranks would be under a normal distribution: a few awful trials weigh little."""
    order = np.searchsorted(np.sort(costs), costs, side="left")
    last = np.searchsorted(np.sort(costs), costs, side="right") - 1
    ranks = (order + last) / 2  # the mean rank for those that tie
    normal = NormalDist()
    return np.array([normal.inv_cdf((rank + 0.625) / (len(costs) + 0.25)) for rank in ranks])


def _ridge(columns: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns ridge regression's weights, its penalty by generalized cross-validation."""
    u, s, vt = np.linalg.svd(columns, full_matrices=False)
    projected = u.T @ scores
    outside = scores @ scores - projected @ projected
    best = None
    for penalty in _PENALTIES:
        kept = s**2 / (s**2 + penalty)
        freedom = len(scores) - 1 - kept.sum()
        if freedom < 1:
            continue
        error = (outside + (((1 - kept) * projected) ** 2).sum()) / freedom**2
        if best is None or error < best[0]:
            best = error, vt.T @ (s / (s**2 + penalty) * projected)
    return np.zeros(columns.shape[1]) if best is None else best[1]


def chance(distances: np.ndarray, chosen: np.ndarray) -> float:
    """Returns how probable it is that so few trials, drawn at random, lie as close or closer.

    Args:
      distances: of all trials from the place in question.
      chosen: the indices of those that were not drawn at random.
    """
    n, k = len(distances), len(chosen)
    if math.comb(n, k) <= _EXACT:
        sums = distances[_choices(n, k)].sum(axis=1)
        return float(np.mean(sums <= distances[chosen].sum() + 1e-9))
    spread = distances.std(ddof=1) * math.sqrt((1 - k / n) / k)
    if not spread:
        return 1.0
    return NormalDist().cdf((distances[chosen].mean() - distances.mean()) / spread)


@functools.lru_cache(maxsize=8)
def _choices(n: int, k: int) -> np.ndarray:
    return np.array(list(itertools.combinations(range(n), k)), int).reshape(-1, k)
