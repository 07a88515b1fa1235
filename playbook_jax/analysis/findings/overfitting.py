"""Does the validation error rise again while training goes on to improve?"""

import dataclasses
import math

import numpy as np

from playbook_jax.analysis.data import curves, features, formatting
from playbook_jax.analysis.data.hyperparameters import HIGH
from playbook_jax.analysis.data.proposals import ADD, EXTEND, Proposal
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, Finding, Question, boundary
from playbook_jax.analysis.stats import curve_shapes
from playbook_jax.studies.space import conditions

ORDER = 50

CHANCE = Threshold(
    "overfitting.chance",
    0.05,
    0,
    1,
    "that one of the best trials seems to overfit by its scatter alone, all together; the "
    "chance is that of flat curves, of curves that still fall it is less",
)
OTHER_CHANCE = Threshold(
    "overfitting.other_chance",
    0.02,
    0,
    1,
    "the same for any one of the other trials, which are counted: so many more must rise that "
    "it has the probability chance",
)
SMALLEST = Threshold(
    "overfitting.smallest",
    0.03,
    0,
    1,
    "a rise of less than this part of the best value is no problem: retrospective selection "
    "takes the best",
)
TRAINING_ERRORS = Threshold(
    "overfitting.training_errors",
    3.0,
    0,
    100,
    "how far training may be above where it was, in standard errors of a smoothed value, and "
    "still not rise",
)

MOST = Threshold(
    "overfitting.most",
    0.5,
    0,
    1,
    "what part of the trials that count must overfit before regularization is added without asking: where "
    "one of three was acted on, the next study got worse",
)

QUESTION = "Do trials overfit?"
SECTION = "Examining the training curves"
PLAYBOOK = ("problematic-overfitting", "overfitting-anywhere")
FIGURES = ("training-curves",)
# Search spaces for what regularizes, in the order in which the playbook names them.
KINDS = {
    "hparams.dropout_rate": {"scale": "linear", "low": 0.0, "high": 0.5},
    "hparams.label_smoothing": {"scale": "linear", "low": 0.0, "high": 0.2},
    "hparams.weight_decay": {"scale": "log", "low": 1e-5, "high": 1e-1},
}
# Hyperparameters that regularize, by what their names contain.
REGULARIZERS = (*features.REGULARIZERS, "l2")


@dataclasses.dataclass(frozen=True)
class Rise:
    """How the validation error of a trial rises again.

    Attributes:
      trial: its number.
      risen: by how much it ends above its lowest place.
      chance: the probability that scatter alone makes it seem so.
      step: where it was lowest.
      far: whether it rises far enough to matter.
      training: whether training gets worse as well: then it is not overfitting.
    """

    trial: int
    risen: float
    chance: float
    step: int
    far: bool
    training: bool

    @property
    def relevant(self) -> bool:
        """Whether it may be problematic overfitting."""
        return self.far and not self.training


def check(study: Study) -> list[Finding]:
    """Returns whether the trials that count overfit, or any others.

    Source: playbook, "Examining the training curves": problematic overfitting is a validation error that
    begins to rise during training; it is looked for in the best trial of each scientific value, and
    then in all, for selection favours trials that are regularized, by a bad learning rate even.
    """
    compared = curves.compared(study)
    rises = {t.number: measure(study, t) for t in study.learned}
    known = {number: rise for number, rise in rises.items() if rise is not None}
    best = [known[t.number] for t in compared if t.number in known]
    if not best:
        return [_unknown(study)]
    overfit = [r for r in best if r.relevant and r.chance <= CHANCE.of(study) / len(best)]
    others = [r for n, r in known.items() if n not in {b.trial for b in best}]
    suspects = [r for r in others if r.relevant and r.chance <= OTHER_CHANCE.of(study)]
    if overfit:
        return [_among_the_best(study, overfit, best, suspects)]
    if suspects and _tail(len(suspects), len(others), OTHER_CHANCE.of(study)) <= CHANCE.of(study):
        return [_among_others(study, best, suspects, len(others))]
    shaken = [r.trial for r in best if r.training and r.chance <= CHANCE.of(study) / len(best)]
    text = "The validation error does not rise again by more than its scatter."
    if shaken:
        text = (
            f"The validation error rises again in {formatting.trials(shaken)}, but training gets worse as "
            "well: that is not overfitting."
        )
    return [
        _finding(
            FINE,
            text,
            (_told(study, best),),
            trials=tuple(r.trial for r in best),
        )
    ]


def measure(study: Study, trial: Trial) -> Rise | None:
    """Returns how a trial's validation error rises again, or None where too little was recorded."""
    curve = curves.validation(study, trial)
    if curve is None or len(curve) < curve_shapes.FEWEST:
        return None
    risen, chance, lowest = curve_shapes.rise(curve.values)
    step = curve.steps[lowest]
    far = risen > SMALLEST.of(study) * abs(float(curve.values.min()))
    training = far and _training_rises(study, trial, float(step))
    return Rise(trial.number, risen, chance, int(step), far, training)


