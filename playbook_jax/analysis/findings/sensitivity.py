"""Which hyperparameters explain the objective, and which are within noise?

Over 200 simulated studies of four hyperparameters, where one or all of them have effects of three times the
noise or none has: something was said to matter that does not in at most 5 % (20 and 100 trials), and what
matters was called noise in 4 % at most. 100 trials recognise such an effect always, 20 trials 7 times in 10
(1 in 2 where it is a bowl and others matter as well), and else say that they cannot tell.
"""

from typing import Any

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.hyperparameters import LOW, SIDES, Hyperparameter
from playbook_jax.analysis.data.proposals import NARROW, SET, Proposal
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, Finding
from playbook_jax.analysis.stats import feasible, gains, in_force, sensitivity
from playbook_jax.analysis.stats.sensitivity import Effect, Sensitivity
from playbook_jax.studies.space.search_space import Range

ORDER = 95  # an insight beyond the checklist, before the study's own question

MOST_KEPT = Threshold(
    "sensitivity.most_kept",
    0.6,
    0,
    1,
    "of an axis that is worth narrowing",
)
SHOWN = 8  # hyperparameters that are described

QUESTION = "Which hyperparameters matter?"

SECTION = "Exploration vs exploitation"
PLAYBOOK = ("what-matters",)
FIGURES = ("sensitivity-effects",)


def check(study: Study) -> list[Finding]:
    """Returns what the hyperparameters explain of the objective, as far as the trials tell.

    Source: playbook, "Exploration vs exploitation": identify the hyperparameters to which the error is most
    sensitive, those that interact and are to be tuned again together, and those that can be fixed.
    """
    axes = sensitivity.varying(study)
    if not axes:
        text = "No hyperparameter differs between the trials that learned."
        return [_finding(CANNOT_TELL, text if study.learned else "No trial is complete.")]
    found = sensitivity.analyze(study)
    if found is None:
        return [_finding(CANNOT_TELL, _too_few(study, len(axes)))]
    if not found.told:
        return [
            _finding(CANNOT_TELL, "What varies explains nothing of the objective.", _blind(found))
        ]
    evidence = [_quality(study, found), *(_describe(study, e) for e in found.effects[:SHOWN])]
    evidence += [_describe_pair(pair) for pair in found.pairs]
    return [_finding(FINE, _answer(study, found), evidence, _proposals(study, found))]


def _too_few(study: Study, number: int) -> str:
    trials, needed = len(study.learned), sensitivity.needed(study)
    if trials >= needed:
        return "The complete trials came to almost the same objectives."
    return (
        f"{formatting.plural(trials, 'complete trial')} cannot tell "
        f"{formatting.plural(number, 'hyperparameter')} apart: it takes {needed}."
    )


def _blind(found: Sensitivity) -> list[str]:
    return [
        f"A surface fitted to {found.trials} trials predicts "
        + (
            f"{formatting.percent(found.quality)} of the variation between trials that it has not seen"
            if found.quality > 0
            else "trials that it has not seen no better than their mean does"
        )
        + f"; as good a fit comes by chance with probability {formatting.probability(found.chance)}.",
        "Either nothing in this space makes more difference than noise, or so few trials do not show what "
        "does.",
    ]


def _answer(study: Study, found: Sensitivity) -> str:
    matter = [e.hyperparameters[0].label for e in found.effects if e.matters and not e.noise]
    noise = [e.hyperparameters[0].label for e in found.effects if e.noise]
    if not matter:
        text = (
            "What varies explains the objective together; no hyperparameter clearly does by itself"
        )
    else:
        verb = "matters" if len(matter) == 1 else "matter"
        text = f"{formatting.some(matter, 5)} {verb}"
    if noise:
        text += f"; {formatting.some(noise, 5)} {'is' if len(noise) == 1 else 'are'} within noise"
    deciding = [h.label for h in study.hyperparameters if h.name in feasible.deciding(study)]
    if deciding:
        text = (
            f"Among the trials that train, {text[0].lower() if not matter else text[0]}{text[1:]}; whether "
            f"a trial trains depends on {formatting.some(deciding, 3)}"
        )
    return f"{text}."


def _quality(study: Study, found: Sensitivity) -> str:
    seen = (
        f"{formatting.percent(found.quality)} of the variation between trials that it has not seen"
    )
    if found.quality <= 0:
        seen = "trials that it has not seen no better than their mean: what is told here, single axes tell"
    text = (
        f"A surface fitted to {found.trials} trials predicts {seen} (each left out once, in ranks)"
    )
    failures = len(study.failures)
    if failures:
        are = "is" if failures == 1 else "are"
        text += f"; {formatting.plural(failures, 'trial')} that failed {are} left out"
    return f"{text}."


