"""The sections of a group's report."""

from playbook_jax.analysis.data import formatting, groups
from playbook_jax.analysis.data.groups import Group, Member
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.figures import Group as Figures, isolation as isolation_figures
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK, isolation as isolation_finding
from playbook_jax.analysis.render import page
from playbook_jax.analysis.render.html import escape, items, link, prose, tag
from playbook_jax.analysis.reports import (
    commands,
    group_figures,
    group_findings,
    group_next,
    next_draft,
    report,
    sections,
    tables,
)
from playbook_jax.analysis.reports.group_findings import Reading
from playbook_jax.analysis.stats import isolation
from playbook_jax.analysis.stats.isolation import Slice

_FAIR = {
    FINE: "is fair, as far as the checks can see",
    LOOK: "is not fair yet",
    CANNOT_TELL: "may not be fair",
}
_SHOWN = 6  # things to do next


def question(group: Group) -> str:
    """Returns the title: the question of the group."""
    trials = formatting.plural(len(group.joined.trials), "trial")
    number = formatting.plural(len(group.members), "study", "studies")
    over = f"Group {escape(group.name)}, {number}, {trials}"
    goal = str(group.stored.get("goal") or f"Group {group.name}")
    return tag("header", tag("p", over, class_="over") + tag("h1", escape(goal)))


def answer(reading: Reading) -> str:
    """Returns which value is best, whether the comparison is fair, a row a study, and what to do next."""
    group = reading.group
    asked = group_findings.asked(group)
    told = [isolation_finding.of(study, h, ()).answer for study, h in reversed(asked)]
    fair = tag("a", _FAIR[reading.together[0].verdict], href="#finding-0")
    lede = f"{escape(' '.join(told))} The comparison {fair}."
    parts = [
        tag("p", lede, class_="lede"),
        _overview(reading),
        sections.counts(group.joined),
        _next(reading),
    ]
    return tag("section", "\n".join(parts), id="answer")


def _overview(reading: Reading) -> str:
    """Returns the table with a row a study."""
    group = reading.group
    label = formatting.metric_label(group.objective["metric"])
    heads = [("study", ""), (label, "n"), ("bootstrap interval", "n"), ("best trial", "n")]
    heads += [("trials", "n"), ("failed", "n"), ("tuned", "n")]
    heads += [("act, look", "n"), ("report", "")]
    parts = {part.label: part for part in isolation.slices(*group.arms)}
    rows = [_row(reading, i, m, parts.get(m.label)) for i, m in enumerate(group.members)]
    return page.table(heads, rows, "scroll overview", sortable=True)


def named(index: int, member: Member) -> str:
    """Returns what the study at a place is called, behind its mark."""
    return f'<span class="of">{group_figures.symbol(index)}</span>{escape(member.label)}'


def _row(reading: Reading, index: int, member: Member, part: Slice | None) -> str:
    group, study = reading.group, member.study
    name = tag("td", named(index, member), class_="keep")
    if study is None:
        text = tag("td", escape(f"not compared: {member.problem}"), class_="reason", colspan=8)
        return tag("tr", name + text)
    metric, best = study.metric, study.best
    verdicts = [finding.verdict for finding in reading.problems(member.name)]
    interval = ""
    if part is not None and part.best is not None:
        interval = " to ".join(formatting.metric(metric, end) for end in part.interval)
    cells = [
        "" if best is None else formatting.metric(metric, best.objective),
        interval,
        "" if best is None else str(best.number),
        _ended(study),
        str(len(study.failures)),
        str(len(study.hyperparameters)),
        f"{verdicts.count('act')}, {verdicts.count('look')}",
    ]
    own = link("report", study.directory / report.NAME, group.directory)
    number = None if best is None else groups.offset(index) + best.number
    row = name + "".join(tag("td", escape(cell), class_="n") for cell in cells) + tag("td", own)
    return tag("tr", row, data_t=number)


