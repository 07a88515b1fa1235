"""What a curve does beside its scatter: does it rise again, does it still fall, is it periodic?

All curves here are turned so that less is better. How far a flat curve seems to rise or fall by its
scatter alone is simulated, once for each length: white noise, so that what is asked of a curve is
that it does more than all but a few of these.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

FEWEST = 8  # values of a curve; of fewer, a trend and a scatter cannot be told apart
_DRAWS = 8_000  # simulated curves: a probability of 1 in 500 is known to a quarter
# The lengths of simulated curves; a curve is compared with those of the next shorter length, after the
# rule that a mean over more values scatters less.
_LENGTHS = (*range(8, 25), 28, 32, 40, 50, 64, 80, 100, 140, 200)


def scatter(values: np.ndarray) -> float:
    """Returns the standard deviation from one value to the next, late in a curve.

    Measured in its second half, for early on a curve bends too much; and against the mean of the
    neighbours, where a trend cancels: independent scatter σ gives σ √1.5. NaN for fewer than four values.
    """
    return float(_scatter(values[None])[0]) if len(values) >= 4 else math.nan


def _scatter(curves: np.ndarray) -> np.ndarray:
    late = curves[:, -max(6, curves.shape[1] // 2) :]
    off = late[:, 1:-1] - (late[:, :-2] + late[:, 2:]) / 2
    return np.sqrt(np.mean(off**2, axis=1) / 1.5)


def noise(values: np.ndarray) -> float:
    """Returns the scatter, but no less than the step in which the values are counted.

    Of 300 validation examples one more or fewer is an error rate of 1/300: a curve that happens to stay
    at one such value for long does not show that its values are exact. NaN for fewer than four values.
    """
    gaps = np.diff(np.unique(values))
    gaps = gaps[gaps > 1e-6 * np.ptp(values)]  # others are rounding
    return max(scatter(values), float(gaps.min(initial=np.inf)) if len(gaps) else 0.0)


def width(length: int) -> int:
    """Returns over how many values of a curve it is smoothed: an eighth, and three at least."""
    return max(3, length // 8)


def smooth(curves: np.ndarray) -> np.ndarray:
    """Returns the moving mean over `width` values, [..., length − width + 1]."""
    w = width(curves.shape[-1])
    sums = np.cumsum(np.concatenate([np.zeros((*curves.shape[:-1], 1)), curves], -1), -1)
    return (sums[..., w:] - sums[..., :-w]) / w


def rise(values: np.ndarray) -> tuple[float, float, int]:
    """Returns how a curve ends above where it was lowest.

    Args:
      values: at least FEWEST, finite.

    Returns:
      By how much the smoothed curve ends above its lowest place; the probability that a flat curve of the
      same scatter ends so far above its own; the index at the middle of that place.
    """
    smoothed = smooth(values)
    lowest = int(np.argmin(smoothed))
    risen = float(smoothed[-1] - smoothed[lowest])
    return (
        risen,
        _tail(_rises, len(values), risen, noise(values)),
        lowest + width(len(values)) // 2,
    )


def late_fall(values: np.ndarray) -> tuple[float, float]:
    """Returns how a curve falls at its end: from the fourth fifth to the last one, on average.

    Args:
      values: at least FEWEST, finite, at equal distances.

    Returns:
      By how much; and the probability that a flat curve of the same scatter falls so far.
    """
    fallen = float(_late_falls(values[None])[0])
    return fallen, _tail(_falls, len(values), fallen, noise(values))


def _late_falls(curves: np.ndarray) -> np.ndarray:
    fifth = max(2, curves.shape[1] // 5)
    return curves[:, -2 * fifth : -fifth].mean(axis=1) - curves[:, -fifth:].mean(axis=1)


def _tail(simulated: Callable[[int], np.ndarray], length: int, value: float, unit: float) -> float:
    """Returns what part of simulated curves has a value as large, in units of their noise."""
    if value <= 0:
        return 1.0
    if unit == 0:
        return 0.0
    nearest = max(n for n in _LENGTHS if n <= length)
    draws = simulated(nearest)
    above = len(draws) - np.searchsorted(draws, value / unit * math.sqrt(length / nearest))
    return float((above + 1) / (len(draws) + 1))


def _white(length: int) -> np.ndarray:
    return np.random.default_rng(length).normal(size=(_DRAWS, length))


@functools.cache
def _rises(length: int) -> np.ndarray:
    curves = _white(length)
    smoothed = smooth(curves)
    return np.sort((smoothed[:, -1] - smoothed.min(axis=1)) / _scatter(curves))


@functools.cache
def _falls(length: int) -> np.ndarray:
    curves = _white(length)
    return np.sort(_late_falls(curves) / _scatter(curves))
