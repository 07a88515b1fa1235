"""Do the validation metrics go up and down with a period?"""

import functools
import math

import numpy as np

from playbook_jax.analysis.data import curves, formatting
from playbook_jax.analysis.data.curves import Curve
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, Finding, Question

ORDER = 56

CHANCE = Threshold(
    "periodicity.chance",
    0.01,
    0,
    1,
    "that scatter alone is so periodic: a bug is not to be suspected lightly",
)
FEWEST = 24  # evaluations of a trial: of fewer, few periods can be told apart
TRIALS = 8  # the best so many are averaged: what they share is the data, and so a bug of its order
# The first so much of a run is left out, where curves fall too steeply for their scatter to be seen.
FALLING = 0.2
CYCLES = 4  # a period must come so often, so that it is no bend of the curve
_DRAWS = 4000
_MOST = 200

QUESTION = "Are validation metrics periodic?"
SECTION = "Setting up periodic evaluations"
PLAYBOOK = ("periodic-metrics",)
FIGURES = ("training-curves",)


def check(study: Study) -> list[Finding]:
    """Returns whether the best trials' validation metric has a period that they share.

    Source: playbook, "Setting up periodic evaluations": periodicity in metrics of shuffled splits can
    indicate test data that overlap with training data, or training data that are not shuffled properly.
    """
    found = [(t, curve) for t in study.learned if (curve := _regular(curves.validation(study, t)))]
    if not found:
        text = (
            f"Fewer than {FEWEST} evaluations at equal distances, in every trial: too few for a period."
            if study.learned
            else "No trial is complete."
        )
        return [_finding(CANNOT_TELL, text)]
    length = len(found[0][1])
    alike = [(t, c) for t, c in found if len(c) == length and c.steps[-1] == found[0][1].steps[-1]]
    alike = alike[:TRIALS]
    peaks = prominence(np.mean([spectrum(curve.values) for _, curve in alike], axis=0))
    at = int(np.argmax(peaks))
    different = independent([curve.values for _, curve in alike], at + CYCLES)
    chance = _chance(float(peaks[at]), length, different)
    trials = tuple(t.number for t, _ in alike)
    names = formatting.trials(trials)
    as_many = (
        f", which are alike as {different} independent ones," if different < len(alike) else ""
    )
    told = (
        f"Averaged over {names}{as_many}; scatter alone gives as strong a period with probability "
        f"{formatting.probability(chance)}."
    )
    if chance > CHANCE.of(study):
        return [_finding(FINE, "No period stands out of their scatter.", (told,), trials=trials)]
    curve = alike[0][1]
    kept = _late(curve.values)
    every = float(curve.steps[-1] - curve.steps[-2])
    period = formatting.count(round(len(kept) * every / (at + CYCLES)))
    answer = f"The {formatting.metric_label(study.metric)} goes up and down every {period} steps."
    action = (
        "Compare this with the steps of an epoch. Check that the splits do not overlap, and that training "
        "data are shuffled anew each epoch."
    )
    return [_finding(ACT, answer, (told,), action, trials)]


def spectrum(values: np.ndarray) -> np.ndarray:
    """Returns the periodogram of a curve's late part, its mean 1, from one cycle on.

    A straight line is taken away, and what is left is turned into normal scores, so that single jumps
    do not count for more than others.
    """
    power = np.abs(np.fft.rfft(_scores(values))[1:]) ** 2
    return power / power.mean()


def independent(values: list[np.ndarray], cycles: int) -> int:
    """Returns as how many independent curves some count, of which all may have a period.

    Trials of one seed see the same batches, so that curves of like hyperparameters scatter alike. The power
    of k curves with correlations r varies as that of k / (1 + (k − 1) r²) independent ones. What they share
    at about so many cycles is the period in question, and is left out.
    """
    scores = np.array([_scores(curve) for curve in values])
    k = len(scores)
    around = np.arange(cycles - 0.9, cycles + 0.91, 0.1)
    rests = [_without(scores, near) for near in around]
    rest, left = min(rests, key=lambda pair: float((pair[0] ** 2).sum()))
    if k == 1 or left < 2 or not rest.std(axis=1).all():
        return k
    squares = np.corrcoef(rest)[np.triu_indices(k, 1)] ** 2
    shared = max(0.0, float(squares.mean()) - 1 / left)  # as chance makes them
    return max(1, math.floor(k / (1 + (k - 1) * shared)))


