"""Do the best trials lie at a boundary of the search space?

Over 200 simulated studies of 20 trials and four hyperparameters each, noise a third of the effect, the
verdict ACT came at a wrong bound in at most 5 %, and was missed in 10 % where the optimum lies outside
the space (100 trials: 3 % and 1 %); tests/analysis/test_boundary.py repeats a short version. With the
optimum inside but in the outer fifth it comes in a third of the studies, which we count as right.
"""

import math

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.hyperparameters import HIGH, LOW, SIDES, Hyperparameter
from playbook_jax.analysis.data.proposals import EXTEND, Proposal
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, Finding, retrain_noise
from playbook_jax.analysis.stats import boundary_clustering, directions
from playbook_jax.analysis.stats.boundary_clustering import Crowd, Field
from playbook_jax.studies.space.search_space import Range

ORDER = 30

CHANCE = Threshold(
    "boundary.chance",
    0.04,
    0,
    1,
    'how often the verdict "act" may come by chance in a study, over all bounds; taking out '
    "other effects makes chance look smaller than it is by a fifth (simulation), hence not 5 "
    "%",
)
LOOK_FACTOR = Threshold(
    "boundary.look_factor",
    4.0,
    1,
    100,
    "how much weaker evidence may be to be worth a look",
)
DEPTH = Threshold(
    "boundary.depth",
    0.15,
    0,
    1,
    "the best few crowd a bound if their median lies in this outer part of the axis (and one "
    "trial's share more)",
)
OUTER = Threshold(
    "boundary.outer",
    0.1,
    0,
    0.5,
    '"close to its boundary", for the single best trial: this outer part',
)
BEST_WITHIN = Threshold(
    "boundary.best_within",
    0.25,
    0,
    1,
    "taking out other effects must not lead away from the trials that are really the best: "
    "the best one lies in this outer part,",
)
MEDIAN_WITHIN = Threshold(
    "boundary.median_within",
    1 / 3,
    0,
    1,
    "or the median of the best few in this one",
)

SECTION = "Identifying bad search space boundaries"
QUESTION = "Is the search space wide enough?"
PLAYBOOK = ("search-space-boundary",)

# Cannot go above 1, whatever their search space says. (Nothing in a config goes below 0.)
_FRACTIONS = (
    "momentum",
    "beta1",
    "beta2",
    "rho",
    "end_factor",
    "label_smoothing",
    "dropout_rate",
    "polyak_decay",
)


def check(study: Study) -> list[Finding]:
    """Returns a finding for each bound that the best trials crowd, or one that says there is none.

    Source: playbook, "Identifying bad search space boundaries": the search space is suspicious if the
    best points cluster towards its edge in some dimension.
    """
    study = study.drawn
    axes = [h for h in study.hyperparameters if h.ordered]
    if not axes:
        return [_cannot_tell("No hyperparameter that varies has an order, so none has a boundary.")]
    number = len(study.ranked)
    if not number:
        return [_cannot_tell("No trial is complete.")]
    field = Field(study)
    seen = [axis for axis in axes if _enough(field, axis, len(axes))]
    if not seen:
        return [_too_few(study, len(axes))]
    if study.ranked[0].objective == study.ranked[-1].objective:
        return [_cannot_tell(f"All {number} complete trials came to the same objective.")]
    found = []
    for axis in seen:
        for side, end in zip(SIDES, (0.0, 1.0), strict=True):
            crowd = field.crowd(directions.along(axis), end, 1 - end)
            if crowd is not None:
                verdict = judge(field, axis, end, crowd, len(axes))
                if verdict != FINE:
                    found.append(_suspicious(field, axis, side, crowd, verdict, len(axes)))
    return found or [_fine(field, axes, seen)]


def _enough(field: Field, axis: Hyperparameter, axes: int) -> bool:
    """Says whether enough trials have a hyperparameter for a crowd at a bound to be no chance."""
    weakest = LOOK_FACTOR.of(field.study) * CHANCE.of(field.study) / (2 * axes)
    return boundary_clustering.least_chance(len(_along(field, axis)[0])) <= weakest


def _along(field: Field, axis: Hyperparameter) -> tuple[list[Trial], np.ndarray]:
    """Returns the trials that have a hyperparameter, the best first, and where they lie."""
    places = field.positions(directions.along(axis))
    there = np.flatnonzero(np.isfinite(places))
    return [field.trials[i] for i in there], places[there]


