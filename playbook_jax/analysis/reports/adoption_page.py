"""A decision on adoption as a page, adoption.html: the verdict, every run of both sides, what to know."""

import numpy as np
from etils import epath

from playbook_jax import __version__
from playbook_jax.analysis.data.adoption import ADOPT, Comparison, Decision
from playbook_jax.analysis.render import axes, objective_axis, page, svg
from playbook_jax.analysis.render.html import escape, items, tag
from playbook_jax.analysis.render.plot_frame import Panel
from playbook_jax.analysis.reports import adoption_report, adoption_text

NAME = "adoption.html"
_SPREAD = 0.5  # of the width that a side has, over which its runs lie


def save(directory: epath.PathLike, comparison: Comparison, decision: Decision) -> epath.Path:
    """Writes the page into the workdir of scripts/replicate.py, and returns its path.

    Raises:
      UsageError: it can't be written.
    """
    return page.write(epath.Path(directory) / NAME, render(comparison, decision))


def render(comparison: Comparison, decision: Decision) -> str:
    """Returns the page."""
    told = [escape(line) for line in adoption_text.told(comparison, decision)]
    question = f"Should {comparison.candidate.source} be adopted?"
    switched = adoption_report.switched(comparison, decision)["text"]
    verdicts = [adoption_text.verdict(decision), *([switched] if switched else [])]
    lede = "".join(tag("p", escape(line), class_="lede") for line in verdicts)
    body = [
        tag("header", tag("p", "Replicates", class_="over") + tag("h1", escape(question))),
        tag("section", lede, id="answer"),
        tag("section", tag("h2", "Runs") + _figure(comparison) + _table(comparison), id="runs"),
        tag("section", tag("h2", "What is told") + items("ul", told), id="told"),
        tag(
            "section",
            tag("h2", "What adoption changes") + _changes(comparison, decision),
            id="changes",
        ),
        tag("footer", f"playbook_jax {__version__} · {page.source(adoption_report.SECTION)}"),
    ]
    return page.html(f"{question} Replicates", [part for part in body if part])


def _figure(comparison: Comparison) -> str:
    """Returns the runs of both sides as points, with their means and the intervals of these."""
    sides = comparison.sides
    values = np.concatenate([side.objectives for side in sides.values()])
    if not len(values):
        return tag("p", "No run has come to its end.", class_="hint")
    shown = objective_axis.objectives(comparison.metric, values, comparison.maximize)
    panel = Panel(axes.levels(list(sides), "side"), shown.axis, height=300)
    parts = panel.frame()
    for i, side in enumerate(sides.values()):
        parts += _runs(panel, i, side.objectives)
    label = f"{shown.axis.label} of each run of both sides, and the means"
    picture = svg.picture(panel.width, panel.height, label, parts, "svg-runs")
    note = "A point is a run with a seed of its own. The larger mark is the mean, the line one standard "
    note += "deviation of the runs to both sides."
    return tag("div", tag("figure", f"{picture}\n{tag('figcaption', note)}"), class_="figures")


def _runs(panel: Panel, index: int, values: np.ndarray) -> list[str]:
    number = len(values)
    if not number:
        return []
    places = index + _SPREAD * ((np.arange(number) + 0.5) / number - 0.5)
    points = zip(panel.across(places).tolist(), panel.up(values).tolist(), strict=True)
    dots = [svg.element("circle", cx=x, cy=y, r=4.2, class_="dot") for x, y in points]
    middle, mean = float(panel.across(np.array([index]))[0]), float(np.mean(values))
    deviation = float(np.std(values, ddof=1)) if number > 1 else 0.0
    low, high = (float(panel.up(np.array([mean + d]))[0]) for d in (-deviation, deviation))
    at = float(panel.up(np.array([mean]))[0])
    marks = (
        [svg.line(middle, low, middle, high, "interval")] if np.isfinite([low, high]).all() else []
    )
    return [*dots, *marks, svg.element("circle", cx=middle, cy=at, r=5.6, class_="isolated")]


def _table(comparison: Comparison) -> str:
    heads, *rows = adoption_text.rows(comparison)
    return page.table(heads, [page.row(map(escape, row)) for row in rows])


def _changes(comparison: Comparison, decision: Decision) -> str:
    if comparison.baseline is None:
        return tag("p", "There is no baseline that it would replace.", class_="hint")
    parts = [tag("p", escape(adoption_report.complexity(comparison)))]
    parts.append(items("ul", map(escape, adoption_report.changes(comparison)), class_="changes"))
    chosen = comparison.candidate.chosen
    may = decision.verdict == ADOPT or adoption_report.removable(comparison, decision)
    if may and chosen is not None:
        directory = comparison.candidate.source.partition(" of ")[2]
        words = ("scripts/studies.py", f"--study={directory}", "--adopt", f"--trial={chosen.trial}")
        parts.append(page.command("Adopt it, with this evidence.", words))
    return "\n".join(parts)