def _training_rises(study: Study, trial: Trial, step: float) -> bool:
    """Says whether training ends worse than it was at a step: then it is not overfitting."""
    curve = curves.training(study, trial)
    if curve is None or len(curve) < curve_shapes.FEWEST:
        return False
    smoothed = curve_shapes.smooth(curve.values)
    w = curve_shapes.width(len(curve))
    at = int(np.clip(np.searchsorted(curve.steps, step) - w // 2, 0, len(smoothed) - 1))
    error = curve_shapes.noise(curve.values) / math.sqrt(w)
    return bool(smoothed[-1] - smoothed[at] > TRAINING_ERRORS.of(study) * error)


def _tail(number: int, of: int, chance: float) -> float:
    """Returns the probability that as many or more of flat curves seem to rise."""
    return sum(
        math.comb(of, k) * chance**k * (1 - chance) ** (of - k) for k in range(number, of + 1)
    )


def _among_the_best(
    study: Study, overfit: list[Rise], best: list[Rise], suspects: list[Rise]
) -> Finding:
    names = formatting.trials([r.trial for r in overfit])
    evidence = [_told(study, overfit)]
    if suspects:
        evidence.append(
            f"So {'does' if len(suspects) == 1 else 'do'} {formatting.trials([r.trial for r in suspects])}."
        )
    exempt = [
        h.label for h in study.hyperparameters if h.role == "scientific" and _regularizes(h.name)
    ]
    if exempt:
        text = (
            f"Overfitting in {names}, as weak settings of {formatting.join(exempt)} make it: the study is "
            "about regularization, so that it is not held against them."
        )
        return _finding(FINE, text, tuple(evidence), trials=tuple(r.trial for r in overfit))
    if len(overfit) == len(best) == 1:
        which = "the trial that counts"
    else:
        which = f"{formatting.share(len(overfit), len(best))} trials that are compared"
    tuned = [h.label for h in study.hyperparameters if _regularizes(h.name)]
    action = (
        "Run the study again with more regularization (dropout, label smoothing or weight decay)"
    )
    if tuned:
        action = (
            f"Search stronger regularization ({formatting.join(tuned)}, or another kind as well)"
        )
    # Of scientific values each has one trial that counts, and any of them makes the comparison unfair.
    asked = any(h.role == "scientific" for h in study.hyperparameters)
    most = asked or len(overfit) > MOST.of(study) * len(best)
    proposals = _regularize(study)
    if not most:
        # One of three may be a chance: for the reader to decide.
        others = formatting.share(len(best) - len(overfit), len(best))
        evidence.append(f"Without asking nothing is changed: {others} that count do not overfit.")
        proposals = tuple(dataclasses.replace(p, sure=False) for p in proposals)
    return _finding(
        ACT if most else LOOK,
        formatting.sentence(f"The validation error rises again in {which}: {names}"),
        evidence,
        f"{action} before anything is compared.{_fewer_steps(study, overfit)}",
        tuple(r.trial for r in overfit),
        proposals,
    )


def _fewer_steps(study: Study, overfit: list[Rise]) -> str:
    """Returns advice to train for fewer steps where the lowest error comes in the first half of most runs."""
    lengths = {t.number: t.step for t in study.trials}
    places = [r.step / max(1, lengths[r.trial]) for r in overfit]
    early = [r.step for r, place in zip(overfit, places, strict=True) if place <= 0.5]
    if 2 * len(early) <= len(overfit):
        return ""
    return (
        f" Or train for fewer steps: {formatting.share(len(early), len(overfit))} have their lowest by step "
        f"{formatting.count(max(early))} of {formatting.count(max(lengths[r.trial] for r in overfit))}."
    )


def _regularize(study: Study) -> tuple[Proposal, ...]:
    """Returns stronger regularization where some is searched, else the first kind that the config has."""
    proposals = [
        Proposal(EXTEND, h.name, stronger, HIGH)
        for h in study.hyperparameters
        if _regularizes(h.name) and (stronger := boundary.extended(h, HIGH)) is not None
    ]
    if proposals:
        return tuple(proposals)
    varying = {conditions.path(h.name) for h in study.hyperparameters}
    for name, space in KINDS.items():
        now = study.base(name)
        if name in varying or not isinstance(now, int | float):
            continue
        if space["scale"] == "log" and now > space["high"] / 10:
            space = {**space, "high": 10.0 * now}
        elif now >= space["high"]:
            continue
        return (Proposal(ADD, name, space),)
    return ()


def _among_others(study: Study, best: list[Rise], suspects: list[Rise], others: int) -> Finding:
    suspects = sorted(suspects, key=lambda r: r.chance)
    expected = formatting.number(OTHER_CHANCE.of(study) * others, 2)
    return _finding(
        LOOK,
        f"The best trials do not overfit, but {formatting.share(len(suspects), others)} others do.",
        (
            _told(study, suspects),
            f"Of {formatting.count(others)} flat curves, scatter would make {expected} look so.",
            _told(study, best),
        ),
        "See in their curves and on the axes whether the best trials are those that train worse, by a "
        "small learning rate, say; if so, add regularization and tune again.",
        tuple(r.trial for r in suspects),
    )


def _told(study: Study, rises: list[Rise]) -> str:
    told = [
        f"trial {r.trial} ends {formatting.metric(study.metric, r.risen)} above its lowest, at step "
        f"{formatting.count(r.step)}"
        for r in rises[:4]
    ]
    more = f", and {len(rises) - 4} more" if len(rises) > 4 else ""
    return formatting.sentence(
        f"Smoothed {formatting.metric_label(study.metric)}: {'; '.join(told)}{more}"
    )


def _regularizes(name: str) -> bool:
    return any(part in name for part in REGULARIZERS)


def _unknown(study: Study) -> Finding:
    if not study.ranked:
        text = "No trial is complete."
    elif not study.metric.startswith(curves.VALIDATION):
        text = f"The objective, {formatting.metric_label(study.metric)}, is not of validation."
    else:
        text = f"The best trials have fewer than {curve_shapes.FEWEST} evaluations each."
    return _finding(CANNOT_TELL, text)


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "Where the best trial of some scientific value overfits, regularize before values are "
        "compared: cheap means are dropout, label smoothing, weight decay. Where only others do, "
        "selecting the best has favoured trials that something regularizes, perhaps a learning rate "
        "that hampers training."
    ),
    figures=FIGURES,
    playbook=PLAYBOOK,
).finding
