"""The index: a page over all studies below a directory, beside their ledger and from the same entries.

Source: playbook, "Setting up experiment tracking", which names the columns: the study, its config, notes, how
many trials ran, what the best checkpoint reached on validation, and how to reproduce it.
"""

import collections
import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.render import page
from playbook_jax.analysis.render.html import escape, link, tag
from playbook_jax.studies.store import adoptions, ledger
from playbook_jax.studies.store.adoptions import Launch
from playbook_jax.studies.store.ledger import Study

NAME = "index.html"
_GROUP = "group.json"


@dataclasses.dataclass(frozen=True)
class _Row:
    """A study or a group.

    Attributes:
      directory: where it lies.
      name: of the study.
      config: the file that holds its config.
      notes: its question.
      states: how many of its trials are in each state.
      infeasible: how many of them failed to train, see `failed`.
      metric: the objective's name.
      maximize: whether more of it is better.
      best: the best objective, or None.
      started: when its first trial began, as ISO 8601 has it, or empty.
      ended: when the newest result came, likewise.
      reproduction: the command that started it.
      code: the commit.
      adopted: its launches, the newest last.
      group: whether it is a group, whose studies have rows as well.
      problem: why it cannot be read; empty where it can.
    """

    directory: Path
    name: str
    config: Path
    notes: str
    states: collections.Counter[str]
    infeasible: int
    metric: str
    maximize: bool
    best: float | None
    started: str
    ended: str
    reproduction: str
    code: str
    adopted: Sequence[Launch] = ()
    group: bool = False
    problem: str = ""

    @property
    def trials(self) -> int:
        """How many there are."""
        return sum(self.states.values())

    @property
    def ended_trials(self) -> int:
        """How many have come to their end."""
        return sum(n for state, n in self.states.items() if state in trial_lib.FINISHED)

    @property
    def state(self) -> str:
        """The state of the whole, in a word or two."""
        if self.problem:
            return "cannot be read"
        if not self.trials or set(self.states) == {trial_lib.PENDING}:
            return "not started"
        if self.states.get(trial_lib.RUNNING):
            return "running"
        if self.ended_trials < self.trials:
            return "unfinished"
        if self.best is None:
            return "no result"
        return "complete"


def write(root: str | Path, studies: Sequence[Study] | None = None) -> Path:
    """Writes the page of all studies right below `root`, and returns its path.

    Args:
      root: the directory of the ledger.
      studies: those below it, if they have been read already.

    Raises:
      UsageError: `root` is no directory, or can't be written.
    """
    root = Path(root)
    studies = ledger.find(root) if studies is None else studies
    return Path(page.write(root / NAME, render(root, studies)))


def render(root: Path, studies: Sequence[Study]) -> str:
    """Returns the page."""
    rows = _rows(studies)
    own = [row for row in rows if not row.group]
    open_ = sum(row.state in ("running", "unfinished", "not started") for row in own)
    counts = [
        formatting.plural(len(own), "study", "studies"),
        formatting.plural(sum(row.trials for row in own), "trial"),
        *([f"{open_} not over"] if open_ else []),
    ]
    ledger_link = link(ledger.FILE_NAME, root / ledger.FILE_NAME, root)
    body = [
        tag("header", tag("p", escape(root.resolve()), class_="over") + tag("h1", "All studies")),
        tag("p", f"{escape(', '.join(counts))}. As a table for programs: {ledger_link}."),
        _table(rows, root) if rows else tag("p", "There are no studies here yet.", class_="hint"),
        page.footer("written"),
    ]
    return page.html(f"Studies in {root.resolve().name}", body)


def _rows(studies: Sequence[Study]) -> list[_Row]:
    """Returns a row a study, and one for each group before those of its studies; the newest first."""
    by_group: dict[Path, list[_Row]] = {}
    found: list[list[_Row]] = []
    for study in studies:
        row = _row(study)
        parent = study.path.parent
        if not (parent / _GROUP).exists():
            found.append([row])
        elif parent in by_group:
            by_group[parent].append(row)
        else:
            by_group[parent] = [row]
            found.append(by_group[parent])
    for parent, rows in by_group.items():
        rows.insert(0, _of_group(parent, list(rows)))
    found.sort(key=lambda rows: rows[0].started, reverse=True)
    return [row for rows in found for row in rows]


def _row(study: Study) -> _Row:
    entry = ledger.entry(study)
    directories = [study.trial_directory(index) for index in range(len(study.trials))]
    return _Row(
        directory=study.path,
        name=str(entry.study),
        config=Path(entry.config),
        notes=str(entry.notes),
        states=collections.Counter(status["state"] for status in study.statuses),
        infeasible=entry.infeasible,
        metric=str(entry.metric),
        maximize=study.specification["objective"]["mode"] == "max",
        best=entry.best_validation,
        started=_started(directories),
        ended=_changed(directories),
        reproduction=entry.reproduction,
        code=entry.code,
        adopted=adoptions.read(study.path),
        problem=study.problem,
    )


