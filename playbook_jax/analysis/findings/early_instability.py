"""Is training unstable in its first steps, where evaluations do not look?"""

import dataclasses
import math

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, Finding, Question
from playbook_jax.analysis.stats import stability_fixes

ORDER = 12

EARLY = Threshold(
    "early_instability.early",
    500,
    20,
    math.inf,
    "steps that count as early: the playbook's own check is \"an abbreviated run of just ~500 "
    'steps"',
)
PART = 0.5  # of a run, at most: what comes later is not early
WIDTH = 5  # steps over which the loss is smoothed: the playbook's Figure 5 recovers within ten
FEWEST = 20  # steps
ERRORS = Threshold(
    "early_instability.errors",
    9.0,
    0,
    1000,
    "how far the smoothed loss must rise above its lowest so far, in standard errors: over "
    "500 steps of noise the largest such rise is 5 or 6",
)
LOOK_PART = Threshold(
    "early_instability.look_part",
    0.2,
    0,
    1000,
    "a rise worth a look, in parts of the first loss",
)
ACT_PART = Threshold(
    "early_instability.act_part",
    1.0,
    0,
    1000,
    "a rise to be mended; the playbook's Figure 5 shows one to twenty times the first loss",
)

QUESTION = "Is training unstable early on?"
SECTION = "Identifying unstable workloads"
PLAYBOOK = ("early-instability-between-evaluations",)
FIGURES = ("gradient-norms",)


@dataclasses.dataclass(frozen=True)
class Bump:
    """How the loss rises early and recovers.

    Attributes:
      trial: its number.
      step: where the smoothed loss is highest above what it had been.
      part: by how much, in parts of the first loss.
      first: the first loss.
      peak: the smoothed loss at that step.
      hidden: whether no evaluation was made before that step, or within the bump.
      rises: whether it is more than scatter, and enough to matter.
    """

    trial: int
    step: int
    part: float
    first: float
    peak: float
    hidden: bool
    rises: bool


def check(study: Study) -> list[Finding]:
    """Returns whether the loss of the best trials rises in the first steps, and comes down again.

    Source: playbook, "Identifying unstable workloads": some models show very early instability followed
    by a recovery that results in slow but stable training, which common evaluation schedules miss.
    """
    measured = [bump for t in study.contenders if (bump := measure(study, t)) is not None]
    if not measured:
        text = "No trial is complete."
        if study.ranked:
            text = f"The best trials have no records of {FEWEST} early steps."
        return [_finding(CANNOT_TELL, text)]
    rising = [bump for bump in measured if bump.rises]
    if not rising:
        text = "The training loss of the best trials falls from the first steps on."
        return [_finding(FINE, text, trials=tuple(b.trial for b in measured))]
    evidence = [
        f"Trial {b.trial}: the loss is {formatting.number(b.first)} at first and {formatting.number(b.peak)} "
        f"at step {formatting.count(b.step)} (mean of {WIDTH} steps)"
        + (", before any evaluation." if b.hidden else ".")
        for b in rising
    ]
    text = f"The training loss rises early and recovers: {formatting.trials([b.trial for b in rising])}."
    if all(b.hidden for b in rising):
        text = f"{text[:-1]}, unseen by the evaluations."
    verdict = ACT if max(b.part for b in rising) >= ACT_PART.of(study) else LOOK
    trials = tuple(b.trial for b in rising)
    return [_finding(verdict, text, evidence, _mend(study), trials, stability_fixes.early(study))]


def measure(study: Study, trial: Trial) -> Bump | None:
    """Returns how a trial's loss rises early, or None where its steps are not known."""
    losses = trial.records.every.get("loss", np.array([]))
    early = losses[: max(FEWEST, min(EARLY.of(study), int(PART * len(losses))))]
    if len(early) < FEWEST or not np.isfinite(early).all() or early[0] <= 0:
        return None
    smoothed = np.convolve(early, np.full(WIDTH, 1 / WIDTH), mode="valid")
    first = float(early[0])
    # The first loss counts as the level where training begins: a rise may be over within a few steps.
    lowest = np.minimum.accumulate(np.minimum(smoothed, first))
    risen = smoothed - lowest
    at = int(np.argmax(risen))
    # Batches scatter in proportion to the loss, about; the median is not moved by the bump itself.
    apart = np.abs(np.diff(np.log(np.maximum(early, 1e-9 * first))))
    error = first * float(np.median(apart)) / 0.954 / np.sqrt(WIDTH)
    part = float(risen[at] / first)
    step = at + WIDTH // 2
    evaluated = trial.evaluations.get("step", np.array([]))
    return Bump(
        trial.number,
        step,
        part,
        first,
        float(smoothed[at]),
        not np.any(evaluated <= step + WIDTH),
        bool(part >= LOOK_PART.of(study) and risen[at] >= ERRORS.of(study) * error),
    )


def _mend(study: Study) -> str:
    warm = study.base("hparams.warmup_steps") or any(
        h.label == "warmup_steps" for h in study.hyperparameters
    )
    return (
        "Try longer warmup, or gradient clipping as well"
        if warm
        else "Try learning rate warmup, or gradient clipping"
    ) + ": training may then bear a larger learning rate."


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "Some models are unstable at the very beginning and recover, to train slowly but steadily; "
        "usual evaluations miss that. To check, train for 500 steps or so at twice the best learning "
        "rate, and look at every step. Against early instability, warmup is best."
    ),
    figures=FIGURES,
    playbook=PLAYBOOK,
).finding
