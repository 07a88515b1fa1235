"""The sections of a report: the question, the answer so far, findings, figures."""

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import failed, formatting
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.figures import Figure, Group
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, Finding, to_do
from playbook_jax.analysis.render import page, svg
from playbook_jax.analysis.render.html import escape, items, prose, tag, trial
from playbook_jax.analysis.reports import next_draft, summary, tables
from playbook_jax.analysis.stats import decisions

# What a verdict looks like: class, and a shape that reads without colour.
_VERDICTS = {
    FINE: ("fine", "m4.5 8.5 2.5 2.5 4.5-5.5"),
    LOOK: ("look", "M8 4v4.2l2.8 1.8"),
    ACT: ("act", "M8 4.2v4.6M8 11v.6"),
    CANNOT_TELL: ("tell", "M6.2 6.4a1.8 1.8 0 1 1 2.6 1.7c-.6.3-.8.6-.8 1.2M8 11.2v.5"),
}


GROUP_REPORT = "report.html"  # in the directory above, see group_report.py
SHOWN_VALUES = 10  # hyperparameters of the best trial, in the answer


def question(study: Study) -> str:
    """Returns the title: the study's goal."""
    over = f"Study {escape(study.name)}, {formatting.plural(len(study.trials), 'trial')}"
    if study.group is not None:
        over += f', one of a <a href="../{GROUP_REPORT}">group</a>'
    goal = study.goal or f"Study {study.name}"
    return tag("header", tag("p", over, class_="over") + tag("h1", escape(goal)))


def answer(study: Study, findings: list[Finding]) -> str:
    """Returns the answer so far in words, how the trials ended, and what to do next."""
    parts = [
        tag("p", _best(study) + _baseline(study), class_="lede"),
        _values(study),
        counts(study),
        _next(study, findings),
    ]
    return tag("section", "\n".join(parts), id="answer")


def _best(study: Study) -> str:
    metric = escape(formatting.metric_label(study.metric))
    best, ended = study.best, [t for t in study.trials if t not in study.unfinished]
    if best is None:
        if not study.trials:
            return "The study has no trials."
        if not ended:
            return f"No trial has ended yet, so there is no best {metric} so far."
        if len(ended) == len(study.of_state(trial_lib.INFEASIBLE)):
            number = formatting.plural(len(ended), "trial")
            return f"All {number} that ended are infeasible, so there is no best {metric}."
        return f"No trial that ended is complete, so there is no best {metric}."

    def value(t: Trial) -> str:
        return formatting.metric(study.metric, t.objective)

    reached = (
        f"a {metric} of <strong>{value(best)}</strong> at step {formatting.count(best.best_step)} "
        f"of {formatting.count(best.step)}."
    )
    if not study.learned:
        return (
            f"No trial that is complete has trained; the least bad one, trial {trial(best.number)}, reached "
            f"{reached}"
        )
    if len(study.ranked) == 1:
        return f"The only complete trial, trial {trial(best.number)}, reached {reached}"
    best_is = f"The best of {_trained(study)} is trial {trial(best.number)}, with {reached}"
    even = [t for t in study.learned[1:] if t.objective == best.objective]
    if even:
        numbers = formatting.some([trial(t.number) for t in even], 4)
        one = len(even) == 1
        return (
            f"{best_is} {'Trial' if one else 'Trials'} {numbers} reached the same; of equals, the "
            "first counts as the best."
        )
    runners = [f"{value(t)} (trial {trial(t.number)})" for t in study.leaders[1:]]
    return f"{best_is} Next came {formatting.join(runners)}."


def _trained(study: Study) -> str:
    """Returns "33 trials that trained", or "60 complete trials" where all of these did."""
    number = formatting.count(len(study.learned))
    if len(study.learned) < len(study.ranked):
        return f"{number} trials that trained"
    return f"{number} complete trials"


def _baseline(study: Study) -> str:
    """Returns what the baseline came to, where it has come to its end."""
    if study.baseline not in study.ranked:
        return ""
    if study.baseline is study.best:
        return f" Trial {trial(0)} is the baseline: no trial is better."
    reached = formatting.metric(study.metric, study.baseline.objective)
    return f" The baseline, trial {trial(0)}, came to {reached}."


def _values(study: Study) -> str:
    """Returns the best trial's hyperparameters, as many as fit into a few lines."""
    if study.best is None:
        return ""
    given = study.best.parameters
    pairs = [
        f"{escape(h.label)} <b>{escape(formatting.value(given[h.name]))}</b>"
        for h in study.hyperparameters
        if h.name in given
    ]
    more = len(pairs) - SHOWN_VALUES
    if more > 1:
        pairs[SHOWN_VALUES:] = [f'<a href="#space">and {more} more</a>']
    lead = f"Trial {trial(study.best.number)}:"
    return items("ul", [lead, *pairs], class_="values") if pairs else ""


