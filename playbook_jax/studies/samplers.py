"""Samplers: which points of the search space a study tries.

Quasi-random search is what the playbook wants while exploring ("Why use quasi-random search"):
points spread evenly, chosen before any result is known, so that the objective may change
afterwards. Another algorithm joins by a line in `ALGORITHMS`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from playbook_jax.errors import unknown
from playbook_jax.studies import conditions, grid, halton_dimensions
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
    """Scrambled Halton points (Owen, arXiv 1706.02808): a dimension a hyperparameter."""
    from scipy.stats import qmc  # takes a second, in which the workers start

    dimensions = halton_dimensions.assign(spaces)
    # A dimension's coordinates do not depend on how many there are.
    engine = qmc.Halton(1 + max(dimensions.values()), scramble=True, rng=seed)
    points = engine.random(num_trials).tolist()
    numbers = {
        name: halton_dimensions.evenly(spaces[name], engine.base[dimension])
        for name, dimension in dimensions.items()
    }
    return [
        _parameters(spaces, [numbers[name](point[d]) for name, d in dimensions.items()])
        for point in points
    ]


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