def judge(field: Field, axis: Hyperparameter, end: float, crowd: Crowd, axes: int) -> str:
    """Returns ACT, LOOK or FINE for one end of one of so many axes."""
    study, distances = field.study, np.abs(_along(field, axis)[1] - end)
    allowed = CHANCE.of(study) / (2 * axes)
    crowded = crowd.chance <= allowed and crowd.depth <= DEPTH.of(study) + 1 / len(distances)
    middle = np.median(distances[: crowd.few])
    agrees = distances[0] <= BEST_WITHIN.of(study) or middle <= MEDIAN_WITHIN.of(study)
    if crowded and crowd.improving and agrees:
        return LOOK if retrain_noise.alike(study) else ACT
    hinted = crowd.chance <= LOOK_FACTOR.of(study) * allowed and crowd.depth <= 2 * DEPTH.of(study)
    return LOOK if crowded or (hinted and distances[0] <= OUTER.of(study)) else FINE


def extended(axis: Hyperparameter, side: str) -> float | int | None:
    """Returns a bound further out, or None where the hyperparameter can't go there.

    An axis grows by half its length, a logarithmic one by a decade at most: the step of the playbook's
    own sweeps. Listed values have no rule by which to go on.
    """
    if not isinstance(axis.space, Range):
        return None
    bound, space = axis.bound(side), axis.space
    widths = {
        "linear": lambda: 1.0,
        "log": lambda: math.log10(space.high / space.low),
        "one_minus_log": lambda: math.log10((1 - space.low) / (1 - space.high)),
    }
    step = min(0.5, 1 / widths[space.scale]())
    new = axis.value(1 + step if side == HIGH else -step)
    if axis.name.rsplit(".", 1)[-1] in _FRACTIONS and new >= 1:
        new = (1 + bound) / 2
    if bound >= 0:
        new = max(new, 1 if space.type == "int" and bound >= 1 else 0)
    if space.type == "int":
        new = round(float(f"{new:.2g}"))
    elif space.scale == "log":
        new = float(f"{new:.2g}")
    elif space.scale == "one_minus_log":
        new = round(1 - float(f"{1 - new:.2g}"), 12)
    else:
        new = float(formatting.number(new, 6))
    return None if new == bound else new


def _suspicious(
    field: Field, axis: Hyperparameter, side: str, crowd: Crowd, verdict: str, axes: int
) -> Finding:
    bound = formatting.value(axis.bound(side))
    verb = {ACT: "crowd", LOOK: "may crowd"}[verdict]
    return Finding(
        question=QUESTION,
        verdict=LOOK if _at_its_limit(axis, side) else verdict,
        answer=f"{axis.label}: the best trials {verb} the {side} bound, {bound}.",
        evidence=tuple(_evidence(field, axis, side, crowd, axes)),
        action=_widen(axis, side) if verdict == ACT else _look(axis, side),
        advice=(
            "Where the best points gather at an edge, still better ones may lie beyond it: widen the "
            "space on that side until the best are no longer near a bound."
        ),
        section=SECTION,
        trials=tuple(trial.number for trial in _along(field, axis)[0][: crowd.few]),
        figures=(f"axis-{axis.name}",),
        playbook=PLAYBOOK,
        proposals=_proposals(axis, side, verdict),
    )


def _proposals(axis: Hyperparameter, side: str, verdict: str) -> tuple[Proposal, ...]:
    new = extended(axis, side)
    return () if new is None else (Proposal(EXTEND, axis.name, new, side, sure=verdict == ACT),)


def _at_its_limit(axis: Hyperparameter, side: str) -> bool:
    return isinstance(axis.space, Range) and extended(axis, side) is None


def _widen(axis: Hyperparameter, side: str) -> str:
    bound, beyond = formatting.value(axis.bound(side)), "below" if side == LOW else "above"
    if _at_its_limit(axis, side):
        return (
            f"Nothing lies {beyond} {bound}: fix {axis.label} there, or sample it on a scale that "
            "spreads out the values near it."
        )
    new = extended(axis, side)
    if new is None:
        return f"Run another study that also lists values of {axis.label} {beyond} {bound}."
    low, high = (new, axis.bound(HIGH)) if side == LOW else (axis.bound(LOW), new)
    return f"Run another study with {axis.label} from {formatting.value(low)} to {formatting.value(high)}."


def _look(axis: Hyperparameter, side: str) -> str:
    action = _widen(axis, side)
    return f"Look at the plot of {axis.label}. If you see it too: {action[0].lower()}{action[1:]}"


