"""Checks of what a decaying learning rate is for: late variance, and the decay itself."""

import numpy as np
import pytest

from playbook_jax.analysis.data.proposals import SET, Proposal
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, decay, late_variance
from tests import finding_studies as made
from tests.finding_studies import plain, straight

DECAYING = {"schedule": "cosine"}
N = made.EVALUATIONS
CONSTANT = {"schedule": "constant"}


def rng(seed=0):
    return np.random.default_rng(seed)


# --- Late variance ---


def scattered(noise, spread, trials=12, base=None):
    costs = 0.1 + spread * np.arange(trials)
    rows = [made.trial(rng(), straight(c, noise=noise, seed=i)) for i, c in enumerate(costs)]
    rows = [row | {"objective": cost} for row, cost in zip(rows, costs, strict=True)]
    return made.study(rows, base=base)


@pytest.mark.playbook("late-variance")
def test_late_variance():
    # The better six of 12 lie 0.01 apart each: a standard deviation of 0.01 √3.5.
    between = 0.01 * np.sqrt(3.5)
    for noise, verdict in ((0.3, FINE), (0.8, LOOK), (2.0, ACT)):
        study = scattered(noise * between, 0.01, base=CONSTANT)
        (finding,) = late_variance.check(study)
        assert finding.verdict == verdict, noise
        assert f"lie {100 * between:.2f} % apart" in plain(finding.evidence[1])
        values = [t.evaluations["validation/error_rate"][N // 2 :] for t in study.leaders]
        off = [v[1:-1] - (v[:-2] + v[2:]) / 2 for v in values]
        scatter = np.median([np.sqrt(np.mean(o**2) / 1.5) for o in off])
        assert f"scatters by {100 * scatter:.2f} %" in plain(finding.evidence[0])
    assert finding.action.startswith(
        "Try a learning rate that decays, the average of the parameters"
    )
    decayed = {"schedule": "cosine", "hparams": {"polyak_decay": 0.99}}
    (finding,) = late_variance.check(scattered(2 * between, 0.01, base=decayed))
    assert finding.action == "Try more validation data or a larger batch."


def test_late_variance_without_a_difference():
    assert late_variance.check(scattered(0, 0))[0].verdict == CANNOT_TELL
    assert late_variance.check(scattered(0.01, 0))[0].verdict == ACT
    assert late_variance.check(scattered(0.01, 0.01, trials=5))[0].verdict == CANNOT_TELL


# --- Decay ---


@pytest.mark.playbook("simple-schedules", "default-decay")
def test_a_constant_rate_is_told_to_try_decay():
    between = 0.01 * np.sqrt(3.5)
    (quiet,) = decay.check(scattered(0.3 * between, 0.01, base=CONSTANT))
    (loud,) = decay.check(scattered(2.0 * between, 0.01, base=CONSTANT))
    assert (quiet.verdict, loud.verdict) == (LOOK, ACT)
    for found, sure in ((quiet, False), (loud, True)):
        assert found.proposals == (Proposal(SET, "schedule", "cosine", sure=sure),)
        assert found.action.startswith("Try a learning rate that decays to zero (cosine)")
        assert "100 % in trial 0" in plain(found.evidence[0])
    # The same scatter under a decay is not for want of one.
    (finding,) = decay.check(scattered(2.0 * between, 0.01, base=DECAYING))
    assert (finding.verdict, finding.proposals) == (FINE, ())
    # Whoever chose it for a reason is told all the same, and decides.
    study = scattered(2.0 * between, 0.01, base=CONSTANT)
    study.specification["fixed_reasons"] = {"schedule": "a sweep for max_train_steps"}
    (finding,) = decay.check(study)
    assert (finding.verdict, finding.proposals[0].sure) == (ACT, False)
    assert finding.evidence[-1] == "It was chosen so: a sweep for max_train_steps."


@pytest.mark.parametrize(
    ("base", "part"),
    [
        ({"schedule": "linear", "hparams": {"end_factor": 0.1}}, 0.1),
        ({"schedule": "cosine", "hparams": {"end_factor": 0.9}}, 0.9),
        # STEPS of 1,000 more: 1 / √2, and 1 / √1.1.
        (
            {"schedule": "rsqrt", "hparams": {"rsqrt_timescale": 1000}, "max_train_steps": 1000},
            0.7071,
        ),
        ({"schedule": "rsqrt", "max_train_steps": 1000}, 0.9535),
        (
            {"schedule": "rsqrt", "hparams": {"rsqrt_timescale": 100}, "max_train_steps": 1000},
            0.3015,
        ),
    ],
)
def test_how_much_of_the_rate_is_left(base, part):
    study = scattered(0.001, 0.01, base=base)
    assert decay.remaining(study, study.best) == pytest.approx(part, rel=1e-3)
    (finding,) = decay.check(study)
    assert finding.verdict == (FINE if part <= 0.5 else LOOK)
    if part > 0.5 and base["schedule"] == "cosine":
        assert finding.proposals == (Proposal(SET, "hparams.end_factor", 0.0, sure=False),)


def test_without_results_or_a_schedule_a_decay_cannot_be_missed():
    failed = made.study([{"objective": None}] * 3, base=CONSTANT)
    unknown = scattered(0.01, 0.01, base={"schedule": "my_own"})
    unnamed = scattered(0.01, 0.01)
    for study in (failed, unknown, unnamed):
        (finding,) = decay.check(study)
        assert (finding.verdict, finding.action) == (CANNOT_TELL, "")
