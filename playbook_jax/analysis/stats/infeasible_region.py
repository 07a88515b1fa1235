"""Where in the search space the trials lie that are infeasible, or that learned nothing."""

import dataclasses

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.hyperparameters import HIGH, LOW
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.stats import boundary_clustering, directions
from playbook_jax.analysis.stats.directions import Direction

CHANCE = Threshold(
    "infeasible_region.chance",
    0.05,
    0,
    1,
    "of a region where there is none, over all the places looked at together; customary",
)
FEWEST = 2  # one failure lies somewhere, and one trial that learned elsewhere


@dataclasses.dataclass(frozen=True)
class Region:
    """The part of the search space in which the infeasible trials lie.

    Attributes:
      direction: in which it begins.
      side: LOW or HIGH, where it lies; None for a value that was listed.
      cut: the place where it begins.
      text: the region in words, "learning_rate of 0.53 and more".
      failures: the trials in it that are infeasible or learned nothing.
      learned: the other complete ones in it.
      chance: the probability that as many trials, drawn at random, lie as far to that side.
    """

    direction: Direction
    side: str | None
    cut: float
    text: str
    failures: tuple[Trial, ...]
    learned: tuple[Trial, ...]
    chance: float


def find(study: Study, axis: str | None = None, side: str | None = None) -> Region | None:
    """Returns the region that tells failures from trials that learned best, or None if none does.

    Args:
      study: the study.
      axis: the hyperparameter along which to look, and in directions that it is part of; all when None.
      side: the only side on which to look, where it is known beforehand: the test is one-sided then.
    """
    study = study.drawn
    failures, learned = study.failures, study.learned
    if min(len(failures), len(learned)) < FEWEST:
        return None
    trials = [*failures, *learned]
    candidates = [
        region
        for direction, end in _looked_at(study)
        if axis is None or axis in direction.names
        if side is None or end == side
        if (region := _region(direction, end, trials, len(failures))) is not None
    ]
    allowed = CHANCE.of(study) / max(1, len(candidates))
    candidates = [region for region in candidates if region.chance <= allowed]
    return max(candidates, key=lambda region: _separation(region, study), default=None)


def _looked_at(study: Study) -> list[tuple[Direction, str | None]]:
    axes = [h for h in study.hyperparameters if h.ordered]
    both = [directions.along(axis) for axis in axes]
    both += directions.effective_learning_rates(axes)
    looked_at = [(direction, side) for direction in both for side in (LOW, HIGH)]
    for h in study.hyperparameters:
        if not h.ordered:
            for level in h.levels:
                name = f"{h.label} = {formatting.value(level)}"
                looked_at.append((_is(h.name, level, name), None))
    return looked_at


def _is(path: str, level: object, label: str) -> Direction:
    text = formatting.value(level)
    return Direction(
        label,
        (path,),
        lambda values: float(path in values and formatting.value(values[path]) == text),
        lambda at: text,
    )


def _region(
    direction: Direction, side: str | None, trials: list[Trial], failures: int
) -> Region | None:
    places = np.array([direction.place(trial.parameters) for trial in trials])
    failed = np.arange(len(trials)) < failures
    there = np.isfinite(places)
    trials = [trial for trial, t in zip(trials, there, strict=True) if t]
    places, failed = places[there], failed[there]
    if not failed.any() or failed.all() or np.ptp(places) == 0:
        return None
    distances = places if side == LOW else 1 - places
    chance = boundary_clustering.chance(distances, np.flatnonzero(failed))
    # The cut that best parts the two kinds: the largest difference of the shares beyond it.
    cuts = np.array(sorted(set(distances[failed])))
    beyond = distances[None, :] <= cuts[:, None]
    gain = beyond[:, failed].mean(axis=1) - beyond[:, ~failed].mean(axis=1)
    inside = beyond[np.argmax(gain)]
    cut = cuts[np.argmax(gain)] if side == LOW else 1 - cuts[np.argmax(gain)]
    ends = {LOW: "and less", HIGH: "and more"}
    text = f"{direction.label} of {direction.show(cut)} {ends[side]}" if side else direction.label
    chosen = [(t, f) for t, f, i in zip(trials, failed, inside, strict=True) if i]
    return Region(
        direction,
        side,
        float(cut),
        text,
        tuple(t for t, f in chosen if f),
        tuple(t for t, f in chosen if not f),
        chance,
    )


def _separation(region: Region, study: Study) -> float:
    return len(region.failures) / len(study.failures) - len(region.learned) / len(study.learned)
