"""Training curves: training and validation metrics against the step, the best few trials in front.

Source: playbook, "Examining the training curves" and "Automate generically useful plots".
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import formatting, groups
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.figures import Figure, Group
from playbook_jax.analysis.render import axes, objective_axis, reference_lines, svg
from playbook_jax.analysis.render.plot_frame import Panel

ORDER = 20
POINTS = 40_000  # in one plot: what keeps the page of 1,000 trials small
FEWEST_POINTS = 12  # of one curve
MANY, CROWD = 60, 300  # curves from which they are drawn thinner
PREFERRED = ("error_rate", "accuracy", "loss")  # after the objective; others are not drawn
SPLITS = ("validation", "train")


def draw(study: Study) -> Group | None:
    """Returns a pair of plots, validation and training, for the objective and for the loss."""
    figures: list[Figure] = []
    for metrics in pairs(study.metric, study.trials):
        drawn = [trial for trial in study.trials if any(m in trial.evaluations for m in metrics)]
        # A diverging trial would stretch the axis until nothing else can be seen.
        judged = [t for t in drawn if not t.failed] or drawn
        figures += plots(study, metrics, judged, drawn, _plot)
    if not figures:
        return None
    return Group(
        "training-curves",
        "Training curves",
        "Validation beside training, over the course of training. Look for validation that worsens "
        "again (overfitting), for scatter at the end, and for curves that still fall or were flat "
        "long before. The stars are where the best checkpoints were found.",
        tuple(figures),
        ("leaders", "others", "infeasible"),
    )


def pairs(objective: str, trials: Sequence[Trial]) -> list[list[str]]:
    """Returns the metrics to be drawn beside one another, those of the objective first."""
    recorded = {name for trial in trials for name in trial.evaluations}
    found = []
    for kind in dict.fromkeys([objective.split("/", 1)[-1], *PREFERRED]):
        names = [f"{split}/{kind}" for split in SPLITS]
        if objective.endswith(f"/{kind}") and objective not in names:
            names.insert(0, objective)
        found.append([name for name in names if name in recorded])
    return [names for names in found if names]


def plots(
    study: Study,
    metrics: Sequence[str],
    judged: Sequence[Trial],
    drawn: Sequence[Trial],
    plot: Callable[[Study, str, Sequence[Trial], Panel], Figure],
) -> list[Figure]:
    """Returns plots of metrics on one common scale, so that they can be compared.

    Args:
      study: the study.
      metrics: at least one, the one that must be seen well first.
      judged: the trials whose values the scale is to hold.
      drawn: those that are drawn.
      plot: makes a plot of a metric in a frame.
    """
    first, *others = (
        np.concatenate([t.evaluations[m] for t in judged if m in t.evaluations] or [[]])
        for m in metrics
    )
    values = np.concatenate([first, *others])
    if not np.isfinite(values).any():
        return []
    rising = metrics[0].endswith("accuracy") or (study.maximize and metrics[0] == study.metric)
    shown = objective_axis.curves(metrics[0], values, first, rising)
    last = max(float(trial.evaluations["step"][-1]) for trial in drawn)
    figures = []
    for metric in metrics:
        unit = " (%)" if formatting.is_rate(metric) else ""
        y_axis = dataclasses.replace(shown.axis, label=formatting.metric_label(metric) + unit)
        panel = Panel(axes.linear(0, last, "step", most=5), y_axis, right=36)
        figures.append(plot(study, metric, drawn, panel))
    return [dataclasses.replace(figures[0], starts_row=True), *figures[1:]]


def _plot(study: Study, metric: str, drawn: Sequence[Trial], panel: Panel) -> Figure:
    leaders = {trial.number: rank for rank, trial in enumerate(study.leaders, 1)}
    drawn = [trial for trial in drawn if metric in trial.evaluations]
    points = max(FEWEST_POINTS, POINTS // max(1, len(drawn)))
    behind, ends = [], []
    for trial in drawn:
        if trial.number not in leaders:
            behind.append(curve(panel, trial, metric, points, "bad" if trial.failed else None))
            if trial.state == trial_lib.INFEASIBLE and len(drawn) <= CROWD:
                ends.append(_cross(panel, trial, metric))
    # So many curves are a texture, in which only those that are pointed at need a mark of their own.
    thin = " crowd" if len(drawn) > CROWD else " many" if len(drawn) > MANY else ""
    parts = [
        clip_area(panel, metric),
        *(reference_lines.band(panel, study) if metric == study.metric else []),
        *panel.frame(),
        svg.element(
            "g", "".join(behind + ends), class_=f"curves{thin}", clip_path=f"url(#{_clip(metric)})"
        )
        if behind
        else "",
        *front(panel, metric, [(t, f"rank{leaders[t.number]}") for t in study.leaders[::-1]]),
    ]
    return figure(panel, metric, "a line a trial", parts)


def figure(panel: Panel, metric: str, told: str, parts: Sequence[str]) -> Figure:
    """Returns the plot of a metric against the step, of its parts."""
    label = f"{formatting.metric_label(metric)} against step, {told}"
    picture = svg.picture(panel.width, panel.height, label, parts, f"svg-{_clip(metric)}")
    return Figure(f"curve-{metric.replace('/', '-')}", "", "", picture)


def _clip(metric: str) -> str:
    """Returns the name of a metric's `clip_area`."""
    return f"clip-{metric.replace('/', '-')}"