def _evidence(field: Field, axis: Hyperparameter, side: str, crowd: Crowd, axes: int) -> list[str]:
    trials, places = _along(field, axis)
    few, number = trials[: crowd.few], len(trials)
    values = formatting.join([formatting.value(t.parameters.get(axis.name)) for t in few])
    end = 0.0 if side == LOW else 1.0
    distances = np.abs(places - end)[: crowd.few]
    others = (
        f"With the effects of the other hyperparameters taken out, the median of the best {crowd.few} is "
        f"{formatting.percent(crowd.depth)}. "
    )
    told = [
        f"The best {crowd.few} of {number} complete trials{' that have it' if '@' in axis.name else ''}, "
        f"{formatting.trials([t.number for t in few])}, have {axis.label} {values}; "
        f"the bound is {formatting.value(axis.bound(side))}.",
        f"Their distance from the bound is {formatting.percent(distances[0])} of the axis for the best one, "
        f"and {formatting.percent(np.median(distances))} in the median.",
        f"{others if field.adjusted else ''}Drawn at random, as many trials lie so close to that "
        f"bound with probability {formatting.probability(crowd.chance)}; among {2 * axes} bounds, it is "
        f"remarkable from {formatting.probability(CHANCE.of(field.study) / (2 * axes))}.",
    ]
    told += _noise(field, axis, end)
    if not crowd.improving:
        told.append(
            "But a parabola through all complete trials has its optimum before the bound, so that the "
            "space may be wide enough."
        )
    return told


def _noise(field: Field, axis: Hyperparameter, end: float) -> list[str]:
    """Returns by how much the best trial away from a bound is worse, in retrain noise where that is known."""
    study, (trials, places) = field.study, _along(field, axis)
    away = [
        t for t, place in zip(trials, places, strict=True) if abs(place - end) > 2 * DEPTH.of(study)
    ]
    if study.retrain is None or not study.retrain.sd or not away:
        return []
    lost = study.costs(away[:1])[0] - study.costs(trials[:1])[0]
    text = (
        f"The best trial away from that bound, {away[0].number}, is worse by "
        f"{formatting.metric(study.metric, lost)}, {formatting.number(lost / study.retrain.sd, 2)} standard "
        "deviations of the retrain noise"
    )
    if retrain_noise.alike(study):
        text += "; the better half of the trials differ no more than that, so that it may be luck"
    return [f"{text}."]


def _fine(field: Field, axes: list[Hyperparameter], seen: list[Hyperparameter]) -> Finding:
    number = boundary_clustering.few(len(field.trials))
    trials = [trial.number for trial in field.trials[:number]]
    evidence = [
        f"The best {number} of {len(field.trials)} complete trials, {formatting.trials(trials)}, crowd "
        f"none of {2 * len(seen)} bounds more than chance would make them."
    ]
    unseen = [axis.label for axis in axes if axis not in seen]
    if unseen:
        evidence.append(f"Too few trials have {formatting.some(unseen, 5)} to tell.")
    near = _near_the_best(field, axes)
    if near:
        chance = 1 - (1 - 2 * OUTER.of(field.study)) ** len(axes)
        evidence.append(
            f"Trial {trials[0]}, the best, lies in the outer tenth of {formatting.some(near, 4)}, but the "
            f"next best do not. A trial placed at random is so near to some bound with probability "
            f"{formatting.percent(chance)}."
        )
    return Finding(
        question=QUESTION,
        verdict=FINE,
        answer="The best trials crowd no bound.",
        evidence=tuple(evidence),
        section=SECTION,
        trials=tuple(trials),
        playbook=PLAYBOOK,
    )


def _near_the_best(field: Field, axes: list[Hyperparameter]) -> list[str]:
    """Returns "momentum (0.9987, high bound 0.999)" for each bound near which the best trial lies."""
    best, near = field.trials[0], []
    for axis in axes:
        value = best.parameters.get(axis.name)
        unit = axis.unit(value)
        for side, distance in zip(SIDES, (unit, 1 - unit), strict=True):
            if distance <= OUTER.of(field.study):
                bound = formatting.value(axis.bound(side))
                near.append(f"{axis.label} ({formatting.value(value)}, {side} bound {bound})")
    return near


def _too_few(study: Study, axes: int) -> Finding:
    trials, bounds = (
        formatting.plural(len(study.ranked), "complete trial"),
        formatting.plural(2 * axes, "bound"),
    )
    more = (
        ""
        if study.unfinished
        else f"Run more trials ({study.more_trials(formatting.count(2 * len(study.trials)))})."
    )
    return _cannot_tell(
        f"{trials}, {bounds}: with so few, the best lie near some bound whatever the truth.", more
    )


def _cannot_tell(answer: str, action: str = "") -> Finding:
    return Finding(
        question=QUESTION,
        verdict=CANNOT_TELL,
        answer=answer,
        action=action,
        section=SECTION,
        playbook=PLAYBOOK,
    )
