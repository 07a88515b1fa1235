"""Basic hyperparameter axis plots: the objective against each hyperparameter that varies.

Source: playbook, "Identifying bad search space boundaries", Figure 1.
"""

import math

import numpy as np

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import failed, formatting
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.figures import Figure, Group
from playbook_jax.analysis.render import axes, metric_picker, objective_axis, reference_lines, svg
from playbook_jax.analysis.render.axes import Axis
from playbook_jax.analysis.render.objective_axis import ObjectiveAxis
from playbook_jax.analysis.render.plot_frame import Panel
from playbook_jax.studies.space.search_space import Range

ORDER = 10
MANY = 60  # trials that failed, from which their crosses are drawn thinner
STRIP = 24  # height of the strip that holds the trials that failed
JITTER = 0.56  # how much of a listed value's width its trials spread over
_GOLDEN = (math.sqrt(5) - 1) / 2


def draw(study: Study) -> Group | None:
    """Returns a plot for each hyperparameter that varies."""
    figures = tuple(_plot(study, h) for h in study.hyperparameters)
    if not figures:
        return None
    return Group(
        "hyperparameter-axes",
        "Hyperparameter axes",
        "Each point is a trial, at the best value it reached in training. Good search spaces have the "
        "stars away from the bounds, which are the dashed lines.",
        figures,
        ("leaders", "complete", "baseline", "infeasible", "hollow"),
        metric_picker.markup(study, _frame(study, x_axis(study.hyperparameters[0]))[0]),
    )


def _frame(study: Study, x: Axis) -> tuple[Panel, ObjectiveAxis]:
    """Returns the frame of a plot of the objective, with a strip for trials that failed."""
    values = np.array([trial.objective for trial in study.learned])
    shown = objective_axis.objectives(study.metric, values, study.maximize)
    return with_strip(study, x, shown), shown


def with_strip(study: Study, x: Axis, shown: ObjectiveAxis) -> Panel:
    """Returns a frame with a strip for the trials of a study that failed to train, if it has any."""
    strip = STRIP if study.failures else 0
    above, below = (0, strip) if study.maximize else (strip, 0)
    return Panel(x, shown.axis, above=above, below=below)


def _plot(study: Study, hyperparameter: Hyperparameter) -> Figure:
    complete, failures = study.learned, study.failures
    panel, shown = _frame(study, x_axis(hyperparameter))
    parts = [*bounds(panel, hyperparameter), *panel.frame()]
    crosses = failure_strip(panel, study, hyperparameter, failures)
    if crosses:
        class_ = "crowd" if len(failures) > MANY else None
        parts.append(svg.element("g", "".join(crosses), class_=class_))
    marks, beyond = _complete(panel, study, hyperparameter, complete, shown)
    if not complete:
        parts.append(empty(panel, study))
    label = f"{shown.axis.label} against {hyperparameter.label}, a point a trial"
    figure_id = f"axis-{hyperparameter.name}"
    return Figure(
        figure_id,
        hyperparameter.label,
        f"{hyperparameter.role}, {describe(hyperparameter)}",
        svg.picture(panel.width, panel.height, label, parts + marks, f"svg-{figure_id}"),
        _note(study, hyperparameter, beyond, shown),
    )


def empty(panel: Panel, study: Study) -> str:
    """Returns what stands in a plot without a point."""
    middle = (panel.left + panel.end) / 2
    text = "no trial that trained" if study.ranked else "no complete trial yet"
    return svg.text(middle, float(panel.at(0.5)), text, "empty")


def describe(hyperparameter: Hyperparameter) -> str:
    """Returns a search space in words: "0.001 to 10, log"."""
    space = hyperparameter.space
    if not isinstance(space, Range):
        return formatting.plural(len(space.values), "value")
    whole = ", whole numbers" if space.type == "int" else ""
    low, high = formatting.value(space.low), formatting.value(space.high)
    scale = f"log in 1 − {hyperparameter.label}" if space.scale == "one_minus_log" else space.scale
    return f"{low} to {high}, {scale}{whole}"


def x_axis(hyperparameter: Hyperparameter) -> Axis:
    """Returns the axis of a hyperparameter in its own units and scale; it takes `x_of` a trial."""
    space, label = hyperparameter.space, hyperparameter.label
    if not isinstance(space, Range):
        return axes.levels([formatting.value(level) for level in hyperparameter.levels], label)
    if space.scale == "log":
        return axes.padded(axes.log(space.low, space.high, label))
    if space.scale == "one_minus_log":
        return axes.padded(axes.one_minus_log(space.low, space.high, label))
    return axes.padded(axes.linear(space.low, space.high, label))


def x_of(hyperparameter: Hyperparameter, trial: Trial) -> float:
    """Returns what the axis takes for a trial, NaN where the trial lacks the hyperparameter."""
    value = trial.parameters.get(hyperparameter.name)
    if not isinstance(hyperparameter.space, Range):
        names = [formatting.value(level) for level in hyperparameter.levels]
        if value is None or formatting.value(value) not in names:
            return math.nan
        return names.index(formatting.value(value)) + JITTER * (
            (trial.number + 1) * _GOLDEN % 1 - 0.5
        )
    if math.isnan(hyperparameter.unit(value)):
        return math.nan
    return value


