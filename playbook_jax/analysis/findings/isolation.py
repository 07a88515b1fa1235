"""Which value of each scientific hyperparameter is best, and is that more than luck?

Over 200 simulated studies of 20 trials, two values and four nuisance hyperparameters, noise 0.1, a
difference was told where there was none in 4 %, and where there was one of three times the noise it was
missed in 8 % (100 trials: 2 % and 1 %). Where one value is as good but harder to tune, it comes out behind
more often: tests/analysis/test_isolation.py has a short version.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from playbook_jax.analysis.data import formatting, groups
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK, Finding, retrain_noise
from playbook_jax.analysis.stats import boundary_clustering, fairness, isolation
from playbook_jax.analysis.stats.fairness import Doubt
from playbook_jax.analysis.stats.isolation import Comparison, Slice

ORDER = 100  # the study's own question comes after the checklist

CHANCE = Threshold(
    "isolation.chance",
    0.05,
    0,
    1,
    "how often a difference may be told where there is none, over all pairs of values; halved "
    "between two ways to see one: the trials as they are, and with the nuisance "
    "hyperparameters' effects taken out",
)
NOISES = Threshold(
    "isolation.noises",
    2.0,
    0,
    100,
    "a difference of two trials is within retrain noise up to so many standard deviations of the "
    "difference of two runs: trained again, the other one might be ahead",
)
_INTERVAL = f"{formatting.percent(isolation.LEVEL)} bootstrap interval"
SHOWN, COMPARED = 8, 4  # values whose best trial is described, and compared with the best of all

SECTION = "Detecting whether a change is useful with isolation plots"
PLAYBOOK = ("isolation-plot",)


def check(study: Study) -> list[Finding]:
    """Returns for each scientific hyperparameter which value is best, or why that cannot be told.

    Source: playbook, "Detecting whether a change is useful with isolation plots", and "Creating a set of
    studies" (compare by the best trial of each value).
    """
    scientific = [h for h in study.hyperparameters if h.role == "scientific"]
    if scientific:
        return [of(study, h) for h in scientific]
    if study.group is not None:
        return [_of_group(study, h) for h in study.group.hyperparameters if h.role == "scientific"]
    text = "Nothing is compared: all that varies is nuisance."
    return [Finding("Which value is best?", FINE, text, section=SECTION, playbook=PLAYBOOK)]


def _of_group(study: Study, h: Hyperparameter) -> Finding:
    """Returns what all studies of a group say; what to change in one of them, its own findings do."""
    found = of(study.group, h)
    text = f"All studies of the group {study.group.name} are compared; trials have the numbers of their own."
    return dataclasses.replace(found, evidence=(text, *found.evidence), trials=(), proposals=())


def of(study: Study, h: Hyperparameter, doubts: Sequence[Doubt] | None = None) -> Finding:
    """Returns which value of a hyperparameter is best.

    Args:
      study: the study.
      h: one of its hyperparameters.
      doubts: what makes the comparison unfair; None for what `fairness.doubts` sees in the trials.
    """
    baseline, study = _baseline(study, h), study.drawn
    parts = isolation.slices(study, h)
    compared = sorted((p for p in parts if p.complete), key=lambda p: p.costs[0])
    evidence = [_describe(study, part) for part in parts[:SHOWN]]
    if len(compared) < 2:
        text = (
            f"Of {h.label}, only {compared[0].label} has a complete trial."
            if compared
            else "No trial is complete."
        )
        return _finding(h, CANNOT_TELL, text, evidence)
    best, others = compared[0], compared[1:]
    scores = _adjusted(study, h)
    pairs = len(compared) * (len(compared) - 1) // 2
    comparisons = [isolation.compare(best, other, scores) for other in others]
    beaten = [c for c in comparisons if is_told(study, c, pairs)]
    evidence += [_compared(study, c) for c in comparisons[:COMPARED]]
    evidence += [*baseline, *_noise(study, comparisons[0]), *_untested(study, h, parts)]
    text = _answer(study, comparisons, beaten)
    doubts = fairness.doubts(study, h, parts) if doubts is None else doubts
    numbers = tuple(part.best.number for part in compared)
    if doubts:
        return _unfair(h, text, evidence, doubts, numbers)
    if not beaten:
        more = "" if study.unfinished else _more(comparisons)
        return _finding(h, CANNOT_TELL, text, evidence, more, numbers)
    return _finding(h, FINE, text, evidence, trials=numbers)


def _adjusted(study: Study, h: Hyperparameter) -> dict[int, float]:
    """Returns the trials' scores without what other hyperparameters explain; none where that is unfair.

    Where some hyperparameters are those of one value alone, taking their effects out compares the values
    in the middle of each one's space, and not at their best.
    """
    others = [other.name for other in study.hyperparameters if other is not h]
    if any(name not in t.parameters for t in study.learned for name in others):
        return {}
    field = boundary_clustering.Field(study, study.learned)
    numbers = (t.number for t in field.trials)
    return dict(zip(numbers, field.scores((h.name,)).tolist(), strict=True))


def is_told(study: Study, comparison: Comparison, pairs: int) -> bool:
    """Says whether the better of two values is better by more than luck.

    Either of two signs counts: as many of the best trials have the one value as would seldom be by chance,
    and a bootstrap sample of both seldom turns the order; or the former with the effects of the nuisance
    hyperparameters taken out.
    """
    allowed = CHANCE.of(study) / 2 / pairs
    seen = comparison.chance <= allowed and comparison.interval[0] > 0
    return comparison.gain > 0 and (seen or comparison.adjusted_chance <= allowed)


def _answer(study: Study, comparisons: list[Comparison], beaten: list[Comparison]) -> str:
    best = comparisons[0].better
    if len(comparisons) == 1:
        (c,) = comparisons
        reached = f"{_metric(study, best)} against {_metric(study, c.worse)}"
        low, high = (_gain(study, end) for end in c.interval)
        gain = f"{_gain(study, c.gain)} ({reached}; {_INTERVAL} {low} to {high})"
        if beaten:
            end = "."
            if _within_noise(study, c):
                end = (
                    ": all trials together show it; one run of each does not, within retrain noise."
                )
            return f"{best.label} beats {c.worse.label} by {gain}{end}"
        if c.gain == 0:
            return f"{best.label} and {c.worse.label} reach the same, {_metric(study, best)}."
        return f"{best.label} is ahead of {c.worse.label} by {gain}, which may be luck."
    open_ = [c.worse.label for c in comparisons if c not in beaten]
    text = f"{best.label} is best, with {_metric(study, best)}"
    if beaten:
        text += f". It beats {formatting.some([c.worse.label for c in beaten], 5)}"
        return text + (f", and cannot be told from {formatting.some(open_, 5)}." if open_ else ".")
    return f"{text}, but by no more than luck may do: it cannot be told from {formatting.some(open_, 5)}."


def _describe(study: Study, part: Slice) -> str:
    failed = f", {len(part.failures)} failed" if part.failures else ""
    tried = f"{formatting.plural(part.ended, 'trial')}{failed}"
    if part.best is None:
        return f"{part.label}: no complete trial ({tried})."
    low, high = (formatting.metric(study.metric, end) for end in part.interval)
    # The numbers of other studies' trials must not light up trials of this one.
    of_group = any(t.number >= groups.SPAN for t in study.trials)
    trial = f"{'no.' if of_group else 'trial'} {groups.number(part.best)}"
    told = f"{part.label}: {_metric(study, part)} ({trial}; {tried})"
    told += f", {_INTERVAL} {low} to {high}"
    told = "; ".join([told, *part.costs_of_a_step])
    return f"{told}."


def _compared(study: Study, c: Comparison) -> str:
    low, high = (_gain(study, end) for end in c.interval)
    text = f"{c.better.label} against {c.worse.label}: {_gain(study, c.gain)} better"
    text += f" (bootstrap {low} to {high})."
    if c.ahead:
        text += (
            f" {_bests(c.ahead)} of their {c.better.ended + c.worse.ended} trials "
            f"{'has' if c.ahead == 1 else 'have'} {c.better.label}: by chance "
            f"{formatting.probability(c.chance)}"
        )
        if c.adjusted_ahead is not None:
            text += "; with the effects of the other hyperparameters taken out, "
            text += (
                f"{_bests(c.adjusted_ahead).lower()}: {formatting.probability(c.adjusted_chance)}"
                if c.adjusted_ahead
                else "it is not ahead"
            )
        text += "."
    return text


def _within_noise(study: Study, c: Comparison) -> bool:
    """Says whether two runs of one configuration may be as far apart as the best of two values."""
    return retrain_noise.within(study, c.gain, NOISES.of(study) * math.sqrt(2))


def _noise(study: Study, c: Comparison) -> list[str]:
    """Returns how a gain compares with the retrain noise, where that is known."""
    noise = study.retrain
    if noise is None or not noise.sd or not c.gain:
        return []
    apart = math.sqrt(2) * noise.sd
    return [
        f"Two runs of one configuration are {formatting.metric(study.metric, apart)} apart (standard "
        f"deviation; {noise.name} again, {len(noise.objectives)} runs): {c.better.label} is ahead of "
        f"{c.worse.label} by {formatting.number(c.gain / apart, 2)} times that."
    ]


def _baseline(study: Study, h: Hyperparameter) -> list[str]:
    """Returns what the baseline came to, which was not drawn and is not compared."""
    if study.baseline not in study.ranked:
        return []
    shown = formatting.metric(study.metric, study.baseline.objective)
    value = study.baseline.parameters.get(h.name)
    has = f", {isolation.named(h.name, value)}," if value is not None else ""
    first = ", better than any of them" if study.baseline is study.best else ""
    return [f"Not counted: the baseline, trial 0{has} came to {shown}{first}. It was not drawn."]


def _bests(number: int) -> str:
    return "The best" if number == 1 else f"The best {number}"


def _untested(study: Study, h: Hyperparameter, parts: list[Slice]) -> list[str]:
    few = fairness.untested(study, h, parts)
    if not few:
        return []
    return [
        f"Whether the best trials of {formatting.some(few, 5)} crowd a bound of the other hyperparameters "
        "cannot be told from so few."
    ]


def _unfair(
    h: Hyperparameter,
    text: str,
    evidence: list[str],
    doubts: Sequence[Doubt],
    trials: tuple[int, ...],
) -> Finding:
    proposed = [proposal for doubt in doubts for proposal in doubt.proposals]
    proposals = tuple(p for i, p in enumerate(proposed) if p not in proposed[:i])
    found = _finding(
        h,
        LOOK,
        f"{text} But the comparison is not fair yet: {doubts[0].text}",
        [*evidence, *(doubt.text for doubt in doubts[1:])],
        " ".join(dict.fromkeys(doubt.action for doubt in doubts)),
        trials,
    )
    return dataclasses.replace(found, proposals=proposals)


def _more(comparisons: list[Comparison]) -> str:
    if comparisons[0].gain == 0:
        return "Choose by something else: the cheaper, or the simpler one."
    return (
        "Run more trials of each value (a larger num_trials), or treat them as equal and take the "
        "cheaper or simpler one."
    )


def _metric(study: Study, part: Slice) -> str:
    return formatting.metric(study.metric, part.best.objective)


def _gain(study: Study, gain: float) -> str:
    sign = "−" if gain < 0 else ""
    return sign + ("∞" if np.isinf(gain) else formatting.metric(study.metric, abs(gain)))


def _finding(
    h: Hyperparameter,
    verdict: str,
    answer: str,
    evidence: list[str],
    action: str = "",
    trials: tuple[int, ...] = (),
) -> Finding:
    return Finding(
        question=f"Which {h.label} is best?",
        verdict=verdict,
        answer=answer,
        evidence=tuple(evidence),
        action=action,
        advice=(
            "Each value is judged by its best trial, the nuisance hyperparameters optimized away. That says "
            "what so many trials find: a value that is harder to tune comes out behind. The best of many is "
            "a lucky one, too: before a change is adopted, train both bests again with other seeds, and "
            "weigh what the change costs."
        ),
        section=SECTION,
        trials=trials,
        figures=(f"isolation-{h.name}",),
        playbook=PLAYBOOK,
    )
