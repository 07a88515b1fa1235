"""Figures of a group: the studies beside one another, each with its own colour, shape and dashes.

Axes of hyperparameters that all studies search alike hold all trials; one that is conditional, or has other
bounds in another study, has an axis for each study. All axes of the objective are the same.

Source: playbook, "Extracting insight from experimental results" and its figures.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from playbook_jax.analysis.data import groups, hyperparameters
from playbook_jax.analysis.data.groups import Group
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.figures import (
    Figure,
    Group as Figures,
    hyperparameter_axes,
    training_curves,
)
from playbook_jax.analysis.figures.hyperparameter_axes import describe, x_axis, x_of
from playbook_jax.analysis.findings import enough_trials
from playbook_jax.analysis.render import axes, objective_axis, svg
from playbook_jax.analysis.render.objective_axis import ObjectiveAxis
from playbook_jax.analysis.render.plot_frame import Panel
from playbook_jax.analysis.stats import best_of
from playbook_jax.studies.space.search_space import Range

STYLES = 6  # that can be told apart, also without colour; the next study begins anew
SIZES = 24  # numbers of trials at which the best of so many is drawn
MANY = 150  # trials from which marks are drawn smaller


def draw(group: Group, own: Group | None = None) -> list[Figures]:
    """Returns the figures that a group has and a single study has not.

    Args:
      group: the group.
      own: the same studies with search spaces of their own, where those of `group` are wider: the bounds
        that are drawn.
    """
    made = [_curves(group), _axes(group, own or group), _best_of_k(group)]
    return [figures for figures in made if figures.figures]


def symbol(index: int) -> str:
    """Returns the mark and the line of the study at a place, as a small picture."""
    line = svg.element("path", class_=f"front m{index % STYLES}", d="M0 7h32")
    mark = svg.member(16, 7, 4.4, index % STYLES)
    return svg.element("svg", line + mark, viewBox="0 0 32 14", aria_hidden="true")


def _curves(group: Group) -> Figures:
    """Returns the training curves of the best trial of each study."""
    bests = [t for _, m in group.read if (t := _joined_best(group, m.study)) is not None]
    drawn = [t for t in bests if t.evaluations]
    figures: list[Figure] = []
    for metrics in training_curves.pairs(group.joined.metric, bests):
        figures += training_curves.plots(group.joined, metrics, bests, drawn, _curve_plot)
    return Figures(
        "training-curves",
        "Training curves of the best trials",
        "The best trial of each study, validation beside training. A best one that worsens again, or still "
        "falls, is not the best that its value can do. The stars are where the best checkpoints were found.",
        tuple(figures),
    )


def _joined_best(group: Group, study: Study) -> Trial | None:
    if study.best is None:
        return None
    index = next(i for i, m in group.read if m.study is study)
    number = groups.offset(index) + study.best.number
    return dataclasses.replace(study.best, number=number)


def _curve_plot(study: Study, metric: str, bests: Sequence[Trial], panel: Panel) -> Figure:
    styled = [(trial, f"m{groups.place(trial) % STYLES}") for trial in bests]
    front = training_curves.front(panel, metric, styled, "label middle")
    parts = [training_curves.clip_area(panel, metric), *panel.frame(), *front]
    return training_curves.figure(panel, metric, "a line for the best trial of each study", parts)


def _label(x: float, y: float, trial: Trial) -> str:
    class_ = f"label middle m{groups.place(trial) % STYLES}"
    return svg.text(x, y, str(groups.number(trial)), class_, data_t=trial.number)


def _axes(group: Group, own: Group) -> Figures:
    """Returns the hyperparameter axes: one for all studies where they search alike, else one for each."""
    study, common = group.joined, set(groups.shared(group))
    objectives = np.array([t.objective for t in study.learned])
    shown = objective_axis.objectives(study.metric, objectives, study.maximize)
    tuned = [h for h in study.hyperparameters if h.role != "scientific"]
    together = [
        _axis(group, h, shown, study.trials, "", _bounds(own, h)) for h in tuned if h.name in common
    ]
    apart: dict[str, list[Figure]] = {}
    for index, member in group.read:
        trials = [t for t in study.trials if groups.place(t) == index]
        for h in member.study.hyperparameters:
            if h.name not in common:
                joined = next(
                    j for j in tuned if j.name.startswith(f"{h.name}@") and _has(trials, j)
                )
                apart.setdefault(h.name, []).append(
                    _axis(group, joined, shown, trials, member.label)
                )
    for figures in apart.values():
        if len(figures) > 1:
            figures[0] = dataclasses.replace(figures[0], starts_row=True)
        together += figures
    return Figures(
        "hyperparameter-axes",
        "Hyperparameter axes",
        "Each point is a trial, at the best value it reached in training; the stars are the best of each "
        "study. What has other bounds in another study has an axis of its own. The dashed lines are the "
        "bounds, from which the stars should keep away.",
        tuple(together),
    )


def _bounds(own: Group, h: Hyperparameter) -> list[tuple[int, Hyperparameter]]:
    """Returns the bounds to be drawn: one pair if they are the same in all studies, else each study's."""
    found = [(i, o) for i, m in own.read for o in m.study.hyperparameters if o.name == h.name]
    return found if any(o.space != h.space for _, o in found) else []


def _has(trials: Sequence[Trial], h: Hyperparameter) -> bool:
    return any(h.name in trial.parameters for trial in trials)


