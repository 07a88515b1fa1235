"""Can the training set be fit? If not, regularization will hardly help."""

import dataclasses

import numpy as np

from playbook_jax.analysis.data import curves, formatting
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK, Finding, Question

ORDER = 52

NO_GAP = Threshold(
    "training_fit.no_gap",
    0.8,
    0,
    10,
    "validation is hardly worse than training where training has this part of its error: what "
    "is left to gain is in training, not in the gap that regularization closes",
)
FIT = Threshold(
    "training_fit.fit",
    0.01,
    0,
    1,
    'a training error rate below this is "fit" all the same; the playbook means a '
    "misclassification of zero or so",
)
LATE = (
    5  # the last so many evaluations, of which the median is taken: a sample of training scatters
)

QUESTION = "Is the training set fit?"
SECTION = "Round 1"
PLAYBOOK = ("training-set-not-fit",)


@dataclasses.dataclass(frozen=True)
class Gap:
    """A trial's errors at the end of training, both as costs."""

    trial: int
    train: float
    validation: float

    def closed(self, study: Study) -> bool:
        """Says whether validation is hardly worse than training, though that is far from fit."""
        return self.train > FIT.of(study) and self.train >= NO_GAP.of(study) * self.validation


def check(study: Study) -> list[Finding]:
    """Returns whether the best trials are held back by training rather than by generalization.

    Source: playbook, "Round 1" of compute-bound training: if it is not possible to fit the training set,
    regularization will hardly help.
    """
    gaps = [gap for t in study.contenders if (gap := measure(study, t)) is not None]
    if not gaps:
        text = (
            "Training was not evaluated beside validation."
            if study.ranked
            else "No trial is complete."
        )
        return [_finding(CANNOT_TELL, text)]
    kind = formatting.metric_label(study.metric.rsplit("/", 1)[-1])
    name, told = study.metric, []
    for gap in gaps:
        train, validation = (
            formatting.metric(name, _back(study, value)) for value in (gap.train, gap.validation)
        )
        told.append(f"trial {gap.trial}: {train} in training, {validation} in validation")
    evidence = (formatting.sentence(f"{kind} at the end, {'; '.join(told)}"),)
    trials = tuple(gap.trial for gap in gaps)
    part = float(np.median([gap.train / gap.validation if gap.validation else 0 for gap in gaps]))
    if sum(gap.closed(study) for gap in gaps) > len(gaps) / 2:
        text = "The best trials do not fit the training set: it is hardly easier than validation."
        action = (
            "Do not expect regularization to help. Train longer or better, or use a larger model, and take "
            "regularization away."
        )
        return [_finding(LOOK, text, evidence, action, trials)]
    fit = [gap for gap in gaps if gap.train <= FIT.of(study)]
    text = (
        "The best trials fit the training set."
        if len(fit) > len(gaps) / 2
        else f"Training has {formatting.percent(part)} of the error of validation: there is a gap that "
        "regularization can close."
    )
    return [_finding(FINE, text, evidence, trials=trials)]


def measure(study: Study, trial: Trial) -> Gap | None:
    """Returns a trial's errors at its end, or None where one of them is not known or is no error."""
    kind = study.metric.rsplit("/", 1)[-1]
    pair = [
        curves.of(study, trial, f"{split}{kind}") for split in (curves.TRAIN, curves.VALIDATION)
    ]
    if None in pair:
        return None
    train, validation = (float(np.median(curve.values[-LATE:])) for curve in pair)
    return Gap(trial.number, train, validation) if min(train, validation) >= 0 else None


def _back(study: Study, cost: float) -> float:
    return 1 - cost if study.metric.endswith("accuracy") else cost


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "Where a model can't fit even the training set, regularization is unlikely to help: it trades "
        "training error for less of a gap, and there is no gap."
    ),
    figures=("training-curves",),
    playbook=PLAYBOOK,
).finding
