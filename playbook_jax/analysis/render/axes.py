"""The axes of a plot: where a value is drawn, and which ticks are labelled."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from playbook_jax.analysis.data import formatting

END_BAND = 0.09  # of a logarithmic axis whose low end stands for all that is less
PADDING = 0.04  # on both sides of what is drawn


@dataclasses.dataclass(frozen=True)
class Tick:
    """A tick at `place`, from 0 to 1 along the axis; a minor one has no label."""

    place: float
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
      label: what it measures.
      place: where values are drawn, from 0 at the low end to 1 at the high one, and beyond.
      ticks: the ticks that lie on it.
    """

    label: str
    place: Callable[[np.ndarray], np.ndarray]
    ticks: tuple[Tick, ...]


def linear(low: float, high: float, label: str, *, most: int = 6) -> Axis:
    """Returns a linear axis from `low` to `high`, with at most `most` labels or so."""
    low, high = _apart(low, high)

    def place(values: np.ndarray) -> np.ndarray:
        return (np.asarray(values, float) - low) / (high - low)

    ticks = [Tick(float(place(v)), _plain(v, step)) for v, step in nice(low, high, most)]
    return Axis(label, place, tuple(ticks))


def log(low: float, high: float, label: str, *, end: str = "") -> Axis:
    """Returns a logarithmic axis.

    Args:
      low: its low bound, above 0.
      high: its high bound.
      label: what it measures.
      end: the label of a place below `low` where all that is less is drawn, "0" if that is all there
        is; empty for none.
    """
    low, high = (low / 1.2, high * 1.2) if high / low < 1.2 else (low, high)
    band = END_BAND if end else 0.0
    width = math.log10(high / low)

    def place(values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, float)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = band + (1 - band) * np.log10(values / low) / width
        less = values < low * (1 - 1e-9) if end else values <= 0
        return np.where(less, 0.0, inside)

    ticks = [Tick(0.0, end)] if end else []
    ticks += [Tick(float(place(value)), text) for value, text in _log_ticks(low, high)]
    return Axis(label, place, tuple(ticks))


def one_minus_log(low: float, high: float, label: str) -> Axis:
    """Returns an axis on which 1 − value is logarithmic, so that 0.9, 0.99, 0.999 are equally apart."""
    mirrored = log(1 - high, 1 - low, label)

    def place(values: np.ndarray) -> np.ndarray:
        return 1 - mirrored.place(1 - np.asarray(values, float))

    ticks = []
    for value, text in _log_ticks(1 - high, 1 - low)[::-1]:
        labelled = text or math.isclose(value, 0.5)  # where such spaces often begin
        words = formatting.number(1 - value) if labelled else ""
        ticks.append(Tick(float(place(1 - value)), words))
    return Axis(label, place, tuple(ticks))


def levels(names: Sequence[str], label: str) -> Axis:
    """Returns an axis with a place for each name, in the order given; values are their indices."""
    most = max(4, 66 // len(names))  # characters that fit
    short = [name if len(name) <= most else name[: most - 1] + "…" for name in names]

    def place(values: np.ndarray) -> np.ndarray:
        return (np.asarray(values, float) + 0.5) / len(names)

    step = math.ceil(len(names) / 12)
    ticks = [Tick(float(place(i)), short[i]) for i in range(0, len(names), step)]
    return Axis(label, place, tuple(ticks))


def nice(low: float, high: float, most: int) -> list[tuple[float, float]]:
    """Returns round values between `low` and `high` and the step between them."""
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [(i * step, step) for i in range(first, last + 1)]


def padded(axis: Axis, padding: float = PADDING) -> Axis:
    """Returns the axis with room at both ends."""

    def shrink(places: np.ndarray) -> np.ndarray:
        return padding + (1 - 2 * padding) * places

    return Axis(
        axis.label,
        lambda values: shrink(axis.place(values)),
        tuple(Tick(shrink(tick.place), tick.label) for tick in axis.ticks),
    )


def _apart(low: float, high: float) -> tuple[float, float]:
    """Returns bounds of which the second is the larger, for data that are all the same."""
    if high > low:
        return low, high
    return low - (abs(low) or 1) * 0.1, low + (abs(low) or 1) * 0.1


def _plain(value: float, step: float) -> str:
    """Returns a tick's label with the decimals that its step needs."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return formatting.number(value, 3)
    decimals = max(0, math.ceil(-math.log10(step) - 1e-9))
    if abs(round(step * 10**decimals) - step * 10**decimals) > 1e-6:
        decimals += 1  # a step of 2.5
    return f"{value:,.{decimals}f}" if value else "0"


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    decades = math.log10(high / low)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if decades < 0.8:
        return [(v, _plain(v, step)) for v, step in nice(low, high, 5)]
    powers = any(abs(e) > 3 for e in exponents if low <= 10.0**e <= high)
    labelled = (1,) if decades >= 3.5 or powers else (1, 3) if decades >= 1.6 else (1, 2, 5)
    every = math.ceil(decades / 7)
    ticks = []
    for exponent in exponents:
        for digit in range(1, 10):
            value = digit * 10.0**exponent
            if not low * (1 - 1e-9) <= value <= high * (1 + 1e-9):
                continue
            if digit in labelled and exponent % every == 0:
                ticks.append((value, _log_label(digit, exponent, powers)))
            elif every == 1:
                ticks.append((value, ""))
    return ticks


def _log_label(digit: int, exponent: int, powers: bool) -> str:
    if powers and digit == 1:
        return formatting.power_of_ten(exponent)
    return formatting.number(digit * 10.0**exponent)
