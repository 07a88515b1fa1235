"""The frame of a plot: two axes, their ticks, and where points come to lie."""

import dataclasses

import numpy as np

from playbook_jax.analysis.render import svg
from playbook_jax.analysis.render.axes import Axis


@dataclasses.dataclass(frozen=True)
class Panel:
    """A plot's frame.

    Attributes:
      x: the horizontal axis.
      y: the vertical axis, its low end below.
      width: of the picture, in its own pixels; the page may scale them.
      height: likewise.
      left: the margin that holds the labels of the vertical axis.
      right: the margin on the right.
      top: the margin that holds the vertical axis's name.
      bottom: the margin that holds the labels and the name of the horizontal axis.
      above: the height of a strip above the vertical axis, for what has no place on it.
      below: the height of such a strip below it.
    """

    x: Axis
    y: Axis
    width: float = 470
    height: float = 320
    left: float = 58
    right: float = 14
    top: float = 24
    bottom: float = 42
    above: float = 0
    below: float = 0

    @property
    def base(self) -> float:
        """The vertical coordinate of the horizontal axis."""
        return self.height - self.bottom

    @property
    def end(self) -> float:
        """The horizontal coordinate at which the plot ends."""
        return self.width - self.right

    def across(self, values: np.ndarray) -> np.ndarray:
        """Returns the horizontal coordinates of values."""
        return self.left + (self.end - self.left) * self.x.place(values)

    def up(self, values: np.ndarray) -> np.ndarray:
        """Returns the vertical coordinates of values."""
        return self.at(self.y.place(values))

    def at(self, place: float | np.ndarray) -> float | np.ndarray:
        """Returns the vertical coordinate at a place of the axis, from 0 to 1."""
        low, high = self.base - self.below, self.top + self.above
        return low - (low - high) * place

    def frame(self) -> list[str]:
        """Returns grid, ticks and names, to be drawn before the data."""
        parts = [svg.text(0, 12, self.y.label, "name title")]
        for tick in self.y.ticks:
            y = float(self.at(tick.place))
            if tick.label:
                parts.append(svg.line(self.left, y, self.end, y, "grid"))
                parts.append(svg.text(self.left - 7, y + 3.7, tick.label, "tick end"))
        parts.append(svg.line(self.left, self.base, self.end, self.base, "base"))
        for tick in self.x.ticks:
            x = self.left + (self.end - self.left) * tick.place
            parts.append(svg.line(x, self.base, x, self.base + (5 if tick.label else 3), "base"))
            if tick.label:
                parts.append(svg.text(x, self.base + 17, tick.label, "tick middle"))
        middle = (self.left + self.end) / 2
        parts.append(svg.text(middle, self.height - 5, self.x.label, "name middle"))
        return parts
