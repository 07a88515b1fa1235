"""The report's tables: the trials, and the search space with its roles."""

from collections.abc import Mapping

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import formatting, groups
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.render import page
from playbook_jax.analysis.render.html import escape, tag
from playbook_jax.studies.space.search_space import Range


def trials(study: Study, marked: Mapping[int, str] | None = None) -> str:
    """Returns the table of all trials, the best first, then those without an objective.

    Args:
      study: the study.
      marked: the classes of trials that stand out, by number; None for those of the best few.
    """
    if marked is None:
        marked = {trial.number: f"rank{rank}" for rank, trial in enumerate(study.leaders, 1)}
    others = [trial for trial in study.trials if trial.state != trial_lib.COMPLETE]
    reasons = any(trial.reason for trial in study.trials)
    heads = [*_heads(study), *(["reason"] if reasons else [])]
    rows = [_trial(study, t, marked.get(t.number), reasons) for t in [*study.ranked, *others]]
    return page.table(heads, rows, sortable=True)


def _heads(study: Study) -> list[tuple[str, str]]:
    heads = [("trial", "n"), ("state", ""), (formatting.metric_label(study.metric), "n")]
    heads += [("best step", "n"), ("steps", "n")]
    return heads + [(h.label, "n" if h.ordered else "") for h in study.hyperparameters]


def _trial(study: Study, trial: Trial, class_: str | None, reasons: bool) -> str:
    objective = "" if trial.objective is None else formatting.metric(study.metric, trial.objective)
    best_step = "" if trial.best_step is None else formatting.count(trial.best_step)
    cells = [
        tag("td", _number(study, trial), class_="n"),
        tag("td", _state(trial), class_="keep"),
        tag("td", objective, class_="n"),
        tag("td", best_step, class_="n"),
        tag("td", formatting.count(trial.step) if trial.step else "", class_="n"),
    ]
    for h in study.hyperparameters:
        value = trial.parameters.get(h.name)
        text = "" if value is None else escape(formatting.value(value))
        cells.append(tag("td", text, class_="n" if h.ordered else ""))
    if reasons:
        cells.append(tag("td", escape(trial.reason), class_="reason"))
    return tag("tr", "".join(cells), data_t=trial.number, class_=class_)


def _number(study: Study, trial: Trial) -> str:
    number = f"baseline {trial.number}" if trial is study.baseline else str(groups.number(trial))
    return f"{number} (imported)" if trial.imported else number


def _state(trial: Trial) -> str:
    """Returns how a trial ended; one that failed to train does not look complete."""
    if trial.failed and trial.state == trial_lib.COMPLETE:
        return f'<i class="s-{trial_lib.INFEASIBLE}"></i>failed to train'
    return state(trial.state)


def state(name: str) -> str:
    """Returns a trial's state as markup: a coloured dot and its name."""
    return f'<i class="s-{name}"></i>{name.lower()}'


def space(study: Study) -> str:
    """Returns the table of hyperparameters: what varies and where, and what is fixed."""
    heads = ["hyperparameter", "role", "search space", "scale"]
    heads += [f"trial {trial.number}" for trial in study.leaders]
    kept = ["keep", "keep", "", "", *["keep"] * len(study.leaders)]  # what is not to be broken
    rows = [_varying(study, h) for h in study.hyperparameters]
    for path, value in study.specification.get("fixed", {}).items():
        cells = [tag("code", escape(path)), "fixed", escape(formatting.value(value)), ""]
        rows.append([*cells, *[""] * len(study.leaders)])
    body = [
        tag(
            "tr",
            "".join(tag("td", cell, class_=class_) for cell, class_ in zip(row, kept, strict=True)),
        )
        for row in rows
    ]
    return page.table(heads, body, "scroll space")


def values(h: Hyperparameter) -> str:
    """Returns a search space in words: "0.001 to 10", "64; 64, 64"."""
    if isinstance(h.space, Range):
        return f"{formatting.value(h.space.low)} to {formatting.value(h.space.high)}"
    return "; ".join(formatting.value(v) for v in h.space.values)


def _varying(study: Study, h: Hyperparameter) -> list[str]:
    scale = "listed"
    if isinstance(h.space, Range):
        scale = h.space.scale.replace("one_minus_log", "log of 1 − x")
        scale += ", whole numbers" if h.space.type == "int" else ""
    best = [formatting.value(trial.parameters.get(h.name)) for trial in study.leaders]
    return [tag("code", escape(h.name)), h.role, escape(values(h)), scale, *map(escape, best)]