def counts(study: Study) -> str:
    """Returns how the trials ended, as a bar and in words; what failed to train is one thing."""
    shown, words = failed.counts(study.trials), {}
    shown = {name: shown[name] for name in _ordered(shown)}
    if failed.word(study.failures) != "infeasible":
        words[trial_lib.INFEASIBLE] = "failed to train"
    bar = "".join(
        tag("i", "", class_=f"s-{name}", style=f"flex:{number}") for name, number in shown.items()
    )
    told = [
        f'<i class="s-{name}"></i><b>{number}</b> {words.get(name, name.lower())}'
        for name, number in shown.items()
    ]
    return tag("div", bar, class_="bar", aria_hidden="true") + items("ul", told, class_="counts")


def _ordered(names: dict[str, int]) -> list[str]:
    first = (trial_lib.COMPLETE, trial_lib.INFEASIBLE)
    last = (trial_lib.PENDING,)
    middle = [name for name in names if name not in first + last]
    return [name for name in (*first, *middle, *last) if name in names]


def _next(study: Study, findings: list[Finding]) -> str:
    todo = _decided(study, findings)
    if study.unfinished:
        number = formatting.plural(len(study.unfinished), "trial")
        todo.insert(0, f'<a href="#commands">Let the study go on: {number} to go.</a>')
    if not todo and study.best is None:
        return ""
    undecided = [f for f in findings if f.verdict == CANNOT_TELL]
    text = (
        "No check asks for a change"
        + (
            f" ({len(undecided)} of {len(findings)} cannot tell)"
            if undecided
            else " of the search space, the number of steps or the training"
        )
        + ". Look at the axes and the curves yourself, weigh what they say about the question, then "
        "choose the goal of the next study."
    )
    return page.what_next(todo, tag("p", escape(text)))


def _decided(study: Study, findings: list[Finding]) -> list[str]:
    """Returns what to do: one line a hyperparameter that is decided, and what findings ask for beside that.

    What comes first in `decisions` is first; what is only offered comes last.
    """
    table = [] if study.is_replicates else next_draft.decided(study, findings)
    table = [d for d in table if d.kind != decisions.LEAVE]
    places = {place for decision in table for place in decision.findings}
    asked = [(findings.index(f), f) for f in to_do(findings)]
    return [
        *(_line(d.findings[0], f"{d.text}.", " ".join(d.reasons)) for d in table if d.sure),
        *(_line(place, f.action, f.answer) for place, f in asked if place not in places),
        *(
            _line(d.findings[0], f"Perhaps {d.text[0].lower()}{d.text[1:]}.", " ".join(d.reasons))
            for d in table
            if not d.sure
        ),
    ]


def _line(place: int, text: str, reason: str) -> str:
    return f'<a href="#finding-{place}">{prose(text)}</a><span>{prose(reason)}</span>'


def findings_section(findings: list[Finding], groups: list[Group]) -> str:
    """Returns what the checks found, with evidence, action, and the playbook's section."""
    drawn = {group.id: group.title for group in groups}
    drawn |= {
        figure.id: figure.title or group.title for group in groups for figure in group.figures
    }
    parts = [_finding(i, finding, drawn) for i, finding in enumerate(findings)]
    return tag("section", tag("h2", "Findings") + "\n" + "\n".join(parts), id="findings")


def verdict(name: str) -> str:
    """Returns a verdict with its icon."""
    kind, path = _VERDICTS[name]
    shape = svg.element("circle", cx=8, cy=8, r=7) + svg.element("path", d=path)
    icon = (
        '<svg viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="1.6" '
        f'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">{shape}</svg>'
    )
    return tag("div", f"{icon}{name}", class_=f"verdict v-{kind}")


def _finding(index: int, finding: Finding, drawn: dict[str, str]) -> str:
    head = tag("p", escape(finding.question), class_="question")
    head += tag("h3", prose(finding.answer))
    parts = [items("ul", map(prose, finding.evidence))]
    if finding.action:
        parts.append(tag("p", prose(finding.action), class_="action"))
    if finding.advice:
        parts.append(tag("p", prose(finding.advice), class_="advice"))
    if finding.open_question:
        text = f"<strong>Open question.</strong> {prose(finding.open_question)}"
        parts.append(tag("p", text, class_="advice"))
    parts.append(tag("p", _source(finding, drawn), class_="source"))
    rest = "\n".join(part for part in parts if part)
    quiet = not finding.action  # where there is nothing to do, the answer alone is shown at first
    if quiet:
        rest = tag("details", tag("summary", "Evidence") + rest)
    body = tag("div", head + rest)
    class_ = "finding quiet" if quiet else "finding"
    return tag("article", verdict(finding.verdict) + body, class_=class_, id=f"finding-{index}")


