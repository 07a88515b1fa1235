"""Where in the run retrospective checkpoint selection found the best step of each complete trial.

Source: playbook, "Deciding how long to train when training is *not* compute-bound".
"""

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.figures import Figure, Group
from playbook_jax.analysis.findings.best_step import EARLY, LATE
from playbook_jax.analysis.render import axes, svg
from playbook_jax.analysis.render.axes import Axis, Tick
from playbook_jax.analysis.render.plot_frame import Panel

ORDER = 30
BINS = 20  # so that the first tenth and the last quarter are whole bins
MOST_DOTS = 300  # beyond, bars


def draw(study: Study) -> Group | None:
    """Returns the distribution of best steps, or nothing where no trial is complete."""
    trials = sorted((t for t in study.ranked if t.step > 0), key=lambda t: t.number)
    if not trials:
        return None
    places = np.array([trial.best_step / trial.step for trial in trials])
    bins = np.clip(np.ceil(places * BINS - 1e-9).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    top = int(counts.max())
    x_axis = axes.linear(0, 100, "best step, in % of the run", most=5)
    y_axis = _counts(top)
    panel = Panel(x_axis, y_axis, height=240, left=36, top=42)
    parts = [*_zones(panel, study), *panel.frame()]
    parts += (_bars if len(trials) > MOST_DOTS else _dots)(panel, study, trials, bins)
    figure = Figure(
        "best-steps",
        "",
        "",
        svg.picture(panel.width, panel.height, "histogram of best steps", parts, "svg-best-steps"),
    )
    return Group(
        "best-step-figures",
        "Best steps",
        "Where in its run each complete trial was best. All in the first tenth: far too many steps. "
        "Mostly in the last quarter: more steps might help, unless a decaying schedule puts them there.",
        (figure,),
        ("leaders", "complete") if len(trials) <= MOST_DOTS else (),
    )


def _counts(top: int) -> Axis:
    high = max(top, 4)
    ticks = tuple(
        Tick(v / (high + 0.5), formatting.count(round(v)))
        for v, step in axes.nice(0, high, 4)
        if v and step >= 1
    )
    return Axis("complete trials", lambda v: np.asarray(v, float) / (high + 0.5), ticks)


def _zones(panel: Panel, study: Study) -> list[str]:
    """Returns the parts of the run that the playbook names, shaded."""
    early, late = EARLY.of(study), LATE.of(study)
    first = "first tenth" if early == EARLY.default else f"first {formatting.percent(early)}"
    last = "last quarter" if late == LATE.default else f"last {formatting.percent(1 - late)}"
    parts = []
    for low, high, words in ((0, early, first), (late, 1, last)):
        x, end = (float(panel.across(100 * v)) for v in (low, high))
        parts.append(
            svg.element(
                "rect",
                class_="outside",
                x=x,
                y=float(panel.top - 18),
                width=end - x,
                height=float(panel.base - panel.top + 18),
            )
        )
        parts.append(svg.text(x + 4, panel.top - 5, words, "zone"))
    return parts


def _bars(panel: Panel, study: Study, trials: list[Trial], bins: np.ndarray) -> list[str]:
    counts = np.bincount(bins, minlength=BINS)
    width = (panel.end - panel.left) / BINS
    parts = []
    for i in np.flatnonzero(counts):
        y = float(panel.up(counts[i]))
        parts.append(
            svg.element(
                "rect",
                class_="hist",
                x=float(panel.left + i * width + 1),
                y=y,
                width=float(width - 2),
                height=float(panel.base - y),
            )
        )
    return parts


def _dots(panel: Panel, study: Study, trials: list[Trial], bins: np.ndarray) -> list[str]:
    """Returns a dot a trial, stacked, so that each can be pointed at; the best few as stars."""
    ranks = {trial.number: rank for rank, trial in enumerate(study.leaders, 1)}
    width = (panel.end - panel.left) / BINS
    height = float(panel.up(0) - panel.up(1))
    heights, dots, stars = np.zeros(BINS), [], []
    for trial, i in zip(trials, bins, strict=True):
        x = panel.left + (i + 0.5) * width
        y = float(panel.up(heights[i] + 0.5))
        heights[i] += 1
        if trial.number in ranks:
            class_ = f"star rank{ranks[trial.number]}"
            size = min(9.5, max(5.0, 0.6 * height))
            stars.append(svg.star(x, y, class_, size, trial=trial.number))
        else:
            dots.append(svg.dot(x, y, min(5.0, width / 3, height / 2.1), trial.number))
    return [svg.element("g", "".join(dots), class_="dots") if dots else "", *stars]
