"""What replicates can tell of a difference: resampling of two sides' results, and how many are needed.

A replicate's result is a cost: an objective turned so that less is better. The improvement is the mean
cost of the baseline less that of the candidate.

The test is the studentized permutation test (Janssen 1997; Chung and Romano, Annals of Statistics 2013):
deal all results anew to the two sides, again and again, and see how often the difference, in units of its
own standard error, is as large as it was. It assumes no distribution, its rate of false alarms is exact
where both sides vary alike, also with three replicates, and it holds for many where they do not.
"""

import dataclasses
import functools
import itertools
import math
from statistics import NormalDist

import numpy as np

LEVEL = 0.05  # rate of wrong conclusions in either direction
POWER = 0.8  # rate of right ones for which replicates are counted; the convention
MOST_DEALS = 9_999  # all deals are gone through where there are not more
_MOST_CELLS = 5_000_000  # of the table of deals: bounds memory where replicates are many
_DRAWS = 2_000  # of a bootstrap
_NORMAL = NormalDist()


@dataclasses.dataclass(frozen=True)
class Spread:
    """A standard deviation and how well it is known.

    Attributes:
      sd: the sample's standard deviation, with n − 1.
      low: the lower end of its 90 % interval, for normal results.
      high: the upper end.
    """

    sd: float
    low: float
    high: float


def mean(values: np.ndarray) -> float:
    """Returns the mean, without rounding where all values are the same: then they have no scatter."""
    return float(values[0] if np.ptp(values) == 0 else np.mean(values))


def spread(values: np.ndarray) -> Spread | None:
    """Returns the standard deviation of replicates with its interval, or None of fewer than two."""
    n = len(values)
    if n < 2:
        return None
    sd = float(np.std(values - mean(values), ddof=1))
    from scipy import special  # a third of a second, unless the study's points were drawn with it

    # The values that a chi-square variable exceeds with these probabilities.
    low, high = (math.sqrt((n - 1) / special.chdtri(n - 1, p)) for p in (LEVEL, 1 - LEVEL))
    return Spread(sd, sd * float(low), sd * float(high))


