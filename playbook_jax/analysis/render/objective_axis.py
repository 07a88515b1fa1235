"""The vertical axis of objectives: a range that shows the good trials although some are terrible."""

import dataclasses
import math

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.render import axes
from playbook_jax.analysis.render.axes import Axis

# A logarithmic axis where the range is wider than this: below, it looks like a linear one anyway.
LOG_FROM = 8.0
# The axis reaches this many times as far from the best as the typical (median) trial does; what lies
# beyond is drawn as an arrow at its end, so that a trial at a loss of 10⁶ does not flatten the rest.
REACH = 4.0
DECADES = 2.0  # and a logarithmic axis always has room for so many
# How far below the best validation value the axis of curves goes: a training loss of 10⁻⁹ would leave
# no room for the rest, and how small exactly it is does not matter.
BELOW = 30.0


@dataclasses.dataclass(frozen=True)
class ObjectiveAxis:
    """An axis of objectives.

    Attributes:
      axis: the axis; it takes values as they are stored.
      low: the lowest value that it shows.
      high: the highest.
      logarithmic: whether its scale is.
    """

    axis: Axis
    low: float
    high: float
    logarithmic: bool

    def is_beyond(self, value: float, maximize: bool) -> bool:
        """Says whether a value is beyond the axis, at its worse end."""
        return value < self.low if maximize else value > self.high


def objectives(metric: str, values: np.ndarray, maximize: bool) -> ObjectiveAxis:
    """Returns the axis for the best objectives of trials, all finite; bare where there are none."""
    if not len(values):
        bare = dataclasses.replace(_axis(metric, 0.0, 1.0, False).axis, ticks=())
        return ObjectiveAxis(bare, 0.0, 1.0, False)
    zero = bool(np.any(values <= 0))
    positive = values[values > 0]
    log = (
        not maximize
        and np.all(values >= 0)
        and len(positive) > 0
        and positive.max() > LOG_FROM * positive.min()
    )
    turn = (lambda v: -v) if maximize else np.log if log else (lambda v: v)
    shown = turn(positive if log else values)
    best = float(shown.min())
    reach = best + REACH * (float(np.median(shown)) - best)
    if log:
        reach = max(reach, best + DECADES * math.log(10))
    worst = float(shown.max())
    if worst - best <= 1.3 * (reach - best) or reach == best:
        reach = worst
    ends = (best, reach) if not maximize else (-reach, -best)
    low, high = (math.exp(end) for end in ends) if log else ends
    return _axis(metric, low, high, log, "0" if zero and log else "")


def curves(metric: str, values: np.ndarray, validation: np.ndarray, rising: bool) -> ObjectiveAxis:
    """Returns the axis for all values of a metric along training curves, at least one finite.

    Args:
      metric: its name.
      values: of all curves, validation and training.
      validation: those that must be seen well.
      rising: whether more is better; then a logarithmic axis would show the worst best.
    """
    values = values[np.isfinite(values)]
    high = float(np.quantile(values, 0.995))  # a spike or two may leave the plot
    positive = values[values > 0]
    low = float(positive.min()) if len(positive) else 0.0
    log = not rising and bool(np.all(values >= 0)) and high > LOG_FROM * low > 0
    if not log:
        return _axis(metric, float(values.min()), high, False)
    floor = validation[validation > 0].min(initial=np.inf) / BELOW
    if low < floor < high:
        return _axis(metric, float(floor), high, True, "less")
    return _axis(metric, low, high, True, "0" if np.any(values == 0) else "")


def _axis(metric: str, low: float, high: float, log: bool, end: str = "") -> ObjectiveAxis:
    label = formatting.metric_label(metric)
    scale = 100.0 if formatting.is_rate(metric) else 1.0
    label += " (%)" if scale == 100 else ""
    if log:
        axis = axes.log(low * scale, high * scale, label, end=end)
    else:
        axis = axes.linear(low * scale, high * scale, label)
    axis = axes.padded(axis, 0.06)  # a star at the end stays clear of the frame
    place = axis.place
    scaled = dataclasses.replace(axis, place=lambda values: place(np.asarray(values) * scale))
    return ObjectiveAxis(scaled, low, high, log)
