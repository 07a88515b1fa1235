"""The best result against the number of trials, as box plots: the playbook's Figure 3.

Source: playbook, "How many trials are needed to get good results with quasi-random search?".
"""

import math

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.figures import Figure, Group
from playbook_jax.analysis.findings import enough_trials
from playbook_jax.analysis.render import objective_axis, reference_lines, svg
from playbook_jax.analysis.render.axes import Axis, Tick
from playbook_jax.analysis.render.plot_frame import Panel
from playbook_jax.analysis.stats import best_of

ORDER = 35
BOXES = 13  # as many as can be told apart on a narrow screen


def draw(study: Study) -> Group | None:
    """Returns the box plots, or nothing where too few trials are complete."""
    if study.is_replicates or len(study.drawn.learned) < enough_trials.FEWEST:
        return None
    costs, failures = enough_trials.draws(study)
    number = len(costs) + failures
    sizes = _sizes(number)
    boxes = [best_of.bootstrap(costs, failures, size) for size in sizes]
    growth = best_of.growth(costs, failures)
    turn = -1 if study.maximize else 1
    shown = [q for box in boxes for q in box if np.isfinite(q)]
    projected = growth.best - growth.gain
    values = turn * np.array([*shown, *([projected] if _drawable(study, projected) else [])])
    values = np.append(values, reference_lines.ends(study) + reference_lines.baselines(study))
    y = objective_axis.objectives(study.metric, values, study.maximize)
    panel = Panel(_places(sizes, number), y.axis, height=280)
    parts = [
        *reference_lines.band(panel, study),
        *panel.frame(),
        *reference_lines.level(panel, study),
    ]
    for place, box in enumerate(boxes):
        parts += _box(panel, place, turn * box, study.maximize)
    parts += _expected(panel, sizes, number, growth, turn)
    figure = Figure(
        "best-of-k",
        "",
        "",
        svg.picture(
            panel.width,
            panel.height,
            "best objective against the number of trials, as box plots",
            parts,
            "svg-best-of-k",
        ),
        f"Boxes: the middle half of the best of so many, whiskers: 90{formatting.NO_BREAK}%. Diamonds: the "
        f"best of half of the trials on average, of all {formatting.count(number)}, and, hollow, what "
        f"{formatting.count(2 * number)} would come to if it goes on so. "
        f"{reference_lines.band_note(study)}".strip(),
    )
    return Group(
        "best-of-k-figures",
        "Number of trials",
        "What the best of fewer trials would have been, by drawing from these (bootstrap). Where the boxes "
        "have come down to a line, more trials of this search space will hardly help.",
        (figure,),
    )


def _sizes(number: int) -> list[int]:
    """Returns how many trials are drawn, from a few to all, at about equal ratios."""
    first = max(2, number // 6)
    sizes = np.geomspace(first, number, min(BOXES, number - first + 1)).round().astype(int)
    return sorted({int(size) for size in sizes} | {number // 2})


def _places(sizes: list[int], number: int) -> Axis:
    """Returns an axis with a place for each number of trials, and one for twice as many as there are."""
    count = len(sizes) + 1
    names = [formatting.count(size) for size in [*sizes, 2 * number]]
    ticks = tuple(Tick((i + 0.5) / count, name) for i, name in enumerate(names))
    return Axis("number of trials", lambda v: (np.asarray(v, float) + 0.5) / count, ticks)


def _drawable(study: Study, projected: float) -> bool:
    """Says whether a projection is a value that the metric can have: an error rate is not below 0."""
    value = -projected if study.maximize else projected
    rate = formatting.is_rate(study.metric)
    return not rate or 0 <= value <= 1


def _box(panel: Panel, place: int, box: np.ndarray, maximize: bool) -> list[str]:
    """Returns a box and its whiskers; what lies beyond the axis ends at its end."""
    x = float(panel.across(place))
    half = 0.32 * float(panel.across(1) - panel.across(0))
    worst = panel.top + panel.above if not maximize else panel.base - panel.below
    y = np.full(len(box), float(worst))
    finite = np.isfinite(box)
    y[finite] = np.clip(panel.up(box[finite]), panel.top, panel.base)
    best, low, middle, high, end = map(float, y)
    return [
        svg.line(x, best, x, end, "whisker"),
        svg.element(
            "rect",
            class_="box",
            x=x - half,
            y=min(low, high),
            width=2 * half,
            height=max(1.0, abs(low - high)),
        ),
        svg.line(x - half, middle, x + half, middle, "median"),
    ]


def _expected(
    panel: Panel, sizes: list[int], number: int, growth: best_of.Growth, turn: int
) -> list[str]:
    """Returns the means: of half as many trials, of all, of twice as many."""
    points = [
        (sizes.index(number // 2), growth.half, "diamond"),
        (len(sizes) - 1, growth.best, "diamond"),
        (len(sizes), growth.best - growth.gain, "diamond hollow"),
    ]
    marks, path = [], []
    for place, cost, class_ in points:
        x, y = float(panel.across(place)), float(panel.up(np.array(turn * cost)))
        if not math.isfinite(y) or not panel.top - 1 <= y <= panel.base + 1:
            continue
        path.append(f"{svg.coordinate(x)} {svg.coordinate(y)}")
        shape = f"M{path[-1]}m0-5.5 5 5.5-5 5.5-5-5.5z"
        marks.append(svg.element("path", class_=class_, d=shape))
    line = svg.element("path", class_="projected", d="M" + "L".join(path)) if len(path) > 1 else ""
    return [line, *marks]
