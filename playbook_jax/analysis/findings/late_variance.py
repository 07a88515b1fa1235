"""Do evaluations late in training scatter so much that they blur the differences between trials?"""

import math

import numpy as np

from playbook_jax.analysis.data import curves, formatting
from playbook_jax.analysis.data.proposals import SET, Proposal
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import (
    ACT,
    CANNOT_TELL,
    FINE,
    LOOK,
    Finding,
    Question,
    best_step,
)
from playbook_jax.analysis.stats import curve_shapes

ORDER = 55

LOOK_PART = Threshold(
    "late_variance.look_part",
    0.6,
    0,
    100,
    "late scatter in parts of the spread of the trials that compete: at a third it moves "
    "trials by few places",
)
ACT_PART = Threshold(
    "late_variance.act_part",
    1.0,
    0,
    100,
    "as large as the spread, the order of the trials is luck",
)
COMPETING = Threshold(
    "late_variance.competing",
    0.5,
    0,
    1,
    "the better part that competes: that a hopeless trial is worse, no scatter hides",
)
FEWEST = Threshold(
    "late_variance.fewest",
    6,
    2,
    math.inf,
    "complete trials; of fewer, their spread is not known to better than a third",
)

SCHEDULE, END_FACTOR = "schedule", "hparams.end_factor"
DEFAULT_SCHEDULE = "cosine"  # of the playbook's two defaults the one that the configs here have

QUESTION = "Do evaluations scatter late in training?"
SECTION = "Examining the training curves"
PLAYBOOK = ("late-variance",)
FIGURES = ("training-curves",)


def check(study: Study) -> list[Finding]:
    """Returns how the late scatter of the best trials compares with the differences between trials.

    Source: playbook, "Examining the training curves": high step-to-step variance late in training hides
    differences between scientific values, and the best trial's luck cannot be repeated.
    """
    if len(_competing(study)) < FEWEST.of(study):
        number = formatting.plural(len(_competing(study)), "complete trial")
        return [_finding(CANNOT_TELL, f"{number}: too few to know how far trials lie apart.")]
    scatters = {t.number: late_scatter(study, t) for t in curves.compared(study)}
    known = {number: value for number, value in scatters.items() if math.isfinite(value)}
    if not known:
        text = f"The best trials have fewer than {curve_shapes.FEWEST} evaluations each."
        return [_finding(CANNOT_TELL, text)]
    scatter, spread = float(np.median(list(known.values()))), between(study)
    if max(spread, scatter) <= 1e-9 * abs(study.best.objective):  # rounding
        return [_finding(CANNOT_TELL, "The better half of the trials came to the same objective.")]
    part = scatter / spread if spread else math.inf
    evidence = (
        f"From one late evaluation to the next the {formatting.metric_label(study.metric)} scatters by "
        f"{formatting.metric(study.metric, scatter)} (standard deviation, median over "
        f"{formatting.trials(list(known))}).",
        f"The better half of the {len(_competing(study))} complete trials lie "
        f"{formatting.metric(study.metric, spread)} apart (standard deviation): the scatter is "
        f"{formatting.percent(part) if spread else 'more'} of that.",
    )
    trials = tuple(known)
    if part < LOOK_PART.of(study):
        return [
            _finding(
                FINE, "Late evaluations scatter less than trials differ.", evidence, "", trials
            )
        ]
    answers = {
        LOOK: "Late evaluations scatter nearly as much as the better trials differ.",
        ACT: "Late evaluations scatter as much as the better trials differ: their order is luck.",
    }
    verdict = ACT if part >= ACT_PART.of(study) else LOOK
    proposals = decay(study, sure=verdict == ACT)
    return [_finding(verdict, answers[verdict], evidence, _remedies(study), trials, proposals)]


def _competing(study: Study) -> list[Trial]:
    """Returns the complete trials that learned something, the best first; all where none did."""
    return study.learned or study.ranked


def late_scatter(study: Study, trial: Trial) -> float:
    """Returns the scatter of a trial's objective in the second half; NaN where too little is known."""
    curve = curves.validation(study, trial)
    if curve is None or len(curve) < curve_shapes.FEWEST:
        return math.nan
    return curve_shapes.scatter(curve.values)


def between(study: Study) -> float:
    """Returns the standard deviation of the objectives of the better half of the complete trials."""
    costs = study.costs(_competing(study))
    return float(np.std(costs[: max(3, math.ceil(COMPETING.of(study) * len(costs)))], ddof=1))


def decay(study: Study, sure: bool) -> tuple[Proposal, ...]:
    """Returns a schedule under which the best trial's learning rate would end at zero, if it does not."""
    if best_step.decays_to_zero(study, study.best):
        return ()
    if study.value(study.best, SCHEDULE) in best_step.DECAYING:
        return (Proposal(SET, END_FACTOR, 0.0, sure=sure),)
    return (Proposal(SET, SCHEDULE, DEFAULT_SCHEDULE, sure=sure),)


def _remedies(study: Study) -> str:
    """Returns what to try, what the study does not have yet first."""
    ways = []
    if not best_step.decays_to_zero(study, study.best):
        ways.append("a learning rate that decays")
    if not study.base("hparams.polyak_decay"):
        ways.append("the average of the parameters (polyak_decay)")
    ways += ["more validation data", "a larger batch"]
    return f"Try {formatting.join(ways, 'or')}."


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "Each trial is then judged by a lucky or an unlucky step, and the best one's result may not "
        "be had again. The usual causes are the examples that happen to be in a batch, a small "
        "validation set, and a learning rate that is too high late in training."
    ),
    figures=FIGURES,
    playbook=PLAYBOOK,
).finding
