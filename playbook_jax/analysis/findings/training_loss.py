"""Does the training loss rise in the course of training?"""

import dataclasses

from playbook_jax.analysis.data import curves, formatting
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, Finding, Question
from playbook_jax.analysis.stats import curve_shapes

ORDER = 25
OF_FAILURES = True  # of trials that learned nothing, too

CHANCE = Threshold(
    "training_loss.chance",
    0.01,
    0,
    1,
    "that a flat loss seems to rise so far",
)
SMALLEST = Threshold(
    "training_loss.smallest",
    0.1,
    0,
    1,
    "a rise counts from this part of what the loss has fallen before: less is a learning rate "
    "that lets the loss wander, and no bug",
)
MANY = Threshold(
    "training_loss.many",
    0.5,
    0,
    1,
    "where a smaller part of the trials rise, it is what their learning rates do to them; a "
    "bug would do it to all",
)
FEWEST = 3  # trials, of which a part is judged

QUESTION = "Does the training loss rise?"
SECTION = "Examining the training curves"
PLAYBOOK = ("training-loss-rises-on-the-way",)
FIGURES = ("training-curves",)


@dataclasses.dataclass(frozen=True)
class Rise:
    """How a trial's training loss ends above its lowest: by what part of what it had fallen."""

    trial: int
    part: float
    step: int
    rises: bool


def check(study: Study) -> list[Finding]:
    """Returns whether the training loss of the best trials, or of most trials, rises.

    A loss that ends above where it began makes a trial infeasible already.

    Source: playbook, "Examining the training curves": a training loss that increases during training
    usually indicates a bug in the training pipeline.
    """
    measured = [r for t in study.learned if (r := measure(study, t)) is not None]
    if not measured:
        text = "No training loss was recorded." if study.learned else "No trial is complete."
        return [_finding(CANNOT_TELL, text)]
    rising = [r for r in measured if r.rises]
    leaders = {t.number for t in study.leaders}
    best = [r for r in rising if r.trial in leaders]
    many = len(measured) >= FEWEST and len(rising) >= MANY.of(study) * len(measured)
    judged = formatting.count(len(measured))
    if not (best or many):
        text = "The training loss of the best trials falls, or stays where it has fallen to."
        evidence = [_told(rising, len(measured))] if rising else []
        return [_finding(FINE, text, evidence, trials=tuple(r.trial for r in rising))]
    verdict = ACT if many else LOOK
    answer = (
        f"The training loss rises again in {formatting.share(len(rising), len(measured))} trials."
        if many
        else f"The training loss rises again in {formatting.trials([r.trial for r in best])}, of the best "
        f"few of {judged}."
    )
    action = (
        "Suspect a bug in the training pipeline: look at the order of the data, the schedule, the loss."
        if many
        else "Look at the training curves: a learning rate that is too high late, or a bug."
    )
    told = [_told(rising if many else best, len(measured))]
    return [_finding(verdict, answer, told, action, tuple(r.trial for r in rising))]


def measure(study: Study, trial: Trial) -> Rise | None:
    """Returns how a trial's training loss rises, or None where too little was recorded."""
    curve = curves.loss(trial)
    if curve is None or len(curve) < curve_shapes.FEWEST:
        return None
    risen, chance, lowest = curve_shapes.rise(curve.values)
    smoothed = curve_shapes.smooth(curve.values)
    fallen = float(max(curve.values[0], smoothed[0]) - smoothed.min())
    part = risen / fallen if fallen > 0 else 0.0
    return Rise(
        trial.number,
        part,
        int(curve.steps[lowest]),
        bool(part >= SMALLEST.of(study) and chance <= CHANCE.of(study)),
    )


def _told(rising: list[Rise], measured: int) -> str:
    rising = sorted(rising, key=lambda r: -r.part)
    told = [
        f"trial {r.trial} gives back {formatting.percent(r.part)} of what it had fallen by step "
        f"{formatting.count(r.step)}"
        for r in rising[:4]
    ]
    more = f", and {len(rising) - 4} more" if len(rising) > 4 else ""
    return formatting.sentence(
        f"Of {formatting.plural(measured, 'trial')}: {'; '.join(told)}{more}"
    )


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "A training loss that increases in the course of training usually indicates a bug in the "
        "training pipeline."
    ),
    figures=FIGURES,
    playbook=PLAYBOOK,
).finding