def _source(finding: Finding, drawn: dict[str, str]) -> str:
    links = []
    if finding.section:
        links.append(page.source(finding.section))
    shown = [
        tag("a", escape(drawn[name]), href=f"#{name}") for name in finding.figures if name in drawn
    ]
    if shown:
        links.append(f"{'Figure' if len(shown) == 1 else 'Figures'}: {', '.join(shown)}")
    return " · ".join(links)


def judged_by(study: Study) -> str:
    """Returns what an analysis config has set, in a line; nothing where all is the default."""
    told = summary.thresholds(study)
    return tag("p", escape(told), class_="hint") if told else ""


def figures_section(study: Study, group: Group) -> str:
    """Returns a group of figures with its legend."""
    parts = [tag("h2", escape(group.title)), tag("p", prose(group.text), class_="hint")]
    parts.append(_legend(study, group.legend))
    parts.append(group.controls)
    parts.append(tag("div", "\n".join(map(figure, group.figures)), class_="figures"))
    return tag("section", "\n".join(parts), id=group.id)


def figure(shown: Figure) -> str:
    """Returns a figure with its title and its note."""
    subtitle = tag("span", escape(shown.subtitle)) if shown.subtitle else ""
    head = tag("h3", escape(shown.title) + subtitle) if shown.title else ""
    note = tag("figcaption", prose(shown.note)) if shown.note else ""
    class_ = "first" if shown.starts_row else ""
    return tag("figure", f"{head}\n{shown.svg}\n{note}", id=shown.id, class_=class_)


def _legend(study: Study, keys: tuple[str, ...]) -> str:
    present = {
        "complete": len(study.learned) > len(study.leaders),
        "isolated": bool(study.learned),
        "baseline": study.baseline in study.ranked,
        "others": any(t.evaluations for t in study.trials if t not in study.leaders),
        "infeasible": bool(study.of_state(trial_lib.INFEASIBLE)),
        "hollow": any(t.state != trial_lib.INFEASIBLE for t in study.failures),
    }
    symbols = {
        "complete": ('<circle class="dot" cx="10" cy="7" r="4.2"/>', "complete"),
        "isolated": (
            '<path class="interval" d="M10 0v14"/><circle class="isolated" cx="10" cy="7" r="4.6"/>',
            "the best of a value",
        ),
        "infeasible": ('<path class="x" d="M6.4 3.4l7.2 7.2m0-7.2-7.2 7.2"/>', "infeasible"),
        "hollow": (
            svg.mark("hollow", 10, 7, None, "x hollow"),
            "failed to train without diverging",
        ),
        "baseline": ('<path class="baseline" d="M5.5 2.5h9v9h-9z"/>', "baseline"),
        "others": ('<path class="curve" d="M1 9c6-6 12 1 18-4"/>', "the other trials"),
    }
    shown = [symbols[key] for key in keys if present.get(key)]
    if "leaders" in keys:
        line = "others" in keys or "lines" in keys
        shown = [
            (
                _leader(rank, line),
                f"trial {t.number} ({formatting.metric(study.metric, t.objective)})",
            )
            for rank, t in enumerate(study.leaders, 1)
        ] + shown
    entries = [
        f'<svg viewBox="0 0 20 14" aria-hidden="true">{s}</svg>{prose(text)}' for s, text in shown
    ]
    return items("ul", entries, class_="legend")


def _leader(rank: int, line: bool) -> str:
    stroke = f'<path class="front rank{rank}" d="M0 7h20"/>' if line else ""
    return stroke + svg.star(10, 7, f"star rank{rank}", 6.5 if line else 7.5)


def trials_section(study: Study) -> str:
    """Returns the table of trials."""
    text = "The best first. Trials that have no objective are at the end."
    for source in dict.fromkeys(t.imported for t in study.trials if t.imported):
        count = sum(trial.imported == source for trial in study.trials)
        text += f" {formatting.plural(count, 'trial')} imported from {escape(source)}, where they were run."
    parts = [tag("h2", "Trials"), tag("p", text, class_="hint"), tables.trials(study)]
    return tag("section", "\n".join(parts), id="trials")


def space_section(study: Study) -> str:
    """Returns the table of hyperparameters with their roles, and what all trials share."""
    shared = [
        f"{name} {escape(formatting.value(study.base(path)))}"
        for name, path in (
            ("workload", "workload"),
            ("model", "model.name"),
            ("optimizer", "optimizer"),
            ("schedule", "schedule"),
            ("batch size", "batch_size"),
            ("max_train_steps", "max_train_steps"),
        )
        if study.base(path) is not None and path not in {h.name for h in study.hyperparameters}
    ]
    text = (
        f"{escape(study.specification.get('algorithm', '')).capitalize()} points. All trials share: "
        f"{', '.join(shared)}."
        if shared
        else ""
    )
    parts = [tag("h2", "Search space"), tag("p", text, class_="hint"), tables.space(study)]
    return tag("section", "\n".join(parts), id="space")
