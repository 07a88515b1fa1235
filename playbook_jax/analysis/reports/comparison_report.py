"""The page that compares studies over time: what was changed, what came of it, and is that more than luck?"""

import dataclasses

from etils import epath

from playbook_jax.analysis.data import formatting, groups, study_changes
from playbook_jax.analysis.data.groups import Member
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.study_changes import Change
from playbook_jax.analysis.figures import Group as Figures, isolation as isolation_figures
from playbook_jax.analysis.findings import Finding, enough_trials
from playbook_jax.analysis.render import page
from playbook_jax.analysis.render.html import escape, link, prose, tag
from playbook_jax.analysis.reports import (
    commands,
    comparison as comparison_lib,
    group_figures,
    group_sections,
    report,
    sections,
    summary,
    tables,
)
from playbook_jax.analysis.reports.comparison import Comparison
from playbook_jax.analysis.stats import best_of

NAME = "comparison.html"


def write(compared: Comparison, path: epath.PathLike) -> epath.Path:
    """Writes the page and returns its path.

    Raises:
      UsageError: it can't be written.
    """
    return page.write(path, render(compared, epath.Path(path).parent))


def render(compared: Comparison, directory: epath.PathLike) -> str:
    """Returns the page.

    Args:
      compared: the studies.
      directory: where the page comes to lie: links are relative to it.
    """
    found = comparison_lib.check(compared)
    common = comparison_lib.with_common_axes(compared.group)
    figures = [_isolation(compared)]
    figures += group_figures.draw(common, compared.group)
    drawn = [figure for figure in figures if figure is not None]
    names = [member.label for member in compared.group.members]
    over = f"Studies over time: {' → '.join(names)}"
    title = f"Is {names[-1]} better than {names[0] if len(names) == 2 else 'those before'}?"
    read = ", ".join(commands.display_path(m.study) for m in compared.group.members)
    body = [
        tag("header", tag("p", escape(over), class_="over") + tag("h1", escape(title))),
        _answer(compared, found, epath.Path(directory)),
        sections.findings_section(found, drawn),
        _changes(compared),
        _good_regions(compared),
        *(group_sections.figures(common, figure) for figure in drawn),
        group_sections.trials(compared.group),
        page.footer(f"read from {read}"),
    ]
    return page.html(title, body)


def _isolation(compared: Comparison) -> Figures | None:
    drawn = isolation_figures.draw(compared.equal.joined)
    if drawn is None:
        return None
    told = f"Of the first {formatting.plural(compared.number, 'trial')} of each study. {drawn.text}"
    return dataclasses.replace(drawn, title="The best trial of each study", text=told)


def text(compared: Comparison, width: int = 100) -> str:
    """Returns what was changed and what came of it in a few lines, for a terminal."""
    lines = []
    for old, new in _pairs(compared):
        lines.append(f"From {old.label} to {new.label}:")
        told = study_changes.changes(old.study, new.study)
        lines += [f"  {c.path}: {c.before} → {c.after}  ({c.kind})" for c in told]
        lines += [] if told else ["  nothing but the points"]
    found = comparison_lib.check(compared)
    return "\n".join([*lines, summary.findings_text(found, width)]).replace(
        formatting.NO_BREAK, " "
    )


def _pairs(compared: Comparison) -> list[tuple[Member, Member]]:
    members = compared.group.members
    return [(members[pair.old], members[pair.new]) for pair in compared.pairs]


def _answer(compared: Comparison, found: list[Finding], directory: epath.Path) -> str:
    label = formatting.metric_label(compared.group.joined.metric)
    numbers = [f"best {label}", f"best of {compared.number}", "typical best of so many"]
    numbers += ["trials", "failed", "in the good region"]
    heads = ["study", *((head, "n") for head in numbers), "started", "report"]
    rows = [_row(compared, i, m, directory) for i, m in enumerate(compared.group.members)]
    parts = [
        tag("p", prose(" ".join(finding.answer for finding in found[1:])), class_="lede"),
        page.table(heads, rows, "scroll overview", sortable=True),
    ]
    todo = [
        f'<a href="#finding-{i}">{prose(finding.action)}</a>'
        for i, finding in enumerate(found)
        if finding.action
    ]
    parts += [page.what_next(todo)] if todo else []
    return tag("section", "\n".join(parts), id="answer")