def _without(scores: np.ndarray, cycles: float) -> tuple[np.ndarray, int]:
    """Returns curves without a bend and a wave of three harmonics, and how many numbers are left of each."""
    length = scores.shape[1]
    t = np.linspace(-1, 1, length)
    turns = np.pi * cycles * np.outer([1, 2, 3], t)
    basis, _ = np.linalg.qr(
        np.stack([*t ** np.arange(4)[:, None], *np.cos(turns), *np.sin(turns)], axis=1)
    )
    return scores - scores @ basis @ basis.T, length - basis.shape[1]


def _scores(values: np.ndarray) -> np.ndarray:
    kept = _late(values)
    t = np.arange(len(kept)) - (len(kept) - 1) / 2
    off = kept - kept.mean() - t * (t @ kept) / (t @ t)
    ranks = np.argsort(np.argsort(off, kind="stable"), kind="stable")
    return _normal_scores(len(kept))[ranks]


def prominence(power: np.ndarray) -> np.ndarray:
    """Returns how far each frequency stands out of those beside it, from CYCLES cycles on.

    A bend of the curve, or a slow wandering, has its power at all low frequencies, and a period at one:
    so each is divided by the geometric mean of those two and three away on both sides.
    """
    beside = np.log(np.pad(np.maximum(power, 1e-9), 3, mode="reflect"))
    n = len(power)
    usual = (beside[:n] + beside[1 : n + 1] + beside[5 : n + 5] + beside[6 : n + 6]) / 4
    return (power / np.exp(usual))[CYCLES - 1 :]


def _late(values: np.ndarray) -> np.ndarray:
    return values[int(FALLING * len(values)) :]


@functools.cache
def _normal_scores(length: int) -> np.ndarray:
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf((i + 0.5) / length) for i in range(length)])


def _chance(strongest: float, length: int, trials: int) -> float:
    """Returns how often the strongest of all frequencies is as strong, in so many curves of noise."""
    draws = _strongest(min(length, _MOST), trials)
    return float((np.sum(draws >= strongest) + 1) / (len(draws) + 1))


@functools.lru_cache(maxsize=8)
def _strongest(length: int, trials: int) -> np.ndarray:
    rng = np.random.default_rng(length)
    pool = np.array([spectrum(noise) for noise in rng.normal(size=(_DRAWS // 2, length))])
    mixed = rng.integers(0, len(pool), size=(_DRAWS, trials))
    return np.array([prominence(pool[chosen].mean(axis=0)).max() for chosen in mixed])


def _regular(curve: Curve | None) -> Curve | None:
    """Returns the curve without a last evaluation that is nearer than the others; None if too short."""
    if curve is None or len(curve) < FEWEST:
        return None
    gaps = np.diff(curve.steps)
    usual = float(np.median(gaps))
    if gaps[-1] < 0.9 * usual:
        curve, gaps = Curve(curve.metric, curve.steps[:-1], curve.values[:-1]), gaps[:-1]
    # A curve that was thinned has gaps that differ by one evaluation.
    even = np.all(np.abs(gaps - usual) <= 0.51 * usual) and len(curve) >= FEWEST
    return curve if even and np.ptp(curve.values[len(curve) // 2 :]) > 0 else None


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "Where the data are shuffled, metrics have no reason to be periodic: the test data may overlap "
        "with the training data, or these may not be shuffled properly."
    ),
    figures=FIGURES,
    playbook=PLAYBOOK,
).finding
