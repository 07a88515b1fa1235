"""Isolation plots: the best trial for each value of a scientific hyperparameter.

Source: playbook, "Detecting whether a change is useful with isolation plots", Figure 2; where the
hyperparameter has bounds, the axis is cut into buckets, which are drawn.
"""

import dataclasses
import math

import numpy as np

from playbook_jax.analysis.data import formatting, groups
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.figures import Figure, Group
from playbook_jax.analysis.figures.hyperparameter_axes import describe, x_axis, x_of
from playbook_jax.analysis.render import objective_axis, reference_lines, svg
from playbook_jax.analysis.render.objective_axis import ObjectiveAxis
from playbook_jax.analysis.render.plot_frame import Panel
from playbook_jax.analysis.stats import isolation
from playbook_jax.analysis.stats.isolation import Slice

ORDER = 5  # before the axes: it is about the study's question
_CAP = 5  # half the width of an interval's ends
_MOST_NUMBERS = 12  # values whose best trials' numbers find room


def draw(study: Study) -> Group | None:
    """Returns a plot for each scientific hyperparameter of which a trial is complete."""
    figures = []
    asked = study
    if study.group is not None and all(h.role != "scientific" for h in study.hyperparameters):
        asked = study.group
    for h in asked.hyperparameters:
        if h.role == "scientific":
            parts = [part for part in isolation.slices(asked, h) if part.complete]
            figures += [_plot(asked, h, parts)] if parts else []
    if not figures:
        return None
    return Group(
        "isolation-plots",
        "Isolation plots",
        "The best trial of each value, the nuisance hyperparameters optimized away. The line is the "
        f"{formatting.percent(isolation.LEVEL)} bootstrap interval: where the best might have come to lie "
        "had other trials been drawn; it never leads beyond the best.",
        tuple(figures),
        ("isolated", "complete", "baseline"),
    )


def _plot(study: Study, h: Hyperparameter, parts: list[Slice]) -> Figure:
    shown = _objectives(study, parts)
    panel = Panel(x_axis(h), shown.axis)
    places = [_Place.of(panel, h, part, shown) for part in parts]
    others = [t for part in parts for t in part.complete[1:]]
    inside = [t for t in others if shown.low <= t.objective <= shown.high]
    dots = [
        svg.dot(float(panel.across(x_of(h, t))), float(panel.up(t.objective)), 2.6, t.number)
        for t in inside
    ]
    figure_id = f"isolation-{h.name}"
    label = f"best {shown.axis.label} for each value of {h.label}"
    drawn = [
        *_edges(panel, h, study),
        *reference_lines.band(panel, study),
        *panel.frame(),
        svg.element("g", "".join(dots), class_="dots faint") if dots else "",
        *[
            mark
            for part, place in zip(parts, places, strict=True)
            for mark in _interval(part, place)
        ],
        *[_best(part, place) for part, place in zip(parts, places, strict=True)],
        *_numbers(panel, parts, places),
        *_baseline(panel, h, study, shown),
    ]
    return Figure(
        figure_id,
        h.label,
        describe(h),
        svg.picture(panel.width, panel.height, label, drawn, f"svg-{figure_id}"),
        " ".join(
            filter(
                None,
                [
                    _note(parts, places, len(others) - len(inside)),
                    costs(parts),
                    reference_lines.band_note(study),
                ],
            )
        ),
    )


def _objectives(study: Study, parts: list[Slice]) -> ObjectiveAxis:
    """Returns an axis from the best of all to where the intervals typically end."""
    worse = [part.interval[0 if part.maximize else 1] for part in parts]
    bests = [part.best.objective for part in parts]
    ends = [end if math.isfinite(end) else best for end, best in zip(worse, bests, strict=True)]
    ends += reference_lines.ends(study)
    best, worst = (max(bests), min(bests)) if study.maximize else (min(bests), max(bests))
    shown = objective_axis.objectives(study.metric, np.array([best, *ends]), study.maximize)
    if shown.low <= worst <= shown.high:
        return shown
    # Of two values far apart both are to be seen, which the bests themselves see to.
    return objective_axis.objectives(study.metric, np.array([*bests, *ends]), study.maximize)