def clip_area(panel: Panel, metric: str) -> str:
    """Returns the area to which a metric's curves are cut, with room for lines on its border."""
    area = svg.element(
        "rect",
        x=float(panel.left - 2),
        y=float(panel.top - 4),
        width=float(panel.end - panel.left + 4),
        height=float(panel.base - panel.top + 6),
    )
    return svg.element("clipPath", area, id=_clip(metric))


def front(
    panel: Panel, metric: str, trials: Sequence[tuple[Trial, str]], label: str = "label"
) -> list[str]:
    """Returns the curves that stand out, the last on top, with their best steps and their numbers.

    Args:
      panel: the plot.
      metric: the metric, in whose `clip_area` the curves stay.
      trials: with the class of each.
      label: the classes of all numbers.
    """
    lines, stars, ends = [], [], []
    for trial, class_ in trials:
        if metric not in trial.evaluations:
            continue
        lines.append(curve(panel, trial, metric, trial_lib.CURVE_POINTS + 1, f"front {class_}"))
        steps, values = trial.evaluations["step"], trial.evaluations[metric]
        at = np.flatnonzero((steps == trial.best_step) & np.isfinite(values))
        if metric.startswith(SPLITS[0]) and len(at):
            x, y = float(panel.across(steps[at[0]])), float(panel.up(values[at[0]]))
            stars.append(svg.star(x, y, f"star {class_}", trial=trial.number))
        finite = values[np.isfinite(values)]
        if len(finite):
            ends.append(
                (float(np.clip(panel.up(finite[-1]), panel.top, panel.base)), trial, class_)
            )
    places = svg.spread([y for y, _, _ in ends], 13, panel.top + 4, panel.base)
    labels = [
        svg.text(
            panel.end + 12,
            y + 4,
            str(groups.number(t)),
            f"{label} {class_}",
            data_t=t.number,
        )
        for y, (_, t, class_) in zip(places, ends, strict=True)
    ]
    return [svg.element("g", "".join(lines), clip_path=f"url(#{_clip(metric)})"), *stars, *labels]


def curve(panel: Panel, trial: Trial, metric: str, points: int, class_: str | None) -> str:
    """Returns a trial's curve of a metric, of so many points at most."""
    steps, values = trial.evaluations["step"], trial.evaluations[metric]
    if len(steps) > points:
        kept = np.linspace(0, len(steps) - 1, points).astype(int)
        steps, values = steps[kept], values[kept]
    # A little beyond the plot is far enough for what lies outside; the clip cuts it off.
    y = np.clip(panel.up(values), panel.top - 40, panel.base + 40)
    return svg.curve(panel.across(steps), y, trial.number, class_)


def _cross(panel: Panel, trial: Trial, metric: str) -> str:
    """Returns the cross where the curve of an infeasible trial ends."""
    values = trial.evaluations[metric]
    finite = np.flatnonzero(np.isfinite(values))
    if not len(finite):
        return ""
    x = float(panel.across(trial.evaluations["step"][finite[-1]]))
    y = float(np.clip(panel.up(values[finite[-1]]), panel.top, panel.base))
    return svg.mark("cross", x, y, trial.number, "x")
