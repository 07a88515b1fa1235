"""Does the learning rate decay?

Over 200 simulated studies of 20 trials with a constant rate, the verdict ACT came in 4 % where late
evaluations scatter a third as much as the trials differ, and was missed in 7 % where they scatter as much
(100 trials: 1 % and none); benchmarks/findings.py measures it.
"""

import dataclasses
import math

from playbook_jax import config as config_lib
from playbook_jax.analysis.data import formatting
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
    late_variance,
)

ORDER = 54  # before the scatter late in training, which it may explain

LEAST = Threshold(
    "decay.least",
    0.5,
    0,
    1,
    "a learning rate that ends above this part of its peak hardly decays: the usual schedules end at a "
    "tenth or at zero",
)

QUESTION = "Does the learning rate decay?"
SECTION = "What is the best learning rate decay schedule family?"
PLAYBOOK = ("simple-schedules", "default-decay")
FIGURES = ("training-curves",)


def check(study: Study) -> list[Finding]:
    """Returns whether the best trials have a constant learning rate, and what their curves say of that.

    A constant rate is right to begin with, and a look is all it calls for, until late evaluations scatter
    so much that a lower rate late in training would change what is chosen.

    Source: playbook, "What is the best learning rate decay schedule family?" (some schedule that is not
    constant matters, and tuning it), "Examining the training curves" (late variance: a rate that is too
    high late; the remedies) and "Choosing the initial configuration" (begin with a constant rate).
    """
    if not study.learned:
        text = (
            "No trial that is complete has learned anything."
            if study.ranked
            else "No trial is complete."
        )
        return [_finding(CANNOT_TELL, text)]
    if study.base(late_variance.SCHEDULE) is None:
        return [_finding(CANNOT_TELL, "The study's config names no schedule.")]
    leaders = [t for t in study.leaders if not t.unlearned]
    ends = {t.number: remaining(study, t) for t in leaders}
    known = {number: part for number, part in ends.items() if part is not None}
    if not known:
        return [
            _finding(
                CANNOT_TELL,
                f"Where the schedule {study.base(late_variance.SCHEDULE)} ends is not known.",
            )
        ]
    told = [f"{formatting.percent(part)} in trial {number}" for number, part in known.items()]
    evidence = [
        f"At the end of the run the learning rate is, of its peak: {formatting.join(told)}."
    ]
    flat = [number for number, part in known.items() if part > LEAST.of(study)]
    if known.get(leaders[0].number, 0.0) <= LEAST.of(study) or 2 * len(flat) <= len(known):
        return [_finding(FINE, "The learning rate of the best trials decays.", evidence)]
    return [_constant(study, evidence, tuple(flat))]


def remaining(study: Study, trial: Trial) -> float | None:
    """Returns the last learning rate of a trial as a part of its peak, or None for an unknown schedule."""
    schedule = study.value(trial, late_variance.SCHEDULE)
    steps = study.base("max_train_steps", trial.step)
    timescale = study.value(
        trial, "hparams.rsqrt_timescale", config_lib.HPARAM_DEFAULTS["rsqrt_timescale"]
    )
    if schedule in best_step.DECAYING:
        return float(study.value(trial, late_variance.END_FACTOR, 0.0))
    if schedule == "rsqrt" and timescale > 0:
        return math.sqrt(timescale / (timescale + steps))
    return 1.0 if schedule == "constant" else None


def _constant(study: Study, evidence: list[str], trials: tuple[int, ...]) -> Finding:
    (variance,) = late_variance.check(study)
    scatters = variance.verdict in (ACT, LOOK)
    evidence += variance.evidence if variance.verdict != CANNOT_TELL else [variance.answer]
    schedule = study.value(study.best, late_variance.SCHEDULE)
    kind = "is constant" if schedule == "constant" else f"hardly decays ({schedule})"
    text = f"The learning rate {kind}"
    text += (
        ", and late evaluations scatter, as under a rate that is too high late in training."
        if scatters
        else "; its evaluations do not show yet that it is too high late in training."
    )
    if not scatters and variance.verdict == CANNOT_TELL:
        text = f"The learning rate {kind}; whether it is too high late in training cannot be seen."
    (proposal,) = late_variance.decay(study, sure=scatters)
    reason = (study.specification.get("fixed_reasons") or {}).get(late_variance.SCHEDULE)
    if reason:
        evidence.append(f"It was chosen so: {reason}.")
        proposal = dataclasses.replace(proposal, sure=False)
    what = (
        f"end_factor {proposal.value:g}"
        if proposal.name == late_variance.END_FACTOR
        else proposal.value
    )
    action = f"Try a learning rate that decays to zero ({what}), and tune the learning rate anew with it."
    return _finding(ACT if scatters else LOOK, text, evidence, action, trials, (proposal,))


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "A constant rate is the right one to begin with. But different learning rates work best at "
        "different times, so that some schedule that is not constant, and its tuning, matters: linear or "
        "cosine decay by default. A rate that is too high late in training shows in evaluations that "
        "scatter from one to the next."
    ),
    open_question="Which family of schedules is best is an open problem.",
    figures=FIGURES,
    playbook=PLAYBOOK,
).finding
