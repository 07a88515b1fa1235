"""Which Halton dimension each hyperparameter gets, so that listed values come up equally often.

The first pᵐ points of the dimension with prime p have one coordinate in each of pᵐ equal cells. A
list of k values is balanced (at n = pᵐ each value within one of n/k) if each value's share of [0, 1)
cuts at most one cell in two: with shares side by side that holds for k = 2, pᵃ and 2 pᵃ. Where p
is 1 modulo k, it holds for shares that are dealt out cell by cell (see `evenly`). For other pairs no
shares will do, as for three values in the dimension of 2: they get another dimension.

Source: Owen, "A randomized Halton algorithm in R" (arXiv 1706.02808), for the points.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping

from playbook_jax.studies.search_space import Range, Space, Values

# Longer lists are like a continuous range: few values come up twice, and their fitting primes are so
# large that the first points would be no better than random ones.
MAX_LISTED = 16


def assign(spaces: Mapping[str, Space]) -> dict[str, int]:
    """Returns the dimension, counted from 0, of each hyperparameter, in their order.

    Each has one of its own. They get them in their order, the most even ones first; only a list that its
    dimension does not balance moves to the first that does and that no other list holds.
    """
    primes: list[int] = []
    source = _primes()

    def prime(dimension: int) -> int:
        while len(primes) <= dimension:
            primes.append(next(source))
        return primes[dimension]

    listed = {name: count(space) for name, space in spaces.items() if count(space)}
    natural = {name: d for d, name in enumerate(spaces)}
    dimensions = {n: natural[n] for n, k in listed.items() if _balances(prime(natural[n]), k)}
    for name, k in listed.items():
        if name not in dimensions:
            held = set(dimensions.values())
            dimensions[name] = next(
                d for d in itertools.count() if d not in held and _balances(prime(d), k)
            )
    held = set(dimensions.values())
    free = (d for d in itertools.count() if d not in held)
    return {name: dimensions[name] if name in dimensions else next(free) for name in spaces}


def evenly(space: Space, prime: int) -> Callable[[float], float]:
    """Returns the function that deals out coordinates of the dimension of `prime` to listed values.

    It keeps the uniform distribution. Where prime is 1 modulo the number k of values, all cells but
    the last go to the values in equal numbers, and the last is dealt out like the whole. Otherwise it
    is the identity.
    """
    k = count(space)
    if not k or _side_by_side(prime, k) or prime % k != 1:
        return lambda u: u

    def dealt(u: float) -> float:
        while True:
            u *= prime
            cell = int(u)
            if cell < prime - 1:
                return (cell * k // (prime - 1) + 0.5) / k  # the middle of the value's share
            u -= cell

    return dealt


def count(space: Space) -> int:
    """Returns how many values with equal shares a space has; 0 for ranges and for long lists."""
    if isinstance(space, Values):
        k = len(space.values)
    elif isinstance(space, Range) and space.type == "int" and space.scale == "linear":
        k = int(space.high - space.low) + 1
    else:
        return 0
    return k if k <= MAX_LISTED else 0


def _balances(prime: int, k: int) -> bool:
    return _side_by_side(prime, k) or prime % k == 1


def _side_by_side(prime: int, k: int) -> bool:
    """Says whether k equal shares, side by side, are balanced: k = 2, pᵃ or 2 pᵃ."""
    rest = k
    while rest % prime == 0:
        rest //= prime
    return rest in (1, 2)


def _primes() -> Iterator[int]:
    found: list[int] = []
    for n in itertools.count(2):
        if all(n % p for p in found):
            found.append(n)
            yield n
