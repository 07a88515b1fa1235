"""Training curves: training and validation metrics against the step, the best few trials in front.

Source: playbook, "Examining the training curves" and "Automate generically useful plots".
"""

import dataclasses

import numpy as np

from playbook_jax import trial as trial_lib
from playbook_jax.analysis import axes, numerals, objective_axis, references, svg
from playbook_jax.analysis.figures import Figure, Group
from playbook_jax.analysis.panel import Panel
from playbook_jax.analysis.study import Study, Trial

ORDER = 20
POINTS = 40_000  # in one plot: what keeps the page of 1,000 trials small
FEWEST_POINTS = 12  # of one curve
MANY, CROWD = 60, 300  # curves from which they are drawn thinner
PREFERRED = ("error_rate", "accuracy", "loss")  # after the objective; others are not drawn
SPLITS = ("validation", "train")


def draw(study: Study) -> Group | None:
    """Returns a pair of plots, validation and training, for the objective and for the loss."""
    names = {name for trial in study.trials for name in trial.evaluations} - {"step"}
    kinds = dict.fromkeys([study.metric.split("/", 1)[-1], *PREFERRED])
    figures: list[Figure] = []
    for kind in kinds:
        pair = [f"{split}/{kind}" for split in SPLITS if f"{split}/{kind}" in names]
        if study.metric in names and study.metric.endswith(f"/{kind}") and study.metric not in pair:
            pair.insert(0, study.metric)
        figures += _pair(study, pair) if pair else []
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


def _pair(study: Study, metrics: list[str]) -> list[Figure]:
    """Returns plots of the metrics on one common scale, so that they can be compared."""
    drawn = [trial for trial in study.trials if any(m in trial.evaluations for m in metrics)]
    # A diverging trial would stretch the axis until nothing else can be seen.
    judged = [t for t in drawn if t.state != trial_lib.INFEASIBLE] or drawn
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
    figures = [_plot(study, metric, drawn, shown.axis, last) for metric in metrics]
    return [dataclasses.replace(figures[0], starts_row=True), *figures[1:]]


def _plot(
    study: Study, metric: str, drawn: list[Trial], y_axis: axes.Axis, last_step: float
) -> Figure:
    label = numerals.metric_label(metric)
    unit = " (%)" if numerals.is_rate(metric) else ""
    panel = Panel(
        axes.linear(0, last_step, "step", most=5),
        dataclasses.replace(y_axis, label=label + unit),
        right=36,
    )
    leaders = {trial.number: rank for rank, trial in enumerate(study.leaders, 1)}
    drawn = [trial for trial in drawn if metric in trial.evaluations]
    points = max(FEWEST_POINTS, POINTS // max(1, len(drawn)))
    behind, ends = [], []
    for trial in drawn:
        if trial.number not in leaders:
            diverged = trial.state == trial_lib.INFEASIBLE
            behind.append(curve(panel, trial, metric, points, "bad" if diverged else None))
            if diverged and len(drawn) <= CROWD:
                ends.append(_cross(panel, trial, metric))
    # So many curves are a texture, in which only those that are pointed at need a mark of their own.
    thin = " crowd" if len(drawn) > CROWD else " many" if len(drawn) > MANY else ""
    clip = f"clip-{metric.replace('/', '-')}"
    parts = [
        clip_area(panel, clip),
        *(references.band(panel, study) if metric == study.metric else []),
        *panel.frame(),
        svg.element("g", "".join(behind + ends), class_=f"curves{thin}", clip_path=f"url(#{clip})")
        if behind
        else "",
        *_front(panel, study, metric, clip),
    ]
    return Figure(
        f"curve-{metric.replace('/', '-')}",
        "",
        "",
        svg.picture(
            panel.width, panel.height, f"{label} against step, a line a trial", parts, f"svg-{clip}"
        ),
    )


def clip_area(panel: Panel, name: str) -> str:
    """Returns the area outside of which curves are not drawn, with room for lines on its border."""
    area = svg.element(
        "rect",
        x=float(panel.left - 2),
        y=float(panel.top - 4),
        width=float(panel.end - panel.left + 4),
        height=float(panel.base - panel.top + 6),
    )
    return svg.element("clipPath", area, id=name)


def _front(panel: Panel, study: Study, metric: str, clip: str) -> list[str]:
    """Returns the best few trials' curves, the best on top, their best steps and their numbers."""
    lines, stars, ends = [], [], []
    for rank, trial in reversed(list(enumerate(study.leaders, 1))):
        if metric not in trial.evaluations:
            continue
        lines.append(curve(panel, trial, metric, trial_lib.CURVE_POINTS + 1, f"front rank{rank}"))
        steps, values = trial.evaluations["step"], trial.evaluations[metric]
        at = np.flatnonzero((steps == trial.best_step) & np.isfinite(values))
        if metric.startswith(SPLITS[0]) and len(at):
            x, y = (
                float(f(v))
                for f, v in zip(
                    (panel.across, panel.up), (steps[at[0]], values[at[0]]), strict=True
                )
            )
            stars.append(svg.star(x, y, f"star rank{rank}", trial=trial.number))
        finite = values[np.isfinite(values)]
        if len(finite):
            ends.append((float(np.clip(panel.up(finite[-1]), panel.top, panel.base)), trial, rank))
    places = svg.spread([y for y, _, _ in ends], 13, panel.top + 4, panel.base)
    labels = [
        svg.text(panel.end + 12, y + 4, str(t.number), f"label rank{rank}", data_t=t.number)
        for y, (_, t, rank) in zip(places, ends, strict=True)
    ]
    return [svg.element("g", "".join(lines), clip_path=f"url(#{clip})"), *stars, *labels]


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
