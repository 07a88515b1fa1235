"""Do the best trials still improve at the end of training, or have they long stopped?"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from playbook_jax.analysis.data import curves, formatting
from playbook_jax.analysis.data.curves import Curve
from playbook_jax.analysis.data.proposals import Proposal
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK, Finding, best_step
from playbook_jax.analysis.stats import curve_shapes

ORDER = 45

CHANCE = Threshold(
    "end_of_training.chance",
    0.01,
    0,
    1,
    "that a flat curve seems to fall so; at two of three trials, 1 in 3,000",
)
SMALLEST = Threshold(
    "end_of_training.smallest",
    0.02,
    0,
    1,
    "from the fourth fifth to the last one: less than this part of the value is no progress "
    "to wait for",
)
SATURATED_AT = Threshold(
    "end_of_training.saturated_at",
    0.4,
    0,
    1,
    'a curve "saturated long before the end" if it stays within smallest of its end, or '
    "within its scatter, from this part of the run on",
)
NEAR = Threshold(
    "end_of_training.near",
    5.0,
    0,
    100,
    "standard errors of a smoothed value that count as its scatter; its lowest is two or so "
    "below what is true",
)
MOST = Threshold(
    "end_of_training.most",
    0.6,
    0,
    1,
    'what part of the best trials must still improve ("saturated" must be all: in doubt, '
    "train longer)",
)

QUESTION = "Is training over at the end?"
SECTION = "Examining the training curves"
PLAYBOOK = ("still-improving", "saturated-early")
FIGURES = ("training-curves",)


@dataclasses.dataclass(frozen=True)
class End:
    """How a trial's training ends.

    Attributes:
      trial: its number.
      fallen: what validation gained from the fourth fifth of the run to the last one.
      improving: whether that is more than scatter, and enough to matter.
      settled: the part of the run after which neither validation nor training moved any more.
    """

    trial: int
    fallen: float
    improving: bool
    settled: float


def check(study: Study) -> list[Finding]:
    """Returns whether the best trials are still improving, or saturated long before.

    Source: playbook, "Examining the training curves": the first is the compute-bound regime, where more
    steps or another schedule may help; the second asks for fewer steps.
    """
    ends = [end for t in curves.compared(study) if (end := measure(study, t)) is not None]
    if not ends:
        text = (
            f"The best trials have fewer than {curve_shapes.FEWEST} evaluations of validation each."
            if study.ranked
            else "No trial is complete."
        )
        return [_finding(CANNOT_TELL, text)]
    improving = [e for e in ends if e.improving]
    told = [
        f"{formatting.metric(study.metric, abs(e.fallen))} {'better' if e.fallen >= 0 else 'worse'} in trial "
        f"{e.trial}"
        for e in ends[:4]
    ]
    evidence = [
        f"In the last fifth of the run the {formatting.metric_label(study.metric)} is, against the fifth "
        f"before: {formatting.join(told)}."
    ]
    trials = tuple(e.trial for e in ends)
    if len(improving) >= MOST.of(study) * len(ends):
        return [_still_improving(study, evidence, trials)]
    if all(e.settled <= SATURATED_AT.of(study) for e in ends):
        return [_saturated(study, ends, evidence, trials)]
    text = "The best trials have stopped improving, and not long before the end."
    return [_finding(FINE, text, evidence, trials=trials)]


def measure(study: Study, trial: Trial) -> End | None:
    """Returns how a trial ends, or None where too few evaluations of validation are known."""
    curve = curves.validation(study, trial)
    if curve is None or len(curve) < curve_shapes.FEWEST:
        return None
    fallen, chance = curve_shapes.late_fall(curve.values)
    matters = fallen > SMALLEST.of(study) * abs(float(np.mean(curve.values[-3:])))
    settled = max(
        [
            settles(study, c)
            for c in (curve, curves.training(study, trial))
            if c is not None and len(c) >= 8
        ]
    )
    return End(trial.number, fallen, bool(matters and chance <= CHANCE.of(study)), settled)


def settles(study: Study, curve: Curve) -> float:
    """Returns the part of the run after which a smoothed curve is near its lowest; 1 if it ends far above."""
    smoothed = curve_shapes.smooth(curve.values)
    w = curve_shapes.width(len(curve))
    near = max(
        SMALLEST.of(study) * abs(float(smoothed[-1])),
        NEAR.of(study) * curve_shapes.noise(curve.values) / np.sqrt(w),
    )
    if smoothed[-1] > smoothed.min() + 2 * near:  # it does move: up again
        return 1.0
    first = int(np.flatnonzero(smoothed <= smoothed.min() + near)[0])
    return float(curve.steps[first + w // 2] / curve.steps[-1])


def _still_improving(study: Study, evidence: list[str], trials: tuple[int, ...]) -> Finding:
    leaders = [t for t in study.trials if t.number in trials]
    if all(best_step.decays_to_zero(study, trial) for trial in leaders):
        text = (
            "The best trials improve to the end, as they do where the learning rate decays to zero: "
            "this alone does not show that training is compute-bound."
        )
        return _finding(CANNOT_TELL, text, evidence, trials=trials)
    already = any(f.action for f in best_step.check(study))
    longer = best_step.round_up(2 * max(t.step for t in leaders))
    return _finding(
        LOOK,
        "The best trials are still improving at the end: training is compute-bound.",
        evidence,
        ""
        if already
        else "Train longer if you can afford it (max_train_steps), or let the learning rate decay.",
        trials,
        () if already else best_step.longer(study, longer),
    )


def _saturated(
    study: Study, ends: list[End], evidence: list[str], trials: tuple[int, ...]
) -> Finding:
    at = max(e.settled for e in ends)
    evidence.append(
        f"In none of them validation or training moves any more after {formatting.percent(at)} of the run."
    )
    already = any(f.action for f in best_step.check(study))
    last = max(t.step for t in study.trials if t.number in trials)
    fewer = best_step.round_up(round(1.5 * at * last))
    steps = formatting.count(fewer)
    # In doubt, train longer: so it is for the reader to decide.
    proposals = () if already else best_step.propose(study, fewer, sure=False)
    return _finding(
        LOOK,
        "Training and validation had settled long before the end.",
        evidence,
        "" if already else f"Fewer steps do: set max_train_steps to {steps} or so.",
        trials,
        proposals,
    )


def _finding(
    verdict: str,
    answer: str,
    evidence: Sequence[str] = (),
    action: str = "",
    trials: tuple[int, ...] = (),
    proposals: tuple[Proposal, ...] = (),
) -> Finding:
    return Finding(
        question=QUESTION,
        verdict=verdict,
        answer=answer,
        evidence=tuple(evidence),
        action=action,
        advice=(
            "Trials that improve to the end are limited by compute: more steps, or another schedule, may "
            "help. Trials that settled long before are not, and can do with fewer. In doubt, train longer."
            if verdict == LOOK
            else ""
        ),
        section=SECTION,
        trials=trials,
        figures=FIGURES,
        playbook=PLAYBOOK,
        proposals=proposals,
    )
