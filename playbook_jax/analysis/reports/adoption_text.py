"""A decision on adoption in a terminal: the numbers of both sides, what to know, and the verdict."""

import textwrap

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.adoption import (
    ADOPT,
    CANNOT_TELL,
    DO_NOT,
    NOTHING,
    Comparison,
    Decision,
    Side,
)
from playbook_jax.analysis.reports import adoption_report


def text(comparison: Comparison, decision: Decision, width: int = 100) -> str:
    """Returns the numbers of both sides, the difference, the caveats and the verdict, for a terminal.

    Args:
      comparison: what was compared.
      decision: what was decided.
      width: of a line, in characters.
    """
    lines = told(comparison, decision)
    if comparison.vary != NOTHING:
        lines.append(adoption_report.switched(comparison, decision)["text"])
        if decision.verdict == ADOPT:
            lines.append(f"Complexity: {adoption_report.complexity(comparison)}")
        lines.append(verdict(decision))
    paragraphs = [textwrap.fill(line, width, subsequent_indent="  ") for line in lines if line]
    return adoption_report.plain("\n".join([*_table(comparison), *paragraphs]))


def told(comparison: Comparison, decision: Decision) -> list[str]:
    """Returns what is to know beside the numbers: luck, the difference, caveats; a sentence or more each."""
    if comparison.vary == NOTHING:
        return [_repeats(comparison)]
    found = [_luck(name, side, comparison) for name, side in comparison.sides.items()]
    found.append(_difference(comparison, decision))
    found += [f"Note: {caveat}" for caveat in adoption_report.caveats(comparison, decision)]
    return [line for line in found if line]


def verdict(decision: Decision) -> str:
    """Returns the verdict and its reason, in a line."""
    line = f"{decision.verdict.upper()}: {decision.reason}."
    if decision.verdict == CANNOT_TELL and decision.more:
        more = formatting.count(decision.more)
        line += f" About {more} more of each side would tell, if the difference is as it looks."
    if decision.verdict == ADOPT:
        line += " It can be the baseline of what follows, if it outweighs the complexity it adds."
    return line if decision.verdict != DO_NOT else f"{line} Keep the baseline."


def _table(comparison: Comparison) -> list[str]:
    found = rows(comparison)
    widths = [max(map(len, cells)) for cells in zip(*found, strict=True)]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in found
    ]


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Returns the numbers of both sides as a table, its first row the titles."""

    def value(x: float | None) -> str:
        return "unknown" if x is None else formatting.metric(comparison.metric, x)

    def column(title: str, side: Side) -> list[str]:
        found = adoption_report.numbers(side, comparison)
        ends = side.spread and (side.spread.low, side.spread.high)
        interval = f" ({value(ends[0])} to {value(ends[1])})" if ends else ""
        counts = f"{len(side.objectives)}"
        counts += f", {side.infeasible} diverged" if side.infeasible else ""
        return [
            title,
            counts,
            value(found["mean"]),
            value(found["median"]),
            f"{value(found['sd'])}{interval}",
            value(found["sampling_error"]),
        ]

    titles = [
        formatting.metric_label(comparison.metric),
        "replicates",
        "mean",
        "median",
        "trial standard deviation",
        "validation sampling error",
    ]
    columns = [column(name, side) for name, side in comparison.sides.items()]
    return list(zip(titles, *columns, strict=True))


def _luck(name: str, side: Side, comparison: Comparison) -> str:
    found = adoption_report.luck(side, comparison)
    if found is None or found["luck"] is None:
        return ""

    def value(x: float) -> str:
        return formatting.metric(comparison.metric, x) if np.isfinite(x) else "no result"

    line = f"The {name} had {value(found['study_objective'])} in its study"
    if side.chosen.objective == _best(side, comparison):
        line += f", the best of {found['study_trials']}"
    if abs(found["luck"]) < 1e-9 * max(abs(found["study_objective"]), 1e-9):
        line += ", as fresh runs have on average"
    else:
        gone = adoption_report.points(comparison, abs(found["luck"]))
        line += f": {gone} {'better' if found['luck'] > 0 else 'worse'} than fresh runs on average"
    if found["luck"] > 0 and found["luck_if_alike"]:
        alike = adoption_report.points(comparison, found["luck_if_alike"])
        line += f" (of trials that are all alike, the best would be {alike} better)"
    low, high = map(value, found["study_interval"])
    ends = low if low == high else f"between {low} and {high}"
    return f"{line}. Study variance: resampled, 90 % of such studies end at {ends}."


def _best(side: Side, comparison: Comparison) -> float:
    return float((np.max if comparison.maximize else np.min)(side.chosen.objectives))


def _difference(comparison: Comparison, decision: Decision) -> str:
    found = decision.difference
    if found is None:
        return ""

    def value(x: float | None) -> str:
        return "unbounded" if x is None else adoption_report.points(comparison, x)

    def interval(ends: tuple[float | None, float | None]) -> str:
        return f"{value(ends[0])} to {value(ends[1])}"

    return (
        f"Improvement of the mean: {value(found.mean)} (90 % interval: {interval(found.interval)}); of "
        f"the median: {value(found.median)} ({interval(found.median_interval)}). "
        f"A run of the candidate beats one of the baseline in {formatting.percent(found.wins)} of pairs. "
        f"Worth having: {value(found.worth)}"
        + (", one trial standard deviation (--worth)." if comparison.worth is None else ".")
    )


def _repeats(comparison: Comparison) -> str:
    found = adoption_report.repeats(comparison)
    if found["runs"] < 2:
        return "Fewer than two repeats have ended: nothing to compare."
    if found["distinct"] == 1:
        return (
            f"All {found['runs']} repeats with the same seed are bit-identical: "
            "arithmetic adds no variance."
        )
    return (
        f"{found['distinct']} of {found['runs']} repeats with the same seed differ, from the update "
        f"{formatting.count(found['first_difference'] or 0)} on: the order of arithmetic adds to the trial "
        "variance as shown above."
    )