def _axis(
    group: Group,
    h: Hyperparameter,
    shown: ObjectiveAxis,
    trials: Sequence[Trial],
    of: str,
    bounds: Sequence[tuple[int, Hyperparameter]] = (),
) -> Figure:
    """Returns an axis.

    Args:
      group: the group.
      h: the hyperparameter.
      shown: the vertical axis.
      trials: the trials that have it.
      of: which study's it is; empty where it is that of all.
      bounds: the studies' own bounds, by their places, where they differ from those of the axis.
    """
    study = dataclasses.replace(group.joined, trials=tuple(trials))
    title = hyperparameters.label(h.name.partition("@")[0])
    x = dataclasses.replace(x_axis(h), label=title)
    panel = hyperparameter_axes.with_strip(group.joined, x, shown)  # in all axes, or in none
    parts = [*hyperparameter_axes.bounds(panel, h)] if not bounds else _edges(panel, bounds)
    parts += panel.frame()
    crosses = hyperparameter_axes.failure_strip(panel, study, h, study.failures)
    parts.append(svg.element("g", "".join(crosses)) if crosses else "")
    marks, stars = _marks(panel, study, h, shown)
    parts += [svg.element("g", "".join(marks), class_="dots") if marks else "", *stars]
    if not study.learned:
        parts.append(hyperparameter_axes.empty(panel, study))
    id_ = re.sub(r"\s", "_", f"axis-{h.name}")
    told = f"{shown.axis.label} against {title}, a point a trial"
    picture = svg.picture(panel.width, panel.height, told, parts, f"svg-{id_}")
    space = describe(dataclasses.replace(h, name=h.name.partition("@")[0]))
    return Figure(id_, title, f"{of}: {space}" if of else space, picture)


def _edges(panel: Panel, bounds: Sequence[tuple[int, Hyperparameter]]) -> list[str]:
    """Returns a line at each bound of each study, in its colour."""
    return [
        svg.line(float(x), panel.top, float(x), panel.base, f"bound own m{index % STYLES}")
        for index, h in bounds
        if isinstance(h.space, Range)
        for x in panel.across(np.array([h.space.low, h.space.high], float))
    ]


def _marks(
    panel: Panel, study: Study, h: Hyperparameter, shown: ObjectiveAxis
) -> tuple[list[str], list[str]]:
    """Returns the marks of the complete trials, and the stars of the best of each study with numbers."""
    marks, stars, taken, seen = [], [], [], set()
    radius = 4.2 if len(study.learned) <= MANY else 3.0
    for trial in study.learned:
        style = groups.place(trial) % STYLES
        best = groups.place(trial) not in seen
        seen.add(groups.place(trial))
        at = x_of(h, trial)
        if not np.isfinite(at):
            continue
        x, y = float(panel.across(at)), float(panel.up(trial.objective))
        if shown.is_beyond(trial.objective, study.maximize):
            class_ = f"far mark m{style}"
            marks.append(hyperparameter_axes.arrow(panel, study, x, trial, class_))
        elif best:
            stars.append((x, y, trial))
            taken.append((x, y))
        else:
            marks.append(svg.member(x, y, radius, style, trial.number))
    drawn = [
        svg.star(x, y, f"star m{groups.place(t) % STYLES}", trial=t.number) for x, y, t in stars
    ]
    for x, y, trial in stars:
        at_x, at_y = svg.free_place(x, y, taken, panel.end)
        taken.append((at_x, at_y))
        drawn.append(_label(at_x, at_y + 4, trial))
    return marks, drawn


def _best_of_k(group: Group) -> Figures:
    """Returns the best of so many trials of each study, by bootstrap, on one axis."""
    study, lines = group.joined, []
    turn = -1 if study.maximize else 1
    for index, member in group.read:
        if len(member.study.learned) >= enough_trials.FEWEST:
            costs, failures = enough_trials.draws(member.study)
            number = len(costs) + failures
            sizes = np.unique(np.geomspace(1, number, SIZES).round().astype(int))
            boxes = np.array([best_of.bootstrap(costs, failures, int(size)) for size in sizes])
            lines.append((index, sizes, turn * boxes))
    shown = [v for _, _, boxes in lines for v in boxes[:, 2] if np.isfinite(v)]
    figures = ()
    if len(lines) > 1 and shown:
        figures = (_best_of_k_plot(group, lines, np.array(shown)),)
    return Figures(
        "best-of-k-figures",
        "Number of trials",
        "What the best of so many trials of each study comes to, by drawing from them (bootstrap): the line "
        "is the median, half of all draws lie in the band. Where lines cross, the winner depends on how "
        "much one tunes; a line that still falls belongs to a value that is not tuned well yet.",
        figures,
    )


def _best_of_k_plot(
    group: Group, lines: list[tuple[int, np.ndarray, np.ndarray]], shown: np.ndarray
) -> Figure:
    study = group.joined
    y = objective_axis.objectives(study.metric, shown, study.maximize)
    most = max(int(sizes[-1]) for _, sizes, _ in lines)
    panel = Panel(axes.log(1, max(2, most), "number of trials"), y.axis, height=280, right=36)
    bands, curves = [], []
    for index, sizes, boxes in lines:
        style = index % STYLES
        kept = np.isfinite(boxes[:, 1:4]).all(axis=1)
        xs = panel.across(sizes[kept])
        low, middle, high = np.clip(panel.up(boxes[kept, 1:4]), panel.top, panel.base).T
        if len(xs) > 1:
            bands.append(svg.area(xs, low, high, f"band m{style}"))
            points = " ".join(
                f"{svg.coordinate(a)} {svg.coordinate(b)}" for a, b in zip(xs, middle, strict=True)
            )
            curves.append(svg.element("path", class_=f"front m{style}", d=f"M{points}"))
    told = "best objective against the number of trials, a line a study"
    parts = [*panel.frame(), *bands, *curves]
    picture = svg.picture(panel.width, panel.height, told, parts, "svg-best-of-k")
    return Figure("best-of-k", "", "", picture)
