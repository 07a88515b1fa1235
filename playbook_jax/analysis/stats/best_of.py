"""What the best of so many trials comes to: resampling a study's own trials, without any random number.

The best of k trials drawn with replacement from n has rank r or better with probability
1 − (1 − r/n)^k: the bootstrap's distribution itself, of which drawing would give a sample. The best of k
drawn without replacement likewise follows from binomial coefficients. Trials that gave no result take
part: they are what one gets for the budget.
"""

import dataclasses
import math

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class Growth:
    """The expected best of half, of all, and of twice as many trials, as costs.

    Attributes:
      half: of half as many, drawn without replacement: unbiased.
      best: of all: what the study came to.
      gained: half − best, by what the second half of the trials has improved it.
      gain: by what twice as many would, about; not more than `gained`.
    """

    half: float
    best: float
    gained: float
    gain: float


def bootstrap(costs: np.ndarray, failures: int, size: int) -> np.ndarray:
    """Returns QUANTILES of the best of `size` trials, drawn with replacement.

    Args:
      costs: of the complete trials, ascending.
      failures: how many trials gave no result.
      size: how many are drawn.

    Returns:
      The quantiles; infinite where so many draws give no result at all.
    """
    ranks = np.arange(1, len(costs) + 1)
    reached = 1 - (1 - ranks / (len(costs) + failures)) ** size
    index = np.searchsorted(reached, np.array(QUANTILES) - 1e-12)
    return np.append(costs, np.inf)[index]


def expected(costs: np.ndarray, failures: int, size: int) -> float:
    """Returns the mean of the best of `size` trials, drawn without replacement.

    Draws that give no result at all are left out.
    """
    n = len(costs) + failures
    whole = math.comb(n, size)
    # The best is the trial at index r if it is drawn, with size − 1 of those that are worse.
    weights = np.array([math.comb(n - 1 - r, size - 1) / whole for r in range(len(costs))])
    return float(weights @ costs / weights.sum())


def growth(costs: np.ndarray, failures: int) -> Growth:
    """Returns what the expected best has gained with the number of trials, and what it would.

    Each doubling gains a part of what the one before did: as much as the last one did of the last but one,
    and not more. So it is where the best of n approaches its limit as a power of n.

    Args:
      costs: of the complete trials, ascending; at least four.
      failures: how many trials gave no result.
    """
    n = len(costs) + failures
    half, quarter = (expected(costs, failures, max(1, n // part)) for part in (2, 4))
    best = float(costs[0])
    gained, before = half - best, quarter - half
    part = min(1.0, gained / before) if before > 0 else 1.0
    return Growth(half, best, gained, gained * part)
