"""The trials of a study: every hyperparameter of each, known before the first one starts."""

from collections.abc import Mapping, Sequence
from typing import Any

from playbook_jax.errors import UsageError
from playbook_jax.studies import unshared
from playbook_jax.studies.space import conditions, listed_trials, reparameterized, samplers
from playbook_jax.studies.space.search_space import Space
from playbook_jax.studies.specification import Specification

Parameters = dict[str, Any]
_OTHER_POINTS = 2**20  # added to the seed


def points(specification: Specification, stored: Sequence[Parameters] = ()) -> list[Parameters]:
    """Returns the hyperparameters of all trials: the stored ones, and those that follow.

    Trial 0 is the baseline where it is asked for: the base config's own values, also where they lie
    outside of the search space. It is outside of the sequence, whose first point is then trial 1.

    Args:
      specification: the study.
      stored: the hyperparameters of the trials that it has already.

    Raises:
      UsageError: the study is new, and a scientific value does not use what is tuned; or two listed
        trials, or the baseline and a point of a list or a grid, are the same; or the list no longer
        begins with the stored trials.
    """
    count = specification.num_trials
    if len(stored) == count and specification.algorithm != samplers.LIST:
        return list(stored)  # and no second is spent on scipy
    if not stored:
        unshared.refuse(specification)
    spaces = specification.spaces
    if stored and not specification.order:  # in the order in which the stored points were made
        spaces = {name: spaces[name] for name in stored[0] if name in spaces}
    first = [_baseline(specification, spaces)] if specification.baseline else []
    if specification.algorithm == samplers.LIST:
        sequence = [dict(point) for point in specification.points]
    else:
        sequence = _sampled(specification, spaces, count - len(first), stored[len(first) :])
    if first and specification.algorithm in ("grid", samplers.LIST):
        listed_trials.refuse_twins(first + sequence)
    made = [_with_fixed(specification, point) for point in first + sequence]
    if stored and specification.start_from:  # whose points are none of the sequence
        return [*stored, *[point for point in made if point not in stored]][:count]
    if specification.algorithm == samplers.LIST and made[: len(stored)] != list(stored):
        changed = next(i for i, (a, b) in enumerate(zip(made, stored, strict=False)) if a != b)
        raise UsageError(
            f"trial {changed} of the list is not what the study has started with; "
            "new trials go to the end of the list"
        )
    return [*stored, *made[len(stored) :]]


def _sampled(
    specification: Specification,
    spaces: Mapping[str, Space],
    count: int,
    stored: Sequence[Parameters],
) -> list[Parameters]:
    """Returns so many points of the study's sequence, of which the stored ones are the first."""
    seed = specification.seed
    if specification.start_from:  # which may have the same seed, and then the same coordinates
        seed, count, stored = seed + _OTHER_POINTS, count + len(stored), ()
    asked = (specification.algorithm, spaces, count, seed)
    made = samplers.sample(*asked, scientific=specification.scientific)
    pairs = [(old, new) for old, new in zip(stored, made, strict=False)]
    if any(old.get(n) != new.get(n) for n in specification.scientific for old, new in pairs):
        return samplers.sample(*asked)  # begun before scientific values were dealt in turn
    return made


def _baseline(specification: Specification, spaces: Mapping[str, Space]) -> Parameters:
    values = {n: reparameterized.axis_value(n, specification.base_config) for n in spaces}
    return {name: values[name] for name in conditions.applicable(spaces, values)}


def _with_fixed(specification: Specification, point: Parameters) -> Parameters:
    """Returns a trial's hyperparameters and the fixed ones whose condition holds for it."""
    fixed = specification.conditional_fixed
    return point | {key: fixed[key].value(0.0) for key in conditions.applicable(fixed, point)}
