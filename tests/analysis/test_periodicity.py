"""Periods that validation metrics share."""

import numpy as np
import pytest

from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, periodicity
from tests import finding_studies as made

N = made.EVALUATIONS
STEP = made.STEPS / N


def rng(seed=0):
    return np.random.default_rng(seed)


def waves(amplitude, *, period=5.0, trials=6, length=N, noise=0.002):
    rows = []
    for i in range(trials):
        wave = amplitude * np.sin(2 * np.pi * np.arange(length) / period)
        rows.append(made.trial(rng(i), made.falling(rng(i), 0.1, length, noise=noise) + wave))
    return made.study(rows)


@pytest.mark.playbook("periodic-metrics")
@pytest.mark.parametrize("period", [2.5, 4, 6.4])
def test_periodic_metrics(period):
    (finding,) = periodicity.check(waves(0.006, period=period))
    assert finding.verdict == ACT
    told = float(finding.answer.split("every ")[1].split()[0])
    # Late in the run there are 32 evaluations: frequencies are 1/32 apart.
    assert told / STEP == pytest.approx(period, rel=period / 32)
    assert "splits do not overlap" in finding.action


def test_bends_do_not_hide_a_period():
    found = 0
    for seed in range(10):
        random, i = rng(seed), np.arange(N)
        wave = 0.003 * np.sin(2 * np.pi * i / random.uniform(2.5, 8))
        rows = []
        for _ in range(8):
            bend = np.abs(i - random.uniform(12, 36)) * random.uniform(-0.001, 0.001)
            rows.append(made.trial(random, made.falling(random, 0.15) + wave + bend))
        found += periodicity.check(made.study(rows))[0].verdict == ACT
    assert found >= 8  # of 100 seeds 95; without the comparison with frequencies beside, 47


def test_trials_that_see_the_same_batches_are_no_independent_witnesses():
    alarms, counted = 0, []
    for seed in range(40):
        random = rng(seed)
        shared = made.NOISE * random.normal(size=N)
        rows = [
            made.trial(random, made.falling(random, 0.1, noise=made.NOISE / 10) + shared)
            for _ in range(8)
        ]
        study = made.study(rows)
        alarms += periodicity.check(study)[0].verdict == ACT
        values = [t.evaluations[study.metric] for t in study.trials]
        counted.append(periodicity.independent(values, 6))
    assert (
        alarms <= 2
    )  # of 8 curves that differ, as many would be called periodic as have one strong frequency
    assert set(counted) == {1}
    apart = [made.falling(rng(i), 0.1) for i in range(8)]
    assert periodicity.independent(apart, 6) >= 6
    assert periodicity.independent(apart[:1], 6) == 1


def test_not_periodic():
    assert periodicity.check(waves(0))[0].verdict == FINE
    assert periodicity.check(waves(0.006, length=20))[0].verdict == CANNOT_TELL
    # A curve with a sharp bend, and one with a single jump, have no period.
    bends = [0.1 + 0.025 * np.abs(np.arange(N) - 20 - i) for i in range(6)]
    bent = [made.trial(rng(), bend + 1e-4 * rng(1).normal(size=N)) for bend in bends]
    assert periodicity.check(made.study(bent))[0].verdict == FINE
    spiked = [made.falling(rng(i), 0.1) + 0.3 * (np.arange(N) == 25) for i in range(6)]
    study = made.study([made.trial(rng(), values) for values in spiked])
    assert periodicity.check(study)[0].verdict == FINE
    alarms = 0
    for seed in range(20):  # what wanders is stronger at low frequencies, of which none stands out
        curves = 0.002 * rng(seed).normal(size=(8, N))
        for i in range(1, N):
            curves[:, i] += 0.8 * curves[:, i - 1]
        wandering = made.study([made.trial(rng(), 0.3 + values) for values in curves])
        alarms += periodicity.check(wandering)[0].verdict == ACT
    assert alarms <= 1
    flat = made.study([made.trial(rng(), np.full(N, 0.1)) for _ in range(4)])
    assert periodicity.check(flat)[0].verdict == CANNOT_TELL


def test_a_spectrum_has_its_peak_where_the_period_is():
    values = np.sin(2 * np.pi * np.arange(50) * 8 / 40)  # 8 cycles in the last 40
    assert int(np.argmax(periodicity.spectrum(values))) + 1 == 8
    peaks = periodicity.prominence(periodicity.spectrum(values))
    assert int(np.argmax(peaks)) + periodicity.CYCLES == 8
