import dataclasses
import math

import pytest

from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, infeasible
from playbook_jax.analysis.stats import infeasible_region
from tests import synthetic_study as synthetic

RATE, MOMENTUM, DECAY = "hparams.learning_rate", "hparams.momentum", "hparams.weight_decay"
TWO = {RATE: synthetic.LEARNING_RATE, DECAY: synthetic.WEIGHT_DECAY}


def study(bad, good, spaces=None, **changes):
    """A study with infeasible trials at the places `bad` and complete ones at `good`."""
    spaces = spaces or {RATE: synthetic.LEARNING_RATE}
    rows = [{"at": at, "objective": None} for at in bad]
    rows += [{"at": at, "objective": 0.1 + i / 100} for i, at in enumerate(good)]
    return synthetic.made(rows, spaces=spaces, **changes)


def split(bad, total):
    """The highest `bad` of so many learning rates diverge."""
    places = [[(i + 0.5) / total] for i in range(total)]
    return study(places[total - bad :], places[: total - bad])


@pytest.mark.playbook("infeasible-fraction")
@pytest.mark.parametrize(
    ("bad", "verdict", "answer"),
    [
        (0, FINE, "None of 20 trials that have ended is infeasible."),
        (1, FINE, "1 of 20 trials that have ended is infeasible (5 %)."),
        (7, FINE, "7 of 20 trials that have ended are infeasible (35 %)."),
        (8, LOOK, "8 of 20 trials that have ended are infeasible (40 %)."),
        (11, LOOK, "11 of 20 trials that have ended are infeasible (55 %)."),
        (12, ACT, "12 of 20 trials that have ended are infeasible (60 %)."),
        (20, ACT, "All 20 trials that have ended are infeasible."),
    ],
)
def test_fractions(bad, verdict, answer):
    (finding,) = infeasible.check(split(bad, 20))
    assert (finding.verdict, finding.answer.replace("\u00a0", " ")) == (verdict, answer)
    assert bool(finding.action) == (verdict != FINE)
    assert bool(finding.advice) == (verdict != FINE)
    assert len(finding.trials) == bad


def test_all_infeasible_suspects_a_bug():
    (finding,) = infeasible.check(split(3, 3))
    assert finding.verdict == ACT
    assert "suspect a bug" in finding.action


@pytest.mark.parametrize(
    ("bad", "total", "answer"),
    [
        (0, 0, "No trial has ended."),
        (0, 1, "The only trial that has ended is not infeasible."),
        (0, 4, "None of 4 trials that have ended is infeasible."),
        (2, 4, "2 of 4 trials that have ended are infeasible (50 %)."),
    ],
)
def test_cannot_tell_from_so_few(bad, total, answer):
    (finding,) = infeasible.check(split(bad, total))
    assert finding.verdict == CANNOT_TELL
    assert finding.answer.replace("\u00a0", " ").startswith(answer)
    assert finding.action == ""


@pytest.mark.playbook("infeasible-fraction")
def test_where_they_lie_and_how_probable_that_is():
    (finding,) = infeasible.check(split(8, 20))
    assert finding.action == (
        "Leave out learning_rate of 0.316 and more, unless warmup or clipping makes it train."
    )
    assert pytest.approx(0.316, abs=5e-4) == 10 ** (-3 + 4 * 12.5 / 20)
    reasons, region = finding.evidence
    assert reasons == "Trials 0, 1, 2, 3, 4, 5, 6 and 7: the loss is not finite."
    assert region.startswith(
        "All 8 of these trials have learning_rate of 0.316 and more, and none of 12 others has."
    )
    assert math.comb(20, 8) == 125_970  # the outermost of so many choices; they are too many to try
    assert finding.figures == ("axis-hparams.learning_rate",)


def test_a_region_with_a_complete_trial_in_it():
    places = [[(i + 0.5) / 10] for i in range(10)]
    bad, good = [places[9], places[8], places[6], places[5]], [*places[:5], places[7]]
    region = infeasible_region.find(study(bad, good))
    assert len(region.failures) == 4
    assert len(region.learned) == 1
    assert region.cut == pytest.approx(0.55)
    # 1 − place of the bad ones: 0.05 + 0.15 + 0.35 + 0.45 = 1.0; of the 210 choices of four, these
    # sum to no more: indices from the top 0123, 0124, 0125, 0126, 0127, 0134 … counted by hand below.
    sums = [
        a + b + c + d
        for a in range(10)
        for b in range(a + 1, 10)
        for c in range(b + 1, 10)
        for d in range(c + 1, 10)
    ]
    assert region.chance == pytest.approx(sum(s <= 0 + 1 + 3 + 4 for s in sums) / 210)


