"""Samplers: which points of the search space a study tries.

Quasi-random search is what the playbook wants while exploring ("Why use quasi-random search"):
points spread evenly, chosen before any result is known, so that the objective may change
afterwards. Another algorithm joins by a line in `ALGORITHMS`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from playbook_jax.errors import unknown
from playbook_jax.studies import conditions, grid
from playbook_jax.studies.search_space import Space

Parameters = dict[str, Any]
LIST = "list"  # the points are in the study config: nothing is sampled


def sample(
    algorithm: str, spaces: Mapping[str, Space], num_trials: int, seed: int
) -> list[Parameters]:
    """Returns the hyperparameters of each trial, conditional ones only where they exist.

    Args:
      algorithm: a name of `ALGORITHMS`.
      spaces: the space of each hyperparameter that varies. Their order matters: the points are
        spread most evenly over the first ones.
      num_trials: how many; the points of a shorter study are the first ones of a longer one.
      seed: scrambles the points, or draws them; another one makes a replicate of the study.

    Raises:
      UsageError: the algorithm is unknown.
    """
    if algorithm not in ALGORITHMS:
        raise unknown("algorithm", algorithm, ALGORITHMS)
    return ALGORITHMS[algorithm](spaces, num_trials, seed)


def check(algorithm: str) -> None:
    """Raises a UsageError where `algorithm` is unknown."""
    if algorithm not in (*ALGORITHMS, LIST):
        raise unknown("algorithm", algorithm, (*ALGORITHMS, LIST))


def _halton(spaces: Mapping[str, Space], num_trials: int, seed: int) -> list[Parameters]:
    """Scrambled Halton points (Owen, arXiv 1706.02808): a dimension a hyperparameter.

    A list of k values has a dimension of its own too: taken in turn, they would be tied to the first one.
    The first pᵐ coordinates of the dimension with prime p are a shifted lattice, so at n = pᵐ each value
    comes up n / k times, rounded up or down. In between it is off by up to 3 on the first two dimensions
    and up to 4 on the next two (measured to 200 trials). Values that must be even belong into a group.
    """
    from scipy.stats import qmc  # takes a second, in which the workers start

    points = qmc.Halton(len(spaces), scramble=True, rng=seed).random(num_trials).tolist()
    return [_parameters(spaces, point) for point in points]


def _uniform(spaces: Mapping[str, Space], num_trials: int, seed: int) -> list[Parameters]:
    """Independent uniform points: less even than quasi-random ones, and no assumption is needed."""
    import random  # Python promises the same numbers in all its versions

    rng = random.Random(seed)
    return [_parameters(spaces, [rng.random() for _ in spaces]) for _ in range(num_trials)]


def _grid(spaces: Mapping[str, Space], num_trials: int, seed: int) -> list[Parameters]:
    """All combinations of values, or the first of them; the first hyperparameter changes slowest."""
    return grid.points(spaces)[:num_trials]


def _parameters(spaces: Mapping[str, Space], point: Sequence[float]) -> Parameters:
    """Returns what a point of [0, 1)ᵈ, a coordinate a hyperparameter, stands for."""
    values = {name: space.value(u) for (name, space), u in zip(spaces.items(), point, strict=True)}
    return {name: values[name] for name in conditions.applicable(spaces, values)}


ALGORITHMS: dict[str, Callable[[Mapping[str, Space], int, int], list[Parameters]]] = {
    "halton": _halton,
    "uniform": _uniform,
    "grid": _grid,
}
