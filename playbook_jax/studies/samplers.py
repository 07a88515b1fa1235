"""Samplers: which points of the search space a study tries.

Quasi-random search is what the playbook wants while exploring ("Why use quasi-random search"):
points spread evenly, chosen before any result is known, so that the objective may change
afterwards. Another algorithm joins by a line in `ALGORITHMS`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from playbook_jax.errors import unknown
from playbook_jax.studies.search_space import Space

Parameters = dict[str, Any]


def sample(
    algorithm: str, spaces: Mapping[str, Space], num_trials: int, seed: int
) -> list[Parameters]:
    """Returns the hyperparameters of each trial.

    Args:
      algorithm: a name of `ALGORITHMS`.
      spaces: the space of each hyperparameter that varies. Their order matters: the points are
        spread most evenly over the first ones.
      num_trials: how many; the points of a shorter study are the first ones of a longer one.
      seed: scrambles the points.

    Raises:
      UsageError: the algorithm is unknown.
    """
    check(algorithm)
    return ALGORITHMS[algorithm](spaces, num_trials, seed)


def check(algorithm: str) -> None:
    """Raises a UsageError where `algorithm` is unknown."""
    if algorithm not in ALGORITHMS:
        raise unknown("algorithm", algorithm, ALGORITHMS)


def _halton(spaces: Mapping[str, Space], num_trials: int, seed: int) -> list[Parameters]:
    """Scrambled Halton points (Owen, arXiv 1706.02808): a dimension a hyperparameter."""
    from scipy.stats import qmc  # takes a second, in which the workers start

    points = qmc.Halton(len(spaces), scramble=True, rng=seed).random(num_trials).tolist()
    return [
        {name: space.value(u) for (name, space), u in zip(spaces.items(), point, strict=True)}
        for point in points
    ]


ALGORITHMS: dict[str, Callable[[Mapping[str, Space], int, int], list[Parameters]]] = {
    "halton": _halton,
}
