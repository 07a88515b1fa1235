"""Gradient norms of the best few trials: against the step, and as a histogram over all steps.

Source: playbook, "Gradient clipping": both are made by default, of the norm before clipping; the
threshold is chosen at the 90th percentile.
"""

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.figures import Figure, Group
from playbook_jax.analysis.findings import clipping, gradient_outliers
from playbook_jax.analysis.render import axes, svg
from playbook_jax.analysis.render.axes import Axis, Tick
from playbook_jax.analysis.render.plot_frame import Panel

ORDER = 25
LABEL = "gradient norm"
NAME = 125  # the width of a level's name, at most
POINTS = 67  # of a line: means over three stretches of a summary, so that lines can be told apart
SPIKES = 4  # of a trial that are named in the plot


def draw(study: Study) -> Group | None:
    """Returns norm against step and histogram, or nothing where no trial is complete."""
    trials = [t for t in study.leaders if _curves(t)]
    if not trials:
        return None
    figures = [_by_step(trials, study), _histogram(trials[0], study)]
    return Group(
        "gradient-norm-figures",
        "Gradient norms",
        "Before clipping. A threshold just above the usual norm, at the 90th percentile, is where to begin "
        "if training has to be clipped; single norms far above it are a sign of instability.",
        tuple(figure for figure in figures if figure is not None),
        ("leaders", "lines"),
    )


