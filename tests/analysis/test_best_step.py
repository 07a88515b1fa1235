import numpy as np
import pytest

from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, best_step
from tests import synthetic_study as synthetic

SPACES = {"hparams.learning_rate": synthetic.LEARNING_RATE}
STEPS = np.arange(50, 1001, 50)


def curve(best, *, slope, scatter=0.0, seed=0):
    """Evaluations of a run of 1,000 steps that falls by `slope` to 0.1 at `best`, and then rises."""
    values = 0.1 + slope * np.abs(STEPS - best) / 1000
    values += scatter * np.random.default_rng(seed).normal(size=len(STEPS))
    return {"step": STEPS.astype(float), "validation/error_rate": values}


def study(best_steps, *, slope=0.5, scatter=0.0, curves=True, base=None, mode="min", **changes):
    """Trials of 1,000 steps with these best steps, the first one the best."""
    sign = 1 if mode == "min" else -1
    rows = []
    for i, best in enumerate(best_steps):
        evaluations = curve(best, slope=slope, scatter=scatter, seed=i) if curves else {}
        if evaluations:
            evaluations["validation/error_rate"] *= sign
        row = {"at": [0.5], "objective": sign * (0.1 + i / 1000), "step": 1000, "best_step": best}
        rows.append(row | {"evaluations": evaluations} | changes)
    return synthetic.made(rows, spaces=SPACES, base=base, mode=mode)


@pytest.mark.playbook("best-step-early-or-late")
def test_fires_where_all_are_early():
    (finding,) = best_step.check(study([50, 100, 100, 50, 900, 900]))
    assert finding.verdict == ACT
    assert "always in the first tenth" in finding.answer
    assert finding.action.startswith("Set max_train_steps to 200 or so")  # twice the latest, 100
    assert finding.evidence[0].replace("\u00a0", " ") == (
        "Of the better 3 of 6 complete trials, 3 had the best step in the first tenth of the run and "
        "0 in the last quarter; the median is at 10 % of the run, the range from 5 % to 10 %."
    )
    assert finding.figures == ("best-steps", "training-curves")


def test_is_silent_if_one_of_the_better_half_is_not_early():
    (finding,) = best_step.check(study([50, 100, 150, 50, 900, 900]))
    assert finding.verdict == FINE
    assert finding.action == ""


@pytest.mark.playbook("best-step-early-or-late")
@pytest.mark.parametrize("mode", ["min", "max"])
def test_late_best_steps_ask_for_more(mode):
    best_steps = [1000, 950, 900, 500] + [100] * 4
    constant = {"schedule": "constant"}
    (finding,) = best_step.check(study(best_steps, base=constant, mode=mode))
    assert finding.verdict == LOOK  # 3 of 4 are three quarters
    assert "consistently in the last quarter" in finding.answer
    assert (
        finding.action == "Try 2,000 training steps, and tune the decay of the learning rate anew."
    )
    told, gains = (text.replace("\u00a0", " ") for text in finding.evidence)
    assert told.endswith("the median is at 92 % of the run, the range from 50 % to 100 %.")
    # Trial 0 falls by 0.5 in 1,000 steps: from the evaluation at 700, the last before three
    # quarters of the run, to 1,000 that makes 15 %; to 950 12.5, to 900 10.
    assert "trial 0 15.00 % (evaluations scatter by 0.00 %)" in gains
    assert "trial 1 12.50 %" in gains
    assert "trial 2 10.00 %" in gains


def test_late_under_a_decaying_schedule_cannot_be_told():
    for schedule, end_factor, verdict in [
        ("cosine", 0.0, CANNOT_TELL),
        ("linear", 0.1, CANNOT_TELL),
        ("linear", 0.2, LOOK),
        ("rsqrt", 0.0, LOOK),
    ]:
        base = {"schedule": schedule, "hparams": {"end_factor": end_factor}}
        (finding,) = best_step.check(study([1000] * 6, base=base))
        assert finding.verdict == verdict, schedule
    (finding,) = best_step.check(study([1000] * 6, base={"schedule": "cosine"}))
    assert "whatever the length" in finding.answer
    assert "train the best few with 2,000 steps" in finding.action


def test_late_without_a_gain_is_fine():
    # Flat curves that scatter by 0.01: their best value may be anywhere.
    flat = study([1000] * 8, slope=0, scatter=0.01, base={"schedule": "constant"})
    (finding,) = best_step.check(flat)
    assert finding.verdict == FINE
    assert "gains no more than evaluations scatter" in finding.answer
    (finding,) = best_step.check(study([1000] * 8, slope=0.5, scatter=0.001))
    assert finding.verdict == LOOK


def test_scatter_is_measured_beside_a_trend():
    # 400 evaluations with independent scatter 0.02 on a steep line: 100 of them are in the last
    # quarter, so that the standard deviation is known to 7 % or so.
    steps = np.arange(1, 401) * 10.0
    values = 5 - steps / 1000 + 0.02 * np.random.default_rng(0).normal(size=400)
    row = {"at": [0.5], "objective": 0.1, "step": 4000, "best_step": 4000}
    row["evaluations"] = {"step": steps, "validation/error_rate": values}
    made = synthetic.made([row], spaces=SPACES)
    gain, noise = best_step._late_gain(made, made.trials[0])
    assert gain == pytest.approx(values[:299].min() - values.min())
    assert noise == pytest.approx(0.02, rel=0.2)


def test_without_curves_the_gain_is_not_told():
    (finding,) = best_step.check(study([1000] * 6, curves=False))
    assert finding.verdict == LOOK
    assert len(finding.evidence) == 1


@pytest.mark.parametrize(
    ("number", "answer"),
    [(0, "No trial is complete."), (1, "1 complete trial: too few"), (2, "2 complete trials: too")],
)
def test_cannot_tell(number, answer):
    (finding,) = best_step.check(study([100] * number))
    assert finding.verdict == CANNOT_TELL
    assert finding.answer.startswith(answer)
    assert finding.action == ""


def test_a_late_first_evaluation_is_told():
    (finding,) = best_step.check(study([500] * 6))
    assert len(finding.evidence) == 1
    late = {"step": np.array([500.0, 1000.0]), "validation/error_rate": np.array([0.1, 0.2])}
    (finding,) = best_step.check(study([500] * 6, evaluations=late))
    assert "first evaluation is at 50\u00a0% of the run" in finding.evidence[1]


@pytest.mark.parametrize(
    ("steps", "rounded"), [(7, 7), (99, 99), (101, 110), (2001, 2100), (123_456, 130_000)]
)
def test_steps_are_rounded_up(steps, rounded):
    assert best_step.round_up(steps) == rounded
