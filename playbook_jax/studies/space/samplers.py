"""Samplers: which points of the search space a study tries.

Quasi-random search is what the playbook wants while exploring ("Why use quasi-random search"):
points spread evenly, chosen before any result is known, so that the objective may change
afterwards. Another algorithm joins by a line in `ALGORITHMS`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from playbook_jax.errors import unknown
from playbook_jax.studies.space import conditions, grid
from playbook_jax.studies.space.search_space import Space, Values

Parameters = dict[str, Any]
GRID = "grid"  # all combinations of values, or the first of them; the first one changes slowest
LIST = "list"  # the points are in the study config: nothing is sampled


def sample(
    algorithm: str,
    spaces: Mapping[str, Space],
    num_trials: int,
    seed: int,
    scientific: Collection[str] = (),
) -> list[Parameters]:
    """Returns the hyperparameters of each trial, conditional ones only where they exist.

    Args:
      algorithm: a name of `ALGORITHMS`, or `GRID`.
      spaces: the space of each hyperparameter that varies. Their order matters: the points are
        spread most evenly over the first ones.
      num_trials: how many; the points of a shorter study are the first ones of a longer one.
      seed: scrambles the points, or draws them; another one makes a replicate of the study.
      scientific: whose listed values are dealt in turn, see `_dealt`; none: all are sampled alike.

    Raises:
      UsageError: the algorithm is unknown.
    """
    if algorithm == GRID:
        return grid.points(spaces)[:num_trials]
    if algorithm not in ALGORITHMS:
        raise unknown("algorithm", algorithm, (*ALGORITHMS, GRID))
    dealt = {
        name: space.values
        for name, space in spaces.items()
        if name in scientific and isinstance(space, Values) and not space.when
    }
    rest = {name: space for name, space in spaces.items() if name not in dealt}
    size = math.prod(len(values) for values in dealt.values())
    each = [
        ALGORITHMS[algorithm](len(rest), len(range(arm, num_trials, size)), seed, arm)
        for arm in range(min(size, num_trials))
    ]
    return [
        _parameters(spaces, _dealt(dealt, trial % size), rest, each[trial % size][trial // size])
        for trial in range(num_trials)
    ]


def check(algorithm: str) -> None:
    """Raises a UsageError where `algorithm` is unknown."""
    if algorithm not in (*ALGORITHMS, GRID, LIST):
        raise unknown("algorithm", algorithm, (*ALGORITHMS, GRID, LIST))


def _halton(dimensions: int, count: int, seed: int, arm: int) -> list[list[float]]:
    """Scrambled Halton points (Owen, arXiv 1706.02808): a dimension a hyperparameter.

    A nuisance list of k values has a dimension of its own too: taken in turn, they would be tied to the
    first one. The first pᵐ coordinates of the dimension with prime p are a shifted lattice, so at n = pᵐ
    each value comes up n / k times, rounded up or down. In between it is off by up to 3 on the first two
    dimensions and up to 4 on the next two (measured to 200 trials).
    """
    if not dimensions:
        return [[]] * count
    from scipy.stats import qmc  # takes a second, in which the workers start

    rng = [seed, arm] if arm else seed
    return qmc.Halton(dimensions, scramble=True, rng=rng).random(count).tolist()


def _uniform(dimensions: int, count: int, seed: int, arm: int) -> list[list[float]]:
    """Independent uniform points: less even than quasi-random ones, and no assumption is needed."""
    import random  # Python promises the same numbers in all its versions

    rng = random.Random(f"{seed}/{arm}" if arm else seed)
    return [[rng.random() for _ in range(dimensions)] for _ in range(count)]


def _dealt(values: Mapping[str, Sequence[Any]], turn: int) -> Parameters:
    """Returns the combination of listed scientific values whose turn it is, from 0 on.

    In every block of as many trials as there are combinations each has one, and in every block of k
    trials each of the k values of a hyperparameter, so that no value is ever more than one trial ahead.
    Each combination goes through a sequence of points of its own: dealt out from one sequence, in turn,
    they would be tied to its first dimensions, and along a dimension of their own the points of each value
    are less even (benchmarks/discrepancy.py --dealt).
    """
    chosen, before = {}, 1
    for name, own in values.items():
        place = turn % (before * len(own))
        # Moved on by one whenever the pattern would repeat itself: so all combinations come up.
        chosen[name] = own[(place + place // math.lcm(before, len(own))) % len(own)]
        before *= len(own)
    return chosen


def _parameters(
    spaces: Mapping[str, Space],
    dealt: Parameters,
    rest: Mapping[str, Space],
    point: Sequence[float],
) -> Parameters:
    """Returns what a point of [0, 1)ᵈ, a coordinate a hyperparameter of `rest`, stands for."""
    drawn = {name: space.value(u) for (name, space), u in zip(rest.items(), point, strict=True)}
    values = dealt | drawn
    return {name: values[name] for name in conditions.applicable(spaces, values)}


# From the number of dimensions and of points, the seed, and whose points they are.
ALGORITHMS: dict[str, Callable[[int, int, int, int], list[list[float]]]] = {
    "halton": _halton,
    "uniform": _uniform,
}
