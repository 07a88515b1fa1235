"""The report of a study: one HTML file that works offline and without script.

The question, the answer so far, the findings, the figures, the tables, and what to type next. All of it
is made from the files of the study directory; whatever comes from them is escaped.
"""

from etils import epath

from playbook_jax.analysis import figures, findings
from playbook_jax.analysis.data import groups, study as study_lib
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.findings import Finding
from playbook_jax.analysis.render import page
from playbook_jax.analysis.render.html import tag
from playbook_jax.analysis.reports import (
    commands,
    findings_file,
    next_draft,
    next_study,
    sections,
    summary,
)

NAME = "report.html"


def write(study_directory: epath.PathLike) -> epath.Path:
    """Writes `report.html` and `findings.json` into a study directory, whatever state the study is in.

    Args:
      study_directory: the --workdir of scripts/launch_study.py.

    Returns:
      The path of the report.

    Raises:
      UsageError: there is no study, or the directory can't be written.
    """
    study = study_lib.load(study_directory)
    return save(study, findings.check(study))


def conclude(study_directory: epath.PathLike) -> tuple[epath.Path, str]:
    """Writes the report of a study or of a group; returns its path, and the findings in a few lines."""
    if groups.is_group(study_directory):
        from playbook_jax.analysis.reports import group_report

        return group_report.conclude(study_directory)
    study = study_lib.load(study_directory)
    found = findings.check(study)
    path = save(study, found)
    return path, summary.brief(study, found)


def save(study: Study, found: list[Finding]) -> epath.Path:
    """Writes the report, `findings.json` and `next_study.py`, of a study that has been read and checked.

    Raises:
      UsageError: the directory can't be written.
    """
    next_study.write(study, found)  # first: the report says what to do with it
    path = page.write(study.directory / NAME, render(study, found))
    findings_file.write(study, found)
    return path


def render(study: Study, found: list[Finding]) -> str:
    """Returns the page."""
    groups = figures.draw(study)
    body = [
        sections.question(study),
        sections.answer(study, found),
        sections.findings_section(found, groups),
        sections.judged_by(study),
        *(sections.figures_section(study, group) for group in groups),
        sections.trials_section(study),
        sections.space_section(study),
        _commands(study, found),
        _footer(study),
    ]
    return page.html(f"{study.name}: study report", body, "choose.js")


def _commands(study: Study, found: list[Finding]) -> str:
    parts = [tag("h2", "Commands")]
    parts.append(tag("p", "To be run in the checkout of playbook_jax.", class_="hint"))
    if not (study.directory / next_draft.NAME).exists():
        text = f"No finding is sure of another search space or setting, so there is no {next_draft.NAME}."
        parts.append(tag("p", text, class_="hint"))
    parts += [page.command(c.purpose, c.words, c.details) for c in commands.commands(study, found)]
    return tag("section", "\n".join(parts), id="commands")


def _footer(study: Study) -> str:
    more = []
    if study.best is not None:
        commit = study.provenance(study.best.number).get("commit")
        if commit:
            more.append(f"best trial trained at commit {str(commit)[:12]}")
    return page.footer(f"read from {commands.display_path(study)}", *more)
