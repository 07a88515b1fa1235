"""The report of a group: which value wins, whether the comparison is fair, each study beside the others.

    report.html      one page that works offline and without script
    findings.json    the same for programs
    next_study.py    the group that the findings ask for, where they ask for one

The reports of the studies themselves lie in their own directories, and are linked.
"""

from typing import Any

from etils import epath

from playbook_jax.analysis.data import formatting, groups
from playbook_jax.analysis.figures import isolation as isolation_figures
from playbook_jax.analysis.render import page
from playbook_jax.analysis.reports import (
    commands,
    findings_file,
    group_figures,
    group_findings,
    group_next,
    group_sections,
    next_study,
    report,
    sections,
    summary,
)
from playbook_jax.analysis.reports.group_findings import Reading


def conclude(directory: epath.PathLike) -> tuple[epath.Path, str]:
    """Writes the report of a group; returns its path, and the findings in a few lines."""
    path, reading = write(directory)
    return path, brief(reading)


def write(
    directory: epath.PathLike, alone: bool = True, analysis_config: str = ""
) -> tuple[epath.Path, Reading]:
    """Writes the report of a group, `findings.json` and `next_study.py`, whatever state the group is in.

    Args:
      directory: of the group.
      alone: whether the reports of its studies, which this one links, are left as they are.
      analysis_config: a file with thresholds that are not the default; empty for none.

    Returns:
      The path of the report, and what was found.

    Raises:
      UsageError: there is no group, or a directory can't be written.
    """
    reading = read(directory, analysis_config)
    return save(reading, alone), reading


def read(directory: epath.PathLike, analysis_config: str = "") -> Reading:
    """Returns what was found in a group; see `write`."""
    return group_findings.read(groups.load(directory, analysis_config=analysis_config))


def save(reading: Reading, alone: bool = True) -> epath.Path:
    """Writes the report of a group that was read, and returns its path; see `write`.

    Raises:
      UnwritableError: a directory can't be written.
    """
    group = reading.group
    if not alone:
        for _, member in group.read:
            report.save(member.study, reading.found[member.name])
    next_study.save(group.joined, group_next.draft(group, reading.found))
    path = page.write(group.directory / report.NAME, render(reading))
    findings_file.save(group.directory, contents(reading))
    return path


def render(reading: Reading) -> str:
    """Returns the page."""
    group = reading.group
    figures = [isolation_figures.draw(group.joined), *group_figures.draw(group)]
    if len(group.scientific) > 1:
        figures.insert(1, group_sections.combinations(group))
    drawn = [figure for figure in figures if figure is not None]
    body = [
        group_sections.question(group),
        group_sections.answer(reading),
        sections.findings_section(reading.together, drawn),
        sections.judged_by(group.joined),
        group_sections.studies(reading),
        *(group_sections.figures(group, figure) for figure in drawn),
        group_sections.trials(group),
        group_sections.space(group),
        group_sections.commands_section(reading),
        page.footer(f"read from {commands.display_path(group.joined)}"),
    ]
    return page.html(f"{group.name}: group report", body)


def contents(reading: Reading) -> dict[str, Any]:
    """Returns what `findings.json` holds: as that of a study, and `studies`, of each what was found.

    Returns:
      All that `findings_file.contents` has, of all trials and of the findings of the group, with `study`
      the group's name and `best` with the `directory` of its study; and `studies`: of each its `directory`,
      `values`, `problem` (why it is not compared, or empty), and `trials`, `best`, `verdicts` and
      `findings` as in a study's own file.
    """
    group = reading.group
    whole = findings_file.contents(group.joined, reading.together)
    studies = []
    for member in group.members:
        own: dict[str, Any] = {"directory": member.name, "values": member.values}
        own["problem"] = member.problem
        if member.study is not None:
            found = findings_file.contents(member.study, reading.found[member.name])
            own |= {key: found[key] for key in ("trials", "best", "verdicts", "findings")}
        studies.append(own)
    best = group.joined.best
    if best is not None:
        own_best = studies[groups.place(best)]
        whole["best"] = {"directory": own_best["directory"], **own_best["best"]}
    return whole | {"studies": studies}


def text(reading: Reading, width: int = 100) -> str:
    """Returns what a group came to in a few lines, for a terminal."""
    group = reading.group
    lines = [f"{group.name}: {formatting.plural(len(group.members), 'study', 'studies')}"]
    margin = max((len(member.name) for member in group.members), default=0)
    for member in group.members:
        lines.append(f"  {member.name:<{margin}}  {_came_to(reading, member)}")
    lines.append(brief(reading, width))
    return "\n".join(lines).replace(formatting.NO_BREAK, " ")


def _came_to(reading: Reading, member: groups.Member) -> str:
    if member.study is None:
        return f"not compared: {member.problem}"
    study, best = member.study, member.study.best
    told = "no complete trial"
    if best is not None:
        reached = formatting.metric(study.metric, best.objective)
        told = f"{formatting.metric_label(study.metric)} {reached} (trial {best.number})"
    problems = reading.problems(member.name)
    asks = "its checks ask for nothing"
    if problems:
        asks = f"{formatting.plural(len(problems), 'check')} of its own ask for something"
        asks = asks.replace("1 check of its own ask", "1 check of its own asks")
    return f"{told} of {formatting.plural(len(study.trials), 'trial')}; {asks}"


def brief(reading: Reading, width: int = 100) -> str:
    """Returns what all studies show together, for the end of a launch."""
    return summary.told(reading.group.joined, reading.together, width)