def _row(compared: Comparison, index: int, member: Member, directory: epath.Path) -> str:
    study, equal = member.study, compared.equal.members[index].study

    def value(of: Study) -> str:
        return "" if of.best is None else formatting.metric(of.metric, of.best.objective)

    good = ""
    if study.best is not None:
        costs = study.costs(study.ranked)
        good = str(int((costs <= costs[0] + enough_trials.tolerance(study)).sum()))
    cells = [
        value(study),
        value(equal),
        _typical(study, compared.number),
        str(len(study.trials)),
        str(len(study.failures)),
        good,
    ]
    name = tag("td", group_sections.named(index, member), class_="keep")
    row = name + "".join(tag("td", escape(cell), class_="n") for cell in cells)
    row += tag("td", escape(_started(study)), class_="keep")
    row += tag("td", link("report", study.directory / report.NAME, directory))
    number = None if study.best is None else groups.offset(index) + study.best.number
    return tag("tr", row, data_t=number)


def _typical(study: Study, number: int) -> str:
    """Returns the median and the 90 % interval of the best of so many trials, by bootstrap."""
    if not study.learned or not number:
        return ""
    costs, failures = enough_trials.draws(study)
    sign = -1 if study.maximize else 1
    quantiles = sign * best_of.bootstrap(costs, failures, number)
    low, middle, high = (formatting.metric(study.metric, float(quantiles[i])) for i in (0, 2, 4))
    return f"{middle} ({low} to {high})"


def _started(study: Study) -> str:
    """Returns when the first trial began, as far as its files say."""
    for trial in study.trials:
        started = study.provenance(trial.number).get("started")
        if isinstance(started, str):
            return started[:16].replace("T", " ")
    return ""


def _changes(compared: Comparison) -> str:
    parts = [tag("h2", "What was changed")]
    for old, new in _pairs(compared):
        told = study_changes.changes(old.study, new.study)
        heads = ["", old.label, new.label, "what it is"]
        if told:
            parts.append(page.table(heads, map(_change, told), "scroll space"))
        else:
            same = f"{old.label} and {new.label} differ in their points alone."
            parts.append(tag("p", escape(same), class_="hint"))
    return tag("section", "\n".join(parts), id="study-changes")


def _change(change: Change) -> str:
    texts = (change.before, change.after, change.kind)
    return page.row([tag("code", escape(change.path)), *map(escape, texts)])


def _good_regions(compared: Comparison) -> str:
    members = compared.group.members
    names = dict.fromkeys(h.name for m in members for h in m.study.hyperparameters)
    rows = []
    for name in names:
        cells = [tag("code", escape(name)), *(escape(_good(m.study, name)) for m in members)]
        rows.append(page.row(cells))
    heads = ["hyperparameter", *(member.label for member in members)]
    told = (
        "Where the trials lie that come as close to the best of their study as noise lets one tell; in "
        "brackets the search space."
    )
    parts = [tag("h2", "The good region"), tag("p", told, class_="hint")]
    parts.append(page.table(heads, rows, "scroll space"))
    return tag("section", "\n".join(parts), id="good-region")


def _good(study: Study, name: str) -> str:
    h = next((h for h in study.hyperparameters if h.name == name), None)
    if h is None:
        fixed = study.base(name.partition("@")[0])
        return f"{formatting.value(fixed)}, not tuned" if fixed is not None else "not tuned"
    tolerance = enough_trials.tolerance(study) if study.best is not None else 0.0
    found = comparison_lib.good_region(study, h, tolerance)
    shown = "none"
    if found and h.ordered:
        low, high = formatting.value(found[0]), formatting.value(found[-1])
        shown = low if low == high else f"{low} to {high}"
    elif found:
        shown = formatting.some(found)
    return f"{shown} [{tables.values(h)}]"
