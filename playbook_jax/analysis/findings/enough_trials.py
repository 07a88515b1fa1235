"""Are there enough trials: how many are in the good region, and what would more of them give?"""

import math

import numpy as np

from playbook_jax.analysis.data import curves, formatting
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK, Finding, Question
from playbook_jax.analysis.stats import best_of, curve_shapes

ORDER = 35

NOISES = Threshold(
    "enough_trials.noises",
    2.0,
    0,
    100,
    "a trial is in the good region if it is worse than the best by no more than so many "
    "standard deviations of its retrain noise, or where that is not known of one evaluation: "
    "trained again, the best one would come out as far off",
)
PART = Threshold(
    "enough_trials.part",
    0.02,
    0,
    1,
    "where no noise is known, or it is zero: this part of the best value",
)
GOOD = Threshold(
    "enough_trials.good",
    3,
    1,
    math.inf,
    "trials in the good region that are enough: as many as the playbook's figures star, so "
    "that the best is not alone by luck",
)
FEWEST = 5  # complete trials, of which one can be apart from the others

QUESTION = "Have enough trials been run?"
SECTION = "Not sampling enough points in the search space"
PLAYBOOK = ("points-in-the-good-region", "best-of-k-box-plots")
FIGURES = ("best-of-k",)


def check(study: Study) -> list[Finding]:
    """Returns how many trials lie in the good region, and what half and twice as many would give.

    Source: playbook, "Not sampling enough points in the search space": since it is so hard to know, sample
    what you can afford and get a sense of how many points are in the good region.
    """
    if study.is_replicates:
        return [
            _finding(FINE, "All trials are runs of one configuration: there is no space to sample.")
        ]
    whole, study = study, study.drawn
    number = len(study.learned)
    if number < FEWEST:
        text = f"{formatting.plural(number, 'complete trial')}: too few to tell a good region."
        more = "" if study.unfinished or not number else _more(whole)
        return [_finding(CANNOT_TELL, text if number else "No trial is complete.", action=more)]
    costs, width = study.costs(study.learned), tolerance(whole)
    edge = whole.costs([whole.best])[0] + width
    good = [t.number for t, c in zip(study.learned, costs, strict=True) if c <= edge]
    named = f": {formatting.trials(good)}" if good else ""
    evidence = [
        f"Within {formatting.metric(study.metric, width)}{_measured(study)} of the best "
        f"{formatting.metric_label(study.metric)} lie {formatting.count(len(good))} of "
        f"{formatting.count(number)} complete trials{named}.",
        *_baseline(whole),
        _growth(study),
    ]
    ended = len(study.ended)
    if len(good) >= GOOD.of(study):
        text = f"{formatting.count(len(good))} trials of {formatting.count(ended)} are in the good region."
        return [_finding(FINE, text, evidence, trials=tuple(good))]
    if not good:
        text = f"None of {formatting.count(ended)} trials that were drawn comes near the baseline."
        return [_finding(LOOK, text, evidence, "" if whole.unfinished else _more(whole))]
    alone = f"Only {formatting.trials(good)} of {formatting.count(ended)}"
    text = f"{alone} {'is' if len(good) == 1 else 'are'} in the good region: it is hardly sampled."
    action = "" if study.unfinished else _more(whole)
    return [_finding(LOOK, text, evidence, action, tuple(good))]


def tolerance(study: Study) -> float:
    """Returns by how much a trial may be worse than the best and still be in the good region."""
    if study.retrain is not None and study.retrain.sd > 0:
        return NOISES.of(study) * study.retrain.sd
    found = [curves.validation(study, trial) for trial in curves.compared(study)]
    known = [curve_shapes.noise(c.values) for c in found if c and len(c) >= curve_shapes.FEWEST]
    noise = NOISES.of(study) * float(np.median(known)) if known else 0.0
    return noise or PART.of(study) * abs(study.best.objective)


def draws(study: Study) -> tuple[np.ndarray, int]:
    """Returns the costs of the trials that trained, ascending, and how many failed to.

    Without the baseline, which was not drawn.
    """
    study = study.drawn
    return study.costs(study.learned), len(study.failures)


def _measured(study: Study) -> str:
    if study.retrain is None or not study.retrain.sd:
        return ""
    return f" ({formatting.number(NOISES.of(study))} standard deviations of the retrain noise)"


def _baseline(study: Study) -> list[str]:
    """Returns where the baseline stands among the trials."""
    if study.baseline not in study.ranked:
        return []
    better = study.ranked.index(study.baseline)
    shown = formatting.metric(study.metric, study.baseline.objective)
    told = (
        f"{formatting.count(better)} of {formatting.count(len(study.ranked) - 1)} others are better"
    )
    return [
        f"Not counted: trial 0 is the baseline and was not drawn; it came to {shown}, and "
        f"{told if better else 'no other trial is better'}."
    ]


def _growth(study: Study) -> str:
    costs, failures = draws(study)
    growth = best_of.growth(costs, failures)
    metric = study.metric
    sign = -1 if study.maximize else 1
    number = len(costs) + failures
    return (
        f"The best of half as many trials is {formatting.metric(metric, sign * growth.half)} on average, of "
        f"all {formatting.count(number)} it is {formatting.metric(metric, sign * growth.best)}; twice as "
        f"many would gain about {formatting.metric(metric, growth.gain)} more, if they go on as they did."
    )


def _more(study: Study) -> str:
    number = formatting.count(2 * len(study.trials))
    return (
        f"Run more trials ({study.more_trials(number)}), shrink the search space around the best, or ask for "
        "less."
    )


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "More trials are always better, and cost more: sample what you can afford, and look at the axes "
        "for how many points lie in the good region. Where there are too few, run more or be less "
        "ambitious."
    ),
    open_question=(
        "Whether a space has been sampled densely enough is very difficult to know, the playbook says."
    ),
    figures=FIGURES,
    playbook=PLAYBOOK,
).finding