def _curves(trial: Trial) -> dict[str, np.ndarray]:
    """Returns step, mean and largest norm of at most POINTS stretches of steps, all finite and above 0."""
    c = trial.records.curves
    if not {"gradient_norm", "gradient_norm_max"} <= set(c):
        return {}
    there = np.isfinite(c["gradient_norm"]) & np.isfinite(c["gradient_norm_max"])
    there &= c["gradient_norm"] > 0
    steps, means, most = (c[name][there] for name in ("step", "gradient_norm", "gradient_norm_max"))
    if not len(steps):
        return {}
    every = -(-len(steps) // POINTS)
    starts = np.arange(0, len(steps), every)
    ends = np.minimum(starts + every, len(steps))
    return {
        "step": steps[ends - 1],
        "mean": np.add.reduceat(means, starts) / (ends - starts),
        "most": np.maximum.reduceat(most, starts),
    }


def _by_step(trials: list[Trial], study: Study) -> Figure:
    """Returns the norms against the step: the mean of a stretch of steps, and its largest as a band."""
    curves = [_curves(t) for t in trials]
    drawn = np.concatenate([c[name] for c in curves for name in ("mean", "most")])
    limits = [value for value in _lines(trials[0], study).values() if value > 0]
    low, high = min(drawn.min(), *limits, drawn.max()), max(drawn.max(), *limits, drawn.min())
    last = max(trial.step for trial in trials)
    panel = Panel(
        axes.linear(0, last, "step", most=5),
        axes.padded(axes.log(low, high, LABEL), 0.03),
        right=36,
    )
    parts = panel.frame()
    ranks = {t.number: rank for rank, t in enumerate(study.leaders, 1)}
    bands, lines = [], []
    for trial in reversed(trials):
        bands.append(_band(panel, trial, ranks[trial.number]))
        lines.append(_line(panel, trial, ranks[trial.number]))
    parts += [
        *bands,
        *lines,
        *_levels(panel, trials[0], study),
        *_spikes(panel, study, trials, ranks),
    ]
    return Figure(
        "gradient-norms",
        "",
        "",
        svg.picture(
            panel.width, panel.height, "gradient norm against step", parts, "svg-gradient-norms"
        ),
        "Lines: means over stretches of steps; shaded: up to the largest norm in each.",
    )


def _lines(best: Trial, study: Study) -> dict[str, float]:
    """Returns the levels that are drawn across: the best trial's 90th percentile, and its threshold."""
    levels = {
        "90th percentile": best.records.percentiles.get(clipping.PERCENTILE, 0.0),
        "clip_norm": clipping.threshold(study, best),
    }
    return {name: value for name, value in levels.items() if value > 0}


def _levels(panel: Panel, best: Trial, study: Study) -> list[str]:
    levels = _lines(best, study)
    heights = [float(panel.up(np.array(v))) for v in levels.values()]
    # Above its line; the lower of two below its own, so that no line goes through a name.
    wanted = [y + 12 if y > min(heights) else y - 5 for y in heights]
    places = svg.spread(wanted, 14, panel.top + 8, panel.base - 4)
    parts = []
    for (name, value), y, at in zip(levels.items(), heights, places, strict=True):
        parts.append(svg.line(panel.left, y, panel.end, y, _level_class(name)))
        words = f"{name} {formatting.number(value)}"
        parts.append(svg.text(panel.end - 4, at, words, "zone end halo"))
    return parts


def _level_class(name: str) -> str:
    return "level" if name == "90th percentile" else "level threshold"


def _band(panel: Panel, trial: Trial, rank: int) -> str:
    """Returns the area between the mean and the largest norm of each stretch of steps."""
    c = _curves(trial)
    most, mean = panel.up(c["most"]), panel.up(c["mean"])
    return svg.area(panel.across(c["step"]), most, mean, f"band rank{rank}")


def _line(panel: Panel, trial: Trial, rank: int) -> str:
    c = _curves(trial)
    return svg.curve(
        panel.across(c["step"]), panel.up(c["mean"]), trial.number, f"front thin rank{rank}"
    )


def _spikes(panel: Panel, study: Study, trials: list[Trial], ranks: dict[int, int]) -> list[str]:
    """Returns the outlier gradients, marked, and named by their steps where there is room."""
    marks, found = [], []
    for trial in trials:
        if len(trial.records.every.get("loss", ())) < gradient_outliers.FEWEST:
            continue
        for spike in sorted(gradient_outliers.find(study, trial), key=lambda s: -s.times)[:SPIKES]:
            x = float(panel.across(np.array(spike.step)))
            y = max(float(panel.up(np.array(spike.norm))), panel.top + 6) - 6
            class_ = f"spike rank{ranks[trial.number]}"
            marks.append(svg.mark("down", x, y, trial.number, class_))
            found.append((x, y, f"step {formatting.count(spike.step)}"))
    taken = [(x - 5, x + 5, y) for x, y, _ in found]
    names = []
    for x, y, words in found:
        width = 7.0 * len(words)
        for left, right in ((x + 7, x + 7 + width), (x - 7 - width, x - 7)):
            inside = panel.left < left and right < panel.end
            if inside and all(right < a or left > b or abs(y - c) > 12 for a, b, c in taken):
                taken.append((left, right, y))
                names.append(
                    svg.text(x + 7, y + 4, words, "zone halo")
                    if left > x
                    else svg.text(x - 7, y + 4, words, "zone halo end")
                )
                break
    return [*names, *marks]


def _histogram(best: Trial, study: Study) -> Figure | None:
    """Returns the histogram of the best trial's norms over all steps."""
    edges, counts = best.records.edges, best.records.counts
    if not len(counts) or not counts.sum():
        return None
    levels = _lines(best, study)
    logs = [np.log10(value) for value in levels.values()]
    low, high = min(edges[0], *logs, edges[-1]), max(edges[-1], *logs, edges[0])
    x_axis = axes.padded(axes.log(10.0**low, 10.0**high, f"{LABEL}, trial {best.number}"), 0.02)
    panel = Panel(x_axis, _counts(float(counts.max())), top=42)
    parts = panel.frame()
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if not count:
            continue
        x, end, y = (
            float(v)
            for v in (panel.across(10**left), panel.across(10**right), panel.up(np.array(count)))
        )
        parts.append(
            svg.element(
                "rect",
                class_="hist",
                x=x,
                y=y,
                width=max(0.8, end - x - 0.8),
                height=float(panel.base - y),
            )
        )
    parts += _marked(panel, levels)
    fraction = best.records.clipped_fraction
    clipped = clipping.threshold(study, best) > 0 and fraction is not None
    return Figure(
        "gradient-norm-histogram",
        "",
        "",
        svg.picture(
            panel.width,
            panel.height,
            "histogram of gradient norms",
            parts,
            "svg-gradient-histogram",
        ),
        f"{formatting.percent(fraction)} of the updates were clipped." if clipped else "",
    )


def _marked(panel: Panel, levels: dict[str, float]) -> list[str]:
    """Returns lines up from the horizontal axis, their names beside them and clear of one another."""
    places = sorted((float(panel.across(np.array(v))), name, v) for name, v in levels.items())
    parts = []
    for i, (x, name, value) in enumerate(places):
        left = x > (panel.left + panel.end) / 2 if len(places) == 1 else i == 0
        room = x - panel.left if left else panel.end - x
        row = (
            0 if room > NAME else 1
        )  # where a name must go to the other side, it stands above the other
        left = left if room > NAME else not left
        top = panel.top - 6 - 14 * row
        parts.append(svg.line(x, top - 8, x, panel.base, _level_class(name)))
        words = f"{name} {formatting.number(value)}"
        parts.append(svg.text(x + (-5 if left else 5), top, words, f"zone halo{' end' * left}"))
    return parts


def _counts(top: float) -> Axis:
    high = max(top, 4.0)
    ticks = tuple(
        Tick(v / (1.05 * high), formatting.count(round(v)))
        for v, step in axes.nice(0, high, 4)
        if step >= 1
    )
    return Axis("steps", lambda v: np.asarray(v, float) / (1.05 * high), ticks)
