"""Is each value of a scientific hyperparameter equally well tuned? What speaks against it.

Source: playbook, "Detecting whether a change is useful with isolation plots" ("the baseline should also
have its learning rate equally well tuned"), and "Extracting insight from experimental results": the
checklist before the question.
"""

import dataclasses

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.hyperparameters import SIDES, Hyperparameter
from playbook_jax.analysis.data.proposals import EXTEND, Proposal
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import ACT, boundary, instability
from playbook_jax.analysis.stats import directions
from playbook_jax.analysis.stats.boundary_clustering import Field, least_chance
from playbook_jax.analysis.stats.isolation import Slice

FEWER = Threshold(
    "fairness.fewer",
    2 / 3,
    0,
    1,
    "a value tried with fewer than this part of another one's trials has had less luck to "
    "choose from; a joint study of 20 trials gives each of two values 10, give or take one",
)


@dataclasses.dataclass(frozen=True)
class Doubt:
    """Something that makes a comparison unfair.

    Attributes:
      text: what it is.
      action: what would mend it.
      proposals: the same, for the next study.
    """

    text: str
    action: str
    proposals: tuple[Proposal, ...] = ()


# Where what speaks against a comparison has been told already, all of it.
ABOVE = Doubt("see the question above.", "Mend first what speaks against the comparison.")


def doubts(study: Study, hyperparameter: Hyperparameter, slices: list[Slice]) -> list[Doubt]:
    """Returns what makes the comparison of the slices unfair; nothing where it seems fair."""
    found = counts(study, slices)
    for part in slices:
        alone = _alone(study, hyperparameter, part)
        found += _crowded(alone, part, len(slices))
        found += [
            Doubt(
                f"{part.label}: {unstable.answer[0].lower()}{unstable.answer[1:]}",
                f"Mend the instability of {part.label}, by warmup or clipping.",
                unstable.proposals,
            )
            for unstable in instability.check(alone)
            if unstable.verdict == ACT
        ]
    return found


def untested(study: Study, hyperparameter: Hyperparameter, slices: list[Slice]) -> list[str]:
    """Returns the labels of the slices with too few trials to see whether they crowd a bound."""
    few = []
    for part in slices:
        axes = _axes(_alone(study, hyperparameter, part))
        allowed = boundary.CHANCE.of(study) / (2 * max(1, len(axes)) * len(slices))
        if axes and least_chance(len(part.complete)) > allowed:
            few.append(part.label)
    return few


def _alone(study: Study, hyperparameter: Hyperparameter, part: Slice) -> Study:
    """Returns the study of one slice, in which its hyperparameter does not vary."""
    numbers = {t.number for t in (*part.complete, *part.failures)}
    return dataclasses.replace(
        study,
        trials=tuple(t for t in study.trials if t.number in numbers),
        hyperparameters=tuple(h for h in study.hyperparameters if h is not hyperparameter),
    )


def _axes(alone: Study) -> list[Hyperparameter]:
    """Returns the ordered hyperparameters that trials of a slice have, and not all the same."""
    return [
        h
        for h in alone.hyperparameters
        if h.ordered and len({t.parameters.get(h.name) for t in alone.learned} - {None}) > 1
    ]


def counts(study: Study, slices: list[Slice]) -> list[Doubt]:
    """Returns a doubt where one slice has far more ended trials than another."""
    least, most = (choose(slices, key=lambda part: part.ended) for choose in (min, max))
    if least.ended >= FEWER.of(study) * most.ended:
        return []
    text = (
        f"{least.label} was tried with {formatting.plural(least.ended, 'trial')}, {most.label} with "
        f"{most.ended}: of more trials the best is better, whatever the value."
    )
    return [Doubt(text, f"Give {least.label} as many trials as {most.label}.")]


def _crowded(alone: Study, part: Slice, number: int) -> list[Doubt]:
    """Returns a doubt for each bound that the best trials of a slice crowd, chance shared by all slices."""
    axes = _axes(alone)
    if not axes or part.ended < 2 or len({t.objective for t in alone.learned}) < 2:
        return []
    field, found = Field(alone, alone.learned), []
    for axis in axes:
        for side, end in zip(SIDES, (0.0, 1.0), strict=True):
            crowd = field.crowd(directions.along(axis), end, 1 - end)
            if crowd is None or boundary.judge(field, axis, end, crowd, len(axes) * number) != ACT:
                continue
            bound, new = formatting.value(axis.bound(side)), boundary.extended(axis, side)
            text = f"{part.label}: its best trials crowd the {side} bound of {axis.label}, {bound}."
            if new is None:
                action = f"Search {axis.label} beyond {bound} for {part.label}, if it can go there."
                found.append(Doubt(text, action))
            else:
                action = f"Search {axis.label} to {formatting.value(new)} for {part.label}."
                found.append(Doubt(text, action, (Proposal(EXTEND, axis.name, new, side),)))
    return found