class PermutationTest:
    """The studentized permutation test of the improvement.

    Attributes:
      count: how many deals are gone through, the one that happened included.
    """

    def __init__(
        self, candidate: np.ndarray, baseline: np.ndarray, most: int | None = None
    ) -> None:
        """Deals the results.

        Args:
          candidate: its costs, at least two.
          baseline: its costs, at least two.
          most: how many deals to go through, MOST_DEALS when None.
        """
        m, n = self._sizes = len(candidate), len(baseline)
        mine = _deals(m, n, max(100, min(most or MOST_DEALS, _MOST_CELLS // (m + n))))
        self.count = len(mine)
        means = mean(candidate), mean(baseline)
        self._observed = means[1] - means[0]
        # Around its own mean on each side, so that nothing cancels; the means come in with the hypothesis.
        costs = np.concatenate([candidate - means[0], baseline - means[1]])
        self._reach = float(np.ptp(costs))
        own = np.arange(m + n) < m
        # Of each deal's candidate: its sum, its sum of squares, and how many of it were the candidate's and
        # their sum, for if the candidate's results move by x, then these follow without another deal.
        columns = np.stack([costs, costs**2, own, costs * own], axis=1)
        self._dealt, self._all = mine @ columns, columns.sum(axis=0)

    @property
    def can_tell(self) -> bool:
        """Whether any results at all could convince: the deal that happened alone is rare enough."""
        return self.count * LEVEL >= 1

    def p_values(self, improvement: float = 0.0) -> tuple[float, float]:
        """Returns how often a deal shows as much, were the improvement not above this; or not below it."""
        statistics = self._statistics(improvement - self._observed)
        slack = 1e-9 * (1 + abs(statistics[0]))
        return (
            float(np.mean(statistics >= statistics[0] - slack)),
            float(np.mean(statistics <= statistics[0] + slack)),
        )

    def interval(self) -> tuple[float, float]:
        """Returns the improvements that the test does not refuse at LEVEL in either direction.

        It holds the true improvement in 90 % of cases, and lies beyond zero just where the test says
        so. It is infinite where the replicates are too few to bound it.
        """
        return self._end(0), self._end(1)

    def _end(self, side: int) -> float:
        """Returns the last improvement that is refused as too small (0) or as too large (1)."""
        outwards = (-1, 1)[side]
        if not self.can_tell:
            return outwards * math.inf
        refused, kept = self._observed + outwards * 4 * self._reach, self._observed
        for _ in range(40):
            middle = (refused + kept) / 2
            if self.p_values(middle)[side] <= LEVEL:
                refused = middle
            else:
                kept = middle
        return refused

    def _statistics(self, shift: float) -> np.ndarray:
        """Returns, of each deal, the improvement in its own standard errors.

        Args:
          shift: by how much the candidate's results are moved, from where both sides have one mean.
        """
        scale = max(self._reach, abs(shift)) or 1.0
        x, (m, n) = shift / scale, self._sizes

        def moved(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            total, square, own, own_total = sums.T
            return total / scale + x * own, (
                square / scale + 2 * x * own_total
            ) / scale + x**2 * own

        sum_a, square_a = moved(self._dealt)
        sum_b, square_b = (
            all_ - part for all_, part in zip(moved(self._all), (sum_a, square_a), strict=True)
        )
        variance_a = np.maximum(square_a - sum_a**2 / m, 0) / (m - 1)
        variance_b = np.maximum(square_b - sum_b**2 / n, 0) / (n - 1)
        difference = sum_b / n - sum_a / m
        difference[np.abs(difference) < 1e-12] = 0.0
        # Where neither side scatters, any difference is large, and none is none.
        return difference / np.sqrt(np.maximum(variance_a / m + variance_b / n, 1e-20))


@functools.lru_cache(maxsize=4)
def _deals(candidate: int, baseline: int, most: int) -> np.ndarray:
    """Returns which results each deal gives to the candidate, [deals, results]; what happened is first."""
    total = candidate + baseline
    if math.comb(total, candidate) <= most:
        chosen = np.array(list(itertools.combinations(range(total), candidate)))
    else:
        rng = np.random.default_rng(0)
        order = rng.permuted(np.tile(np.arange(total), (most, 1)), axis=1)
        order[0] = np.arange(total)
        chosen = order[:, :candidate]
    mine = np.zeros((len(chosen), total))
    np.put_along_axis(mine, chosen, 1.0, axis=1)
    return mine


def median_interval(candidate: np.ndarray, baseline: np.ndarray) -> tuple[float, float]:
    """Returns the bootstrap's 90 % interval of the difference of the medians; rough below ten replicates."""
    rng = np.random.default_rng(0)
    medians = [
        np.median(rng.choice(costs, (_DRAWS, len(costs))), axis=1)
        for costs in (baseline, candidate)
    ]
    low, high = np.quantile(medians[0] - medians[1], [LEVEL, 1 - LEVEL])
    return float(low), float(high)


def wins(candidate: np.ndarray, baseline: np.ndarray) -> float:
    """Returns in which part of all pairs the candidate's run is the better one; a tie counts half."""
    difference = baseline[None, :] - candidate[:, None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def replicates_needed(effect: float, candidate_sd: float, baseline_sd: float) -> int:
    """Returns how many replicates of each side show an effect, with POWER, at LEVEL.

    From the normal approximation, and z²/4 more of each side because the deviations are estimated too
    (Guenther, The American Statistician 1981).

    Args:
      effect: the difference of the means that is to be told from zero, positive.
      candidate_sd: the trial standard deviation of the candidate.
      baseline_sd: that of the baseline.
    """
    level, power = _NORMAL.inv_cdf(1 - LEVEL), _NORMAL.inv_cdf(POWER)
    variance = candidate_sd**2 + baseline_sd**2
    return max(3, math.ceil(variance * ((level + power) / effect) ** 2 + level**2 / 4))


def luck(trials: int) -> float:
    """Returns by how many standard deviations the best of so many equal trials is better than they are.

    The expected largest of normal numbers (Blom 1958).
    """
    return _NORMAL.inv_cdf((trials - 0.375) / (trials + 0.25))


def sampling_error(rate: float, examples: int) -> float:
    """Returns the standard error of an error rate that was counted on so many examples (binomial)."""
    return math.sqrt(rate * (1 - rate) / examples)