def _started(directories: Sequence[Path]) -> str:
    for directory in directories:
        provenance = trial_lib.read_json(directory / "provenance.json", {})
        if isinstance(provenance, dict) and isinstance(provenance.get("started"), str):
            return provenance["started"]
    return ""


def _changed(directories: Sequence[Path]) -> str:
    """Returns when a status was last written."""
    times = []
    for directory in directories:
        try:
            times.append((directory / "status.json").stat().st_mtime)
        except OSError:
            continue  # it has not started, or is gone
    if not times:
        return ""
    return datetime.datetime.fromtimestamp(max(times), datetime.UTC).isoformat(timespec="seconds")


def _of_group(directory: Path, rows: Sequence[_Row]) -> _Row:
    """Returns the row of a group, from those of its studies."""
    stored = trial_lib.read_json(directory / _GROUP, {})
    stored = stored if isinstance(stored, dict) else {}
    first = next((row for row in rows if not row.problem), rows[0])
    bests = [row.best for row in rows if row.best is not None and row.metric == first.metric]
    choose_best = max if first.maximize else min
    return dataclasses.replace(
        first,
        directory=directory,
        name=str(stored.get("name") or directory.name),
        config=directory / _GROUP,
        notes=str(stored.get("goal") or ""),
        states=sum((row.states for row in rows), collections.Counter()),
        infeasible=sum(row.infeasible for row in rows),
        best=choose_best(bests, default=None),
        started=min((row.started for row in rows if row.started), default=""),
        ended=max(row.ended for row in rows),
        adopted=(),
        group=True,
    )


def _table(rows: Sequence[_Row], root: Path) -> str:
    adopted = any(row.adopted for row in rows)
    heads = [("study", ""), ("state", ""), ("trials", "n"), ("infeasible", "n"), ("failed", "n")]
    heads += [("best validation", "n"), ("notes", ""), *([("launches", "")] if adopted else [])]
    heads += [("config", ""), ("started", ""), ("last result", ""), ("reproduction", "")]
    body = [_cells(row, root, adopted) for row in rows]
    return page.table(heads, body, "scroll index", sortable=True)


def _cells(row: _Row, root: Path, adopted: bool) -> str:
    report = link(row.name, row.directory / "report.html", root)
    kind = tag("span", "group") if row.group else ""
    best = "" if row.best is None else formatting.metric(row.metric, row.best)
    metric = tag("span", escape(formatting.metric_label(row.metric)))
    trials = str(row.trials)
    if row.ended_trials < row.trials:
        trials = f"{row.ended_trials} of {row.trials}"
    files = [("config", row.config), ("best", row.directory / "best_config.py")]
    links = [link(text, path, root) for text, path in files if path.exists()]
    command = tag("code", escape(row.reproduction)) + tag("span", escape(row.code))
    dot = {"complete": "COMPLETE", "running": "RUNNING", "no result": "INFEASIBLE"}
    state = f'<i class="s-{dot.get(row.state, trial_lib.PENDING)}"></i>{escape(row.state)}'
    cells = [
        tag("td", report + kind, class_="of", data_v=row.name),
        tag("td", state, class_="keep"),
        tag("td", trials, class_="n"),
        tag("td", str(row.infeasible), class_="n"),
        tag("td", str(row.states.get(trial_lib.FAILED, 0)), class_="n"),
        tag("td", best + metric, class_="n", data_v="" if row.best is None else repr(row.best)),
        tag("td", escape(row.notes), class_="reason"),
        *([_launches(row, root)] if adopted else []),
        tag("td", ", ".join(links)),
        _time(row.started),
        _time(row.ended),
        tag("td", command, class_="command"),
    ]
    return tag("tr", "".join(cells), class_="whole" if row.group else "")


def _launches(row: _Row, root: Path) -> str:
    """Returns a cell with a line a launch, which leads to the page of its evidence where there is one."""
    lines = []
    for launch in row.adopted:
        evidence = (
            row.directory / launch.evidence / "adoption.html"
        )  # an absolute path stays as it is
        lines.append(tag("div", link(launch.text, evidence, root)))
    return tag("td", "".join(lines), class_="reason")


def _time(text: str) -> str:
    """Returns a cell with a time to the minute, in this machine's zone, that sorts by the second."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return tag("td", "")
    shown = time.astimezone().strftime("%Y-%m-%d %H:%M")
    return tag("td", shown, class_="keep", data_v=int(time.timestamp()))