def _describe(study: Study, effect: Effect) -> str:
    (h,) = effect.hyperparameters
    share = f"{h.label} explains {formatting.percent(effect.share)} of it"
    by_chance = f"by chance {formatting.probability(effect.chance)}"
    if effect.noise:
        value = study.best.parameters.get(h.name)
        fixed = (
            f", and it can be fixed, at {formatting.value(value)} as in the best trial"
            if h.role == "nuisance" and value is not None and _fixable(study, effect)
            else ""
        )
        why = (
            f"noise: at most {formatting.number(effect.lost, 2)} standard deviations of it are lost as in "
            f"the best trial ({formatting.percent(gains.LEVEL)} sure)"
        )
        if study.retrain is not None and effect.size is not None:
            why = (
                f"replicate noise: over its range the objective changes by "
                f"{formatting.metric(study.metric, effect.size)}, and {study.retrain.name} trained again "
                f"scatters by {formatting.metric(study.metric, study.retrain.sd)}"
            )
        return f"{h.label} is within {why}{fixed}.{_decides(study, effect)}"
    if not effect.matters:
        may = (
            "among the trials that train it may matter or not"
            if study.failures
            else "it may matter or not"
        )
        return f"{share}, {by_chance}: {may}.{_decides(study, effect)}"
    best = ""
    beyond = _failing_side(study, h, effect.best)
    if beyond:
        best = f"; better towards {'small' if beyond == LOW else 'large'} values, up to where training fails"
    elif effect.best is not None and isinstance(h.space, Range):
        best = f"; best about {formatting.number(h.value(effect.best), 2)}"
        bounds = _narrowed(study, effect)
        if bounds:
            low, high = map(formatting.value, bounds)
            best += f", so that {low} to {high} would be space enough"
    return f"{share}, {by_chance}{best}."


def _decides(study: Study, effect: Effect) -> str:
    """Returns that whether training works at all depends on a hyperparameter, where it does."""
    (h,) = effect.hyperparameters
    if h.name not in feasible.deciding(study):
        return ""
    return " But it decides whether training works."


def _describe_pair(pair: Effect) -> str:
    return (
        f"{pair.label}, together: {formatting.percent(pair.share)} more, by chance "
        f"{formatting.probability(pair.chance)}. The best value of the one depends on the other: tune both, "
        "or neither."
    )


def _fixable(study: Study, effect: Effect) -> bool:
    """Says whether a hyperparameter can be fixed: not one on which it depends whether training works."""
    (h,) = effect.hyperparameters
    decides = h.name in feasible.deciding(study)
    return effect.noise and not decides and not in_force.why(study, h.name)


def _proposals(study: Study, found: Sensitivity) -> tuple[Proposal, ...]:
    """Returns what could be fixed; whether it should be is for the reader to say."""
    best, proposals = study.best.parameters, []
    for effect in found.effects:
        (h,) = effect.hyperparameters
        if h.role != "nuisance":
            continue
        if _fixable(study, effect) and h.name in best:
            proposals.append(Proposal(SET, h.name, _rounded(best[h.name]), sure=False))
        elif (bounds := _narrowed(study, effect)) is not None:
            proposals.append(Proposal(NARROW, h.name, bounds, sure=False))
    return tuple(proposals)


def _narrowed(study: Study, effect: Effect) -> tuple[float | int, float | int] | None:
    """Returns bounds around the good part of a range that matters, where that leaves out a good deal.

    No bound lies beyond the last trial that trained, where others beyond it failed.
    """
    (h,) = effect.hyperparameters
    if not effect.matters or effect.good is None or not isinstance(h.space, Range):
        return None
    if any(_failing_side(study, h, place) for place in (effect.best, *effect.good)):
        return None  # where training fails is what the other question says
    low, high = effect.good
    if high - low > MOST_KEPT.of(study):
        return None
    bounds = []
    for side, place in zip(SIDES, effect.good, strict=True):
        inside = None if _open(study, h, side, place) else feasible.inward(h, place, side)
        bounds.append(h.bound(side) if inside is None else inside)
    return (bounds[0], bounds[1]) if bounds[0] < bounds[1] else None


def _failing_side(study: Study, h: Hyperparameter, place: float | None) -> str:
    """Returns the side on which a place lies in an end where training fails; empty where it does not."""
    for end, wish in feasible.narrowing(study):
        beyond = place is not None and (place - end.edge) * (-1 if end.side == LOW else 1) > 1e-9
        if wish.name == h.name and beyond:
            return end.side
    return ""


def _open(study: Study, h: Hyperparameter, side: str, place: float) -> bool:
    """Says whether the good part reaches the last trial that trained, and none beyond it failed."""
    turn = -1 if side == LOW else 1
    trained, failures = (
        [turn * h.unit(t.parameters.get(h.name)) for t in trials if h.name in t.parameters]
        for trials in (study.learned, study.failures)
    )
    last = max(trained, default=0.0)
    return turn * place >= last - 1e-9 and not any(f > last for f in failures)


def _rounded(value: Any) -> Any:
    return float(formatting.number(value)) if isinstance(value, float) else value


def _finding(
    verdict: str,
    answer: str,
    evidence: list[str] | None = None,
    proposals: tuple[Proposal, ...] = (),
) -> Finding:
    return Finding(
        question=QUESTION,
        verdict=verdict,
        answer=answer,
        evidence=tuple(evidence or ()),
        advice=(
            "What is within noise can be fixed, which leaves more trials for the rest. It holds in this "
            "space only, and the more it interacts with what is asked about, the less a comparison means."
            if proposals
            else ""
        ),
        section=SECTION,
        figures=FIGURES if evidence and verdict == FINE else (),
        playbook=PLAYBOOK,
        proposals=proposals,
    )