def test_scattered_ones_have_no_region_and_may_mean_a_bug():
    places = [[(i + 0.5) / 20] for i in range(20)]
    (finding,) = infeasible.check(study(places[::2], places[1::2]))
    assert finding.verdict == LOOK
    assert finding.evidence[-1] == "They lie in no one part of the search space."
    assert "may point to a bug" in finding.action
    assert finding.figures == ()


@pytest.mark.playbook("infeasible-fraction")
def test_a_ratio_of_two_asks_to_reparameterize():
    spaces = {RATE: synthetic.LEARNING_RATE, MOMENTUM: synthetic.MOMENTUM}
    grid = [[(i + 0.5) / 6, (j + 0.5) / 6] for i in range(6) for j in range(6)]
    # The axes have 4 and 2.7 decades: what diverges depends on the sum of the logarithms alone.
    bad = [at for at in grid if 4 * at[0] + 2.7 * at[1] > 3]
    (finding,) = infeasible.check(study(bad, [at for at in grid if at not in bad], spaces))
    assert finding.verdict == ACT
    assert finding.action.startswith(
        "Reparameterize the search space: sample learning_rate / (1 − momentum) itself in place of "
        "learning_rate, and keep it below"
    )
    assert finding.figures == ("axis-hparams.learning_rate", "axis-hparams.momentum")


def test_a_listed_value_can_be_the_region():
    spaces = {"optimizer": {"values": ["adam", "momentum", "sgd"]}}
    (finding,) = infeasible.check(study([[1]] * 6, [[0]] * 4 + [[2]] * 4, spaces))
    assert finding.verdict == LOOK
    assert finding.action == "Leave out optimizer = momentum."
    assert (
        "All 6 of these trials have optimizer = momentum, and none of 8 others"
        in finding.evidence[1]
    )
    # A level has two sides, one choice of 6 among 14 is as extreme: 1 of 3,003.
    assert math.comb(14, 6) == 3003
    assert "probability 1 in 3,003" in finding.evidence[1]


def test_failed_trials_do_not_count():
    made = split(8, 20)
    failed = [
        dataclasses.replace(t, state="FAILED", reason="out of memory") for t in made.trials[:8]
    ]
    (finding,) = infeasible.check(dataclasses.replace(made, trials=(*failed, *made.trials[8:])))
    assert finding.answer == "None of 12 trials that have ended is infeasible."
    assert finding.verdict == FINE
    assert finding.evidence == (
        "Not counted: trials 0, 1, 2, 3, 4, 5, 6 and 7 FAILED for another reason (out of memory).",
    )


def test_reasons_are_grouped_whatever_their_step():
    made = split(3, 20)
    reasons = ["loss is nan (step 1,234)", "loss is nan (step 9)", "gradient is inf"]
    trials = [
        dataclasses.replace(t, reason=r) for t, r in zip(made.trials[:3], reasons, strict=True)
    ]
    (finding,) = infeasible.check(dataclasses.replace(made, trials=(*trials, *made.trials[3:])))
    assert finding.evidence[:2] == ("Trials 0 and 1: loss is nan.", "Trial 2: gradient is inf.")


@pytest.mark.playbook("infeasible-fraction")
def test_trials_that_learned_nothing_count():
    places = [[(i + 0.5) / 20] for i in range(20)]
    made = study(places[16:], places[:16])
    told = {"unlearned": True, "reason": "the training loss ended about where it began"}
    trials = [
        dataclasses.replace(t, **(told if t.number >= 14 else {})) for t in made.trials
    ]  # numbers 0 to 3 are the highest rates, 14 to 19 the next
    (finding,) = infeasible.check(dataclasses.replace(made, trials=tuple(trials)))
    assert finding.verdict == LOOK
    assert finding.answer.replace("\u00a0", " ") == (
        "10 of 20 trials that have ended are infeasible or learned nothing (50 %)."
    )
    assert finding.evidence[0] == (
        "Trials 14, 15, 16, 17, 18 and 19: the training loss ended about where it began."
    )
    assert finding.evidence[2].startswith(
        f"All 10 of these trials have learning_rate of {10 ** (-3 + 4 * 10.5 / 20):.3g} and more, "
        "and none of 10 others has."
    )


@pytest.mark.parametrize(("unlearned", "answer"), [(True, "learned nothing"), (False, "is not")])
def test_the_only_trial(unlearned, answer):
    made = study([], [[0.5]])
    trial = dataclasses.replace(made.trials[0], unlearned=unlearned)
    (finding,) = infeasible.check(dataclasses.replace(made, trials=(trial,)))
    assert finding.answer.startswith(f"The only trial that has ended {answer}")
    assert finding.verdict == (ACT if unlearned else CANNOT_TELL)