def bounds(panel: Panel, hyperparameter: Hyperparameter) -> list[str]:
    """Returns the search space's bounds, with what lies outside shaded."""
    space = hyperparameter.space
    if not isinstance(space, Range):
        return []
    low, high = panel.across(np.array([space.low, space.high], float))
    parts = []
    for x, start, end in ((low, panel.left, low), (high, high, panel.end)):
        parts.append(
            svg.element(
                "rect",
                class_="outside",
                x=float(start),
                y=float(panel.top),
                width=float(end - start),
                height=float(panel.base - panel.top),
            )
        )
        parts.append(svg.line(x, panel.top, x, panel.base, "bound"))
    return parts


def failure_strip(
    panel: Panel, study: Study, hyperparameter: Hyperparameter, failures: list[Trial]
) -> list[str]:
    """Returns the crosses in their strip at the worse end, hollow where a trial did not diverge."""
    if not failures:
        return []
    y = panel.base - STRIP / 2 if study.maximize else panel.top + STRIP / 2
    border = panel.base - STRIP if study.maximize else panel.top + STRIP
    parts = [
        svg.line(panel.left, border, panel.end, border, "bound"),
        svg.text(panel.left - 7, y + 3.7, failed.word(study.failures), "tick end bad"),
    ]
    for trial in failures:
        x = x_of(hyperparameter, trial)
        if math.isfinite(x):
            diverged = trial.state == trial_lib.INFEASIBLE
            kind, class_ = ("cross", "x") if diverged else ("hollow", "x hollow")
            parts.append(svg.mark(kind, float(panel.across(x)), y, trial.number, class_))
    return parts


def _complete(
    panel: Panel,
    study: Study,
    hyperparameter: Hyperparameter,
    complete: list[Trial],
    shown: ObjectiveAxis,
) -> tuple[list[str], list[Trial]]:
    """Returns the marks of the complete trials, the best on top, and the trials beyond the axis."""
    leaders = {trial.number: rank for rank, trial in enumerate(study.leaders, 1)}
    radius = 4.2 if len(complete) <= 60 else 3.2 if len(complete) <= 300 else 2.4
    marks, stars, beyond, marked = [], [], [], []
    for trial in complete:
        x = x_of(hyperparameter, trial)
        if not math.isfinite(x):
            continue
        across, worse = float(panel.across(x)), shown.is_beyond(trial.objective, study.maximize)
        if trial is study.baseline and trial.number not in leaders:
            marked += reference_lines.baseline(panel, study, across, worse)
        elif worse:
            beyond.append(trial)
            marks.append(arrow(panel, study, across, trial, "far"))
        elif trial.number in leaders:
            stars.append((across, float(panel.up(trial.objective)), trial, leaders[trial.number]))
        else:
            marks.append(svg.dot(across, float(panel.up(trial.objective)), radius, trial.number))
    dots = svg.element("g", "".join(marks), class_="dots") if marks else ""
    return [dots, *marked, *_stars(panel, stars)], beyond


def arrow(panel: Panel, study: Study, x: float, trial: Trial, class_: str) -> str:
    """Returns the mark of a trial that is beyond the vertical axis, at its worse end."""
    kind, y = ("down", panel.at(0) - 4) if study.maximize else ("up", panel.at(1) + 6)
    return svg.mark(kind, x, y, trial.number, class_)


def _stars(panel: Panel, stars: list[tuple[float, float, Trial, int]]) -> list[str]:
    """Returns the best trials' stars, the best on top, and their numbers beside them."""
    parts = [svg.star(x, y, f"star rank{rank}", trial=t.number) for x, y, t, rank in stars[::-1]]
    taken = [(x, y) for x, y, _, _ in stars]
    for x, y, trial, rank in stars:
        at_x, at_y = svg.free_place(x, y, taken, panel.end)
        taken.append((at_x, at_y))
        class_ = f"label middle rank{rank}"
        parts.append(svg.text(at_x, at_y + 4, str(trial.number), class_, data_t=trial.number))
    return parts


def _note(
    study: Study, hyperparameter: Hyperparameter, beyond: list[Trial], shown: ObjectiveAxis
) -> str:
    notes = []
    if beyond:
        end = shown.low if study.maximize else shown.high
        where = "below" if study.maximize else "above"
        notes.append(
            f"{formatting.plural(len(beyond), 'complete trial')} {where} "
            f"{formatting.metric(study.metric, end)} {'is' if len(beyond) == 1 else 'are'} drawn as "
            f"{'an arrow' if len(beyond) == 1 else 'arrows'}."
        )
    outside = study.baseline is not None and math.isnan(x_of(hyperparameter, study.baseline))
    if outside and hyperparameter.name in study.baseline.parameters:
        value = formatting.value(study.baseline.parameters[hyperparameter.name])
        notes.append(f"The baseline has {value}, outside of the search space.")
    without = [t for t in study.trials if hyperparameter.name not in t.parameters]
    if without:
        notes.append(f"{formatting.plural(len(without), 'trial')} without this hyperparameter.")
    return " ".join(notes)
