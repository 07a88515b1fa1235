"""Schedules, against the formulas evaluated by NumPy in float64."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from playbook_jax import schedules
from playbook_jax.errors import UsageError

ROOT = Path(__file__).parent.parent
NAMES = ("constant", "linear", "cosine", "rsqrt")


def reference(name, hparams, max_train_steps, t):
    """The contract's formulas, as they are written there, in float64."""
    base, n = hparams["learning_rate"], max_train_steps
    warmup, post_warmup = hparams.get("warmup_steps", 0), hparams.get("post_warmup_steps", 0)
    end, timescale = hparams.get("end_factor", 0.0), hparams.get("rsqrt_timescale", 10_000)
    t = np.asarray(t, np.float64)
    s = np.clip(t - warmup - post_warmup, 0, n)
    decayed = {
        "constant": base * np.ones_like(s),
        "linear": base * (1 - (1 - end) * s / n),
        "cosine": base * (end + (1 - end) * (1 + np.cos(np.pi * s / n)) / 2),
        "rsqrt": base * np.sqrt(timescale / (timescale + s)),
    }[name]
    return np.where(t < warmup, base * t / max(warmup, 1), decayed)


def random_hparams(rng):
    return {
        "learning_rate": float(10 ** rng.uniform(-5, 2)),
        "warmup_steps": int(rng.choice([0, 1, rng.integers(2, 5000)])),
        "post_warmup_steps": int(rng.choice([0, rng.integers(1, 5000)])),
        "end_factor": float(rng.choice([0.0, 1.0, rng.uniform(0, 2)])),
        "rsqrt_timescale": float(10 ** rng.uniform(0, 5)),
    }


def traced(name):
    return jax.jit(lambda h, n, t: schedules.make_schedule(name, h, n)(t))


@pytest.mark.playbook("simple-schedules", "warmup-schedule", "constant-rate-first", "default-decay")
@pytest.mark.parametrize("name", NAMES)
def test_matches_the_formula_in_float64(name):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        compiled = traced(name)
        for _ in range(20):
            hparams, n = random_hparams(rng), int(rng.integers(1, 10_000))
            total = hparams["warmup_steps"] + hparams["post_warmup_steps"] + n
            t = np.concatenate([rng.integers(0, total + 1, 200), [0, total - 1, total, 2 * total]])
            expected = reference(name, hparams, n, t)
            # Both sides round a handful of operations: 1e-12 of B is some thousand units in the last place.
            atol = 1e-12 * hparams["learning_rate"]
            plain = schedules.make_schedule(name, hparams, n)(t)
            assert plain.dtype == np.float64
            np.testing.assert_allclose(plain, expected, rtol=0, atol=atol)
            np.testing.assert_allclose(compiled(hparams, n, t), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1_000, 1_000_000, 20_000_000])
