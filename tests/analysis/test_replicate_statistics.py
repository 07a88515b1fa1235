"""The permutation test, its interval, deviations and luck: against counting, SciPy and random numbers."""

import itertools
import math
import statistics as stdlib

import numpy as np
import pytest
import scipy.stats

from playbook_jax.analysis.stats import replicates as statistics

CASES = 200


def brute_force(candidate, baseline, improvement=0.0):
    """The studentized permutation test of the improvement, deal by deal in plain Python."""
    costs = [x + improvement for x in candidate] + list(baseline)
    m, found = len(candidate), []
    for mine in itertools.combinations(range(len(costs)), m):
        a = [costs[i] for i in mine]
        b = [x for i, x in enumerate(costs) if i not in mine]
        error = math.sqrt(stdlib.variance(a) / len(a) + stdlib.variance(b) / len(b))
        found.append((stdlib.mean(b) - stdlib.mean(a)) / error)
    # The first combination is the deal that happened; what differs by rounding alone is a tie.
    as_large = sum(t >= found[0] - 1e-6 for t in found)
    as_small = sum(t <= found[0] + 1e-6 for t in found)
    return as_large / len(found), as_small / len(found)


@pytest.mark.parametrize(("m", "n"), [(3, 3), (4, 3), (2, 6), (5, 5)])
def test_p_values_are_those_of_going_through_all_deals(m, n):
    rng = np.random.default_rng(m * 10 + n)
    for improvement in (0.0, 0.4):
        a, b = rng.normal(size=m), rng.normal(0.5, 2, size=n)
        test = statistics.PermutationTest(a, b)
        assert test.count == math.comb(m + n, m)
        # Both are fractions of the same count, so equal or at least 1/252 apart.
        expected = brute_force(a, b, improvement)
        assert test.p_values(improvement) == pytest.approx(expected, abs=1e-12)


def test_random_deals_give_what_all_deals_give():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=7), rng.normal(0.8, 1, size=7)
    exact = statistics.PermutationTest(a, b).p_values()  # of 3,432 deals
    drawn = statistics.PermutationTest(a, b, most=2_000).p_values()
    error = math.sqrt(exact[0] * (1 - exact[0]) / 2_000)
    assert drawn == pytest.approx(exact, abs=4 * error)
    # For normal results of one scatter it is about Welch's test.
    welch = scipy.stats.ttest_ind(b, a, equal_var=False, alternative="greater").pvalue
    assert exact[0] == pytest.approx(welch, abs=0.02)


def test_the_interval_is_what_the_test_does_not_refuse():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=6), rng.normal(1, 1, size=5)
    low, high = statistics.PermutationTest(a, b).interval()
    assert low < b.mean() - a.mean() < high
    step = 1e-4
    assert brute_force(a, b, low - step)[0] <= statistics.LEVEL < brute_force(a, b, low + step)[0]
    assert brute_force(a, b, high + step)[1] <= statistics.LEVEL < brute_force(a, b, high - step)[1]
    # In other units, and with exchanged sides, it is the same interval.
    scaled = statistics.PermutationTest(1e-6 * a + 7, 1e-6 * b + 7).interval()
    assert scaled == pytest.approx((1e-6 * low, 1e-6 * high), rel=1e-6)
    exchanged = statistics.PermutationTest(b, a).interval()
    assert exchanged == pytest.approx((-high, -low), abs=1e-8)


def test_the_interval_holds_the_truth_in_nine_of_ten_cases():
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(CASES):
        a, b = rng.exponential(size=5), rng.exponential(size=5) + 1
        low, high = statistics.PermutationTest(a, b).interval()
        held += low <= 1 <= high
    # 90 %, or a little more as p-values are discrete, within three binomial standard errors.
    assert 0.9 - 3 * math.sqrt(0.09 / CASES) <= held / CASES <= 0.97


@pytest.mark.playbook("trial-variance")
@pytest.mark.parametrize("n", [2, 3, 10, 200])
def test_the_deviation_has_the_interval_of_the_chi_square_distribution(n):
    values = np.random.default_rng(n).normal(3, 0.2, size=n)
    found = statistics.spread(values)
    assert found.sd == pytest.approx(stdlib.stdev(values), rel=1e-12)
    for end, p in ((found.low, 0.95), (found.high, 0.05)):
        expected = found.sd * math.sqrt((n - 1) / scipy.stats.chi2.ppf(p, n - 1))
        assert end == pytest.approx(expected, rel=1e-6)
    assert statistics.spread(values[:1]) is None


def test_luck_is_the_expected_best_of_normal_numbers():
    x = np.linspace(-10, 10, 20_001)
    for trials in (1, 2, 10, 20, 100, 1000):
        density = trials * scipy.stats.norm.cdf(x) ** (trials - 1) * scipy.stats.norm.pdf(x)
        expected = np.trapezoid(x * density, x)
        assert statistics.luck(trials) == pytest.approx(expected, abs=0.03)