def _baseline(panel: Panel, h: Hyperparameter, study: Study, shown: ObjectiveAxis) -> list[str]:
    """Returns the baseline, which is not among the trials that were drawn, if the plot has a place for it."""
    if study.baseline not in study.ranked:
        return []
    x = x_of(h, study.baseline)
    if not math.isfinite(x):
        return []
    beyond = shown.is_beyond(study.baseline.objective, study.maximize)
    return reference_lines.baseline(panel, study, float(panel.across(x)), beyond)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a slice is drawn.

    Attributes:
      x: horizontally, its best trial's own place, or the middle of its value's.
      y: its best trial's vertical place.
      end: where its interval ends at the worse side.
      best_beyond: whether the best trial lies beyond the axis, and is drawn as an arrow.
      end_beyond: whether the interval does, and leaves the plot.
    """

    x: float
    y: float
    end: float
    best_beyond: bool
    end_beyond: bool

    @classmethod
    def of(cls, panel: Panel, h: Hyperparameter, part: Slice, shown: ObjectiveAxis) -> "_Place":
        ends = part.best.objective, part.interval[0 if part.maximize else 1]
        beyond = [shown.is_beyond(end, part.maximize) for end in ends]
        edge = float(panel.at(0)) if part.maximize else float(panel.at(1))
        y = [edge if b else float(panel.up(end)) for end, b in zip(ends, beyond, strict=True)]
        return cls(_x(panel, h, part), *y, *beyond)


def _x(panel: Panel, h: Hyperparameter, part: Slice) -> float:
    """Returns where the best of a slice is drawn: its own place, or the middle of its value's."""
    if not isolation.is_listed(h) or not h.levels:
        return float(panel.across(x_of(h, part.best)))
    levels = [formatting.value(level) for level in h.levels]
    return float(panel.across(levels.index(formatting.value(part.best.parameters[h.name]))))


def _best(part: Slice, place: _Place) -> str:
    if place.best_beyond:
        kind = "down" if part.maximize else "up"
        return svg.mark(kind, place.x, place.y, part.best.number, "isolated")
    return svg.dot(place.x, place.y, 5.6, part.best.number, "isolated")


def _interval(part: Slice, place: _Place) -> list[str]:
    """Returns the interval as a line with ends; one that leaves the plot has no end there."""
    if place.best_beyond:
        return []
    caps = [place.y] if place.end_beyond else [place.y, place.end]
    return [
        svg.line(place.x, place.y, place.x, place.end, "interval"),
        *[svg.line(place.x - _CAP, y, place.x + _CAP, y, "interval") for y in caps],
    ]


def _numbers(panel: Panel, parts: list[Slice], places: list[_Place]) -> list[str]:
    """Returns the best trials' numbers beside their marks."""
    if len(parts) > _MOST_NUMBERS:
        return []
    taken, texts = [(place.x, place.y) for place in places], []
    for part, place in zip(parts, places, strict=True):
        x, y = svg.free_place(place.x, place.y, taken, panel.end)
        taken.append((x, y))
        number = part.best.number
        shown = str(groups.number(part.best))
        texts.append(svg.text(x, y + 4, shown, "label middle rank1", data_t=number))
    return texts


def _edges(panel: Panel, h: Hyperparameter, study: Study) -> list[str]:
    """Returns the edges of the buckets, if there are some."""
    if isolation.is_listed(h):
        return []
    ended = [t for t in [*study.drawn.learned, *study.drawn.failures] if h.name in t.parameters]
    xs = [float(panel.across(h.value(edge))) for edge in isolation.buckets(len(ended))]
    return [svg.line(x, panel.top, x, panel.base, "bound") for x in xs]


def costs(parts: list[Slice]) -> str:
    """Returns the number of parameters and the time of a step of each slice, where they were recorded."""
    told = [f"{part.label}: {', '.join(cost)}" for part in parts if (cost := part.costs_of_a_step)]
    return f"Parameters and time of a step: {'; '.join(told)}." if told else ""


def _note(parts: list[Slice], places: list[_Place], left_out: int) -> str:
    notes = []
    beyond = [p.label for p, place in zip(parts, places, strict=True) if place.best_beyond]
    if beyond:
        notes.append(f"Beyond the axis, as arrows: the best of {formatting.some(beyond, 4)}.")
    open_ = [part.label for part in parts if not all(map(math.isfinite, part.interval))]
    ends = [p.label for p, place in zip(parts, places, strict=True) if place.end_beyond]
    ends = [label for label in ends if label not in beyond + open_]
    if ends:
        told = "interval of" if len(ends) == 1 else "intervals of"
        end = "ends" if len(ends) == 1 else "end"
        notes.append(f"The {told} {formatting.some(ends, 4)} {end} beyond the axis.")
    if open_:
        notes.append(
            f"So many trials of {formatting.some(open_, 4)} failed that the interval has no end."
        )
    if left_out:
        are = "is" if left_out == 1 else "are"
        notes.append(
            f"{formatting.plural(left_out, 'other trial')} beyond the axis {are} not drawn."
        )
    return " ".join(notes)