def _ended(study: Study) -> str:
    ended = len(study.trials) - len(study.unfinished)
    whole = formatting.count(len(study.trials))
    return whole if not study.unfinished else f"{formatting.count(ended)} of {whole}"


def _next(reading: Reading) -> str:
    group, todo = reading.group, []
    unfinished = len(group.joined.unfinished)
    if unfinished:
        number = formatting.plural(unfinished, "trial")
        todo.append(f'<a href="#commands">Let the group go on: {number} to go.</a>')
    for doubt in reading.doubts:
        if doubt.action and not (unfinished and doubt is reading.doubts[0]):
            todo.append(
                f'<a href="#finding-0">{escape(doubt.action)}</a><span>{escape(doubt.text)}</span>'
            )
    left = len(todo) - _SHOWN
    if left > 1:
        todo[_SHOWN:] = [f'<a href="#finding-0">And {left} more</a>']
    if not reading.doubts:
        todo += [
            f'<a href="#finding-{i}">{prose(finding.action)}</a>'
            for i, finding in enumerate(reading.together)
            if finding.action
        ]
    if (group.directory / next_draft.NAME).exists():
        todo.append(
            '<a href="#commands">Launch the next group, in which the studies’ findings are heeded.</a>'
        )
    if not todo:
        text = "Train the best trials again with other seeds before the winner is adopted."
        todo = [f'<a href="#commands">{text}</a>']
    return page.what_next(todo)


def studies(reading: Reading) -> str:
    """Returns for each study what its own checks ask for."""
    parts = [tag("h2", "The studies by themselves")]
    text = "What the checks of each study ask for. Its own report has the evidence and the figures."
    parts.append(tag("p", text, class_="hint"))
    for index, member in enumerate(reading.group.members):
        parts.append(_own(reading, index, member))
    return tag("section", "\n".join(parts), id="studies")


def _own(reading: Reading, index: int, member: Member) -> str:
    group, study = reading.group, member.study
    label = named(index, member)
    if study is None:
        text = tag("p", escape(f"Not compared: {member.problem}."), class_="hint")
        return tag("article", tag("h3", label) + text, class_="own")
    own = link("its report", study.directory / report.NAME, group.directory)
    problems = reading.problems(member.name)
    offset = groups.offset(index)
    lines = [
        sections.verdict(f.verdict)
        + tag("div", f"{prose(f.answer, offset)} {tag('span', prose(f.action, offset))}")
        for f in problems
    ]
    quiet = len([f for f in reading.found[member.name] if f.verdict == FINE])
    rest = f"{formatting.plural(quiet, 'check')} found nothing." if quiet else ""
    text = items("ul", lines, class_="problems") or tag("p", "Nothing is asked for.", class_="hint")
    head = tag("h3", f"{label}{tag('span', own)}")
    return tag("article", head + text + tag("p", rest, class_="hint"), class_="own")


def figures(group: Group, shown: Figures) -> str:
    """Returns a group of figures, with the studies as its legend where they are told apart."""
    if shown.legend:
        return sections.figures_section(group.joined, shown)
    entries = [f"{group_figures.symbol(i)}{escape(member.label)}" for i, member in group.read]
    parts = [tag("h2", escape(shown.title)), tag("p", escape(shown.text), class_="hint")]
    parts.append(items("ul", entries, class_="legend wide"))
    inside = "\n".join(map(sections.figure, shown.figures))
    parts.append(tag("div", inside, class_="figures"))
    return tag("section", "\n".join(parts), id=shown.id)


def combinations(group: Group) -> Figures | None:
    """Returns the isolation plot of all combinations of the scientific values."""
    found = isolation_figures.draw(group.arms[0])
    if found is None:
        return None
    text = "The best trial of each study: of each combination of the scientific values."
    return Figures("isolation-combinations", "Combinations", text, found.figures, found.legend)