def test_float32_loses_no_step(name, n):
    # In float32 1 − s/N keeps no correct digit where s is near N = 10⁷, and t itself skips odd numbers
    # above 2²⁴. Near both ends, next to each join and in between, every step has its own right value.
    hparams = {"learning_rate": 0.3, "warmup_steps": n // 10, "post_warmup_steps": n // 5}
    joins = np.array([0, n // 10, n // 10 + n // 5, n // 10 + n // 5 + n])
    t = np.unique(joins[:, None] + np.arange(-5, 6))
    t = np.concatenate([t[t >= 0], np.linspace(0, joins[-1], 1001).astype(int)])
    actual = np.asarray(schedules.make_schedule(name, hparams, n)(jnp.asarray(t)))
    assert actual.dtype == np.float32
    # 5e-7: four roundings. Cosine's last few steps are below 1e-10 of B, where XLA's sine keeps fewer digits.
    atol = 0.3 * 1e-10 if name == "cosine" else 0
    np.testing.assert_allclose(actual, reference(name, hparams, n, t), rtol=5e-7, atol=atol)
    if name == "linear":
        end = schedules.make_schedule(name, hparams, n)(joins[-1] - np.arange(1, 100))
        assert np.all(np.diff(end) > 0)


@pytest.mark.parametrize("name", NAMES)
def test_changing_a_value_does_not_compile_again(name):
    traces = []

    @jax.jit
    def compiled(hparams, n, t):
        traces.append(name)
        return schedules.make_schedule(name, hparams, n)(t)

    rng = np.random.default_rng(1)
    for _ in range(5):
        hparams, n = random_hparams(rng), int(rng.integers(1, 10_000))
        t = int(rng.integers(0, 20_000))
        as_float32 = {key: np.float32(value) for key, value in hparams.items()}
        actual = compiled(as_float32, n, t)
        # Each hparam carries its own float32 rounding, 6e-8, beside those of the computation.
        expected = reference(name, hparams, n, t)
        np.testing.assert_allclose(
            actual, expected, rtol=1e-6, atol=1e-6 * hparams["learning_rate"]
        )
    assert len(traces) == 1


@pytest.mark.parametrize("name", NAMES)
def test_without_warmup_starts_at_the_base_rate(name):
    for zero in (0, 0.0, np.float32(0)):
        hparams = {
            "learning_rate": np.float32(0.3),
            "warmup_steps": zero,
            "post_warmup_steps": zero,
        }
        for function in (traced(name), lambda h, n, t: schedules.make_schedule(name, h, n)(t)):
            rates = np.array([function(hparams, 10, t) for t in range(13)])
            assert np.all(np.isfinite(rates))
            assert rates[0] == np.float32(0.3)


@pytest.mark.playbook("warmup-prepended", "warmup-beside-decay", "constant-stretch")
@pytest.mark.parametrize("name", NAMES)
def test_warmup_never_shortens_the_base_schedule(name):
    rng = np.random.default_rng(2)
    compiled = traced(name)
    t = np.arange(300)
    for _ in range(20):
        hparams, n = random_hparams(rng), int(rng.integers(1, 300))
        warmup, post_warmup = (int(rng.integers(0, 100)) for _ in range(2))
        base = hparams | {"warmup_steps": 0, "post_warmup_steps": 0}
        longer = hparams | {"warmup_steps": warmup, "post_warmup_steps": post_warmup}
        # The same bits, all n + 1 of them, only later.
        np.testing.assert_array_equal(
            compiled(longer, n, t + warmup + post_warmup), compiled(base, n, t)
        )
        peak = np.float32(hparams["learning_rate"])
        before = np.asarray(compiled(longer, n, t))
        # XLA may divide by multiplying with the reciprocal, so even n/n can be off by one rounding.
        constant = before[warmup : warmup + post_warmup + 1]
        np.testing.assert_allclose(constant, peak, rtol=1.2e-7)
        ramp = peak * np.arange(warmup, dtype=np.float64) / max(warmup, 1)
        np.testing.assert_allclose(before[:warmup], ramp, rtol=3e-7)  # two roundings


def test_hparams_have_defaults_and_others_are_ignored():
    t = np.arange(0, 25_000, 500)
    for name in NAMES:
        rates = schedules.make_schedule(name, {"learning_rate": 1, "epsilon": np.nan}, 20_000)(t)
        expected = reference(name, {"learning_rate": 1.0}, 20_000, t)
        np.testing.assert_allclose(rates, expected, rtol=5e-7, atol=1e-9)


def test_several_trials_in_one_program():
    # Trials packed by vmap have different hparams, warmup and length included.
    hparams = {"learning_rate": np.array([0.1, 1.0]), "warmup_steps": np.array([0.0, 10.0])}
    n, t = np.array([20, 40]), np.array([7, 7])
    packed = jax.vmap(traced("cosine"))(hparams, n, t)
    for i in range(2):
        alone = {key: value[i] for key, value in hparams.items()}
        np.testing.assert_allclose(packed[i], reference("cosine", alone, n[i], t[i]), rtol=5e-7)


def test_unknown_schedule_names_the_nearest():
    with pytest.raises(
        UsageError, match=r"unknown schedule 'cosin'; did you mean 'cosine'\?.*rsqrt"
    ):
        schedules.make_schedule("cosin", {"learning_rate": 0.1}, 10)


def test_missing_learning_rate():
    with pytest.raises(UsageError, match="learning_rate"):
        schedules.make_schedule("cosine", {"warmup_steps": 3}, 10)


@pytest.mark.playbook("no-piecewise-schedules")
def test_the_docs_say_why_there_are_no_piecewise_schedules():
    assert set(schedules.SCHEDULES) == set(NAMES)
    assert "no piecewise schedules" in schedules.__doc__
    assert "Why do some papers have complicated learning rate schedules" in " ".join(
        schedules.__doc__.split()
    )


@pytest.mark.playbook("default-decay")
@pytest.mark.parametrize(
    "path",
    [*sorted(ROOT.glob("configs/*.py")), ROOT / "scripts" / "template" / "config.py"],
    ids=str,
)
def test_the_shipped_configs_decay_linearly_or_by_cosine(path):
    (schedule,) = re.findall(r"config\.schedule = \"(\w+)\"", path.read_text())
    assert schedule in ("linear", "cosine")
    hparams = {"learning_rate": 0.1}
    rates = schedules.make_schedule(schedule, hparams, 100)(np.arange(101))
    assert np.all(np.diff(rates) < 0)
    assert rates[-1] == 0
