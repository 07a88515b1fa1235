"""What trials are held against in a plot: the retrain noise as a band, and the baseline with its own mark."""

import math

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.render import svg
from playbook_jax.analysis.render.plot_frame import Panel

_ABOVE, _BELOW = 4.0, 12.0  # where a band's words stand, from its upper and its lower end
_ROOM = 14  # what they take


def ends(study: Study) -> list[float]:
    """Returns the objectives between which the band lies, so that an axis can have room for it."""
    noise = study.retrain
    return [] if noise is None else [noise.mean - noise.sd, noise.mean + noise.sd]


def band(panel: Panel, study: Study) -> list[str]:
    """Returns the retrain noise: the mean of the runs, and a standard deviation to both sides."""
    if study.retrain is None:
        return []
    low, high = sorted(float(y) for y in panel.up(np.array(ends(study))))
    if not math.isfinite(low + high) or high < panel.top or low > panel.base:
        return []
    low, high = max(low, float(panel.top)), min(high, float(panel.base))
    width, height = float(panel.end - panel.left), max(1.0, high - low)
    rect = svg.element(
        "rect", class_="retrain", x=float(panel.left), y=low, width=width, height=height
    )
    words = f"{study.retrain.name} trained again, ± 1 SD"
    # Inside if it is high enough; else at its better side, where few trials are, if there is room.
    above = study.maximize if panel.base - high > _ROOM else True
    y = low - _ABOVE if above and low - panel.top > _ROOM else high + _BELOW
    y = low + _BELOW if height > 1.5 * _ROOM else y
    return [rect, svg.text(panel.left + 5, y, words, "zone halo")]


def band_note(study: Study) -> str:
    """Returns what the band is, for below a figure; empty where there is none."""
    noise = study.retrain
    if noise is None:
        return ""
    return (
        f"The band is the retrain noise: {noise.name} trained again with other seeds, "
        f"{formatting.plural(len(noise.objectives), 'run')}, on average "
        f"{formatting.metric(study.metric, noise.mean)}, one standard deviation of "
        f"{formatting.metric(study.metric, noise.sd)} to both sides."
    )


def baselines(study: Study) -> list[float]:
    """Returns the baseline's objective, if it has one, so that an axis can have room for it."""
    return [study.baseline.objective] if study.baseline in study.ranked else []


def baseline(panel: Panel, study: Study, x: float, beyond: bool) -> list[str]:
    """Returns the baseline's mark and its name.

    Args:
      panel: the plot.
      study: of which it is the baseline.
      x: where it lies, in the plot's own coordinates.
      beyond: whether it is beyond the vertical axis, at its worse end.
    """
    worse = panel.at(0) if study.maximize else panel.at(1)
    y = float(worse if beyond else panel.up(np.array(study.baseline.objective)))
    mark = svg.mark("square", x, y, study.baseline.number, "baseline")
    left = x > (panel.left + panel.end) / 2
    place = "end" if left else ""
    words = svg.text(x + (-9 if left else 9), y + 4, "baseline", f"zone halo {place}".strip())
    return [mark, words]


def level(panel: Panel, study: Study) -> list[str]:
    """Returns the baseline's objective as a line across a plot."""
    if study.baseline not in study.ranked:
        return []
    y = float(panel.up(np.array(study.baseline.objective)))
    if not panel.top <= y <= panel.base:
        return []
    line = svg.line(panel.left, y, panel.end, y, "level threshold")
    return [line, svg.text(panel.end - 4, y - 4, "baseline", "zone halo end")]