def trials(group: Group) -> str:
    """Returns the table of all trials, with the numbers that they have in their own studies."""
    text = "Of all studies, the best first. Trials have the numbers of their own studies."
    bests = {
        groups.offset(i) + m.study.best.number: f"m{i % group_figures.STYLES}"
        for i, m in group.read
        if m.study.best is not None
    }
    table = tables.trials(group.flat, bests)
    parts = [tag("h2", "Trials"), tag("p", text, class_="hint"), table]
    return tag("section", "\n".join(parts), id="trials")


def space(group: Group) -> str:
    """Returns the table of search spaces, a column a study."""
    studies_ = [member for _, member in group.read]
    names = dict.fromkeys(
        [
            *(h.name for m in studies_ for h in m.study.hyperparameters),
            *(name for m in studies_ for name in m.study.specification.get("fixed", {})),
        ]
    )
    heads = ["hyperparameter", *(member.label for member in studies_)]
    rows = []
    for name in names:
        cells = [tag("code", escape(name)), *(escape(_of(m, name)) for m in studies_)]
        rows.append(page.row(cells))
    table = page.table(heads, rows, "scroll space")
    text = "What each study tunes, and what it holds fixed."
    parts = [tag("h2", "Search spaces"), tag("p", text, class_="hint"), table]
    return tag("section", "\n".join(parts), id="space")


def _of(member: Member, name: str) -> str:
    for h in member.study.hyperparameters:
        if h.name == name:
            return tables.values(h)
    fixed = member.study.specification.get("fixed", {})
    return f"{formatting.value(fixed[name])}, fixed" if name in fixed else ""


def commands_section(reading: Reading) -> str:
    """Returns what to type next."""
    parts = [tag("h2", "Commands")]
    parts.append(tag("p", "To be run in the checkout of playbook_jax.", class_="hint"))
    parts += [page.command(c.purpose, c.words, c.details) for c in _commands(reading)]
    return tag("section", "\n".join(parts), id="commands")


def _commands(reading: Reading) -> list[commands.Command]:
    group = reading.group
    joined, shown = group.joined, commands.display_path(group.joined)
    launch = commands.launch(group.read[0][1].study, shown) if group.read else ()
    found = []
    if joined.unfinished and launch:
        number = formatting.plural(len(joined.unfinished), "trial")
        found.append(commands.Command(f"Continue the group: {number} to go.", launch))
    found += _of_the_best(group)
    if (group.directory / next_draft.NAME).exists():
        changes = tuple(change.text for change in group_next.draft(group, reading.found).changes)
        purpose = (
            f"Launch the next group. Its config, {next_draft.NAME}, was written with this report and has "
            f"{formatting.plural(len(changes), 'change')} that the findings of the studies ask for:"
        )
        found.append(commands.Command(purpose, commands.launch_next(joined), changes))
    if launch and joined.ranked and not joined.unfinished:
        purpose = (
            "Add as many trials to every study: raise num_trials in the group's config, then go on. The "
            "trials that exist stay as they are."
        )
        found.append(commands.Command(purpose, launch))
    again = commands.quote("scripts/analyze.py", f"--study={shown}")
    return [*found, commands.Command("Write this report and those of the studies anew.", again)]


def _of_the_best(group: Group) -> list[commands.Command]:
    """Returns the commands that train the best trial of the winner again, against that of the next one."""
    parts = [part for part in isolation.slices(*group.arms) if part.complete]
    parts.sort(key=lambda part: part.costs[0])
    if len(parts) < 2:
        return []
    first, second = (group.members[groups.place(part.best)] for part in parts[:2])
    shown = commands.display_path(group.joined)
    words = commands.quote(
        "scripts/replicate.py",
        f"--study={shown}/{first.name}",
        f"--baseline={shown}/{second.name}",
        f"--workdir={shown}_replicates",
    )
    purpose = (
        f"See whether it was luck: train the best of {first.label} and of {second.label} again with other "
        "seeds."
    )
    return [commands.Command(purpose, words)]
