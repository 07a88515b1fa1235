"""A study of many trials, written and read, for benchmarks/studies.py."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.benchmarking import duration, measured
from playbook_jax import trial
from playbook_jax.studies import specification as specification_lib, trial_points
from playbook_jax.studies.store import directory, ledger
from playbook_jax.training import loop
from tools.digits_study import write_study

Rows = list[dict[str, Any]]


def measure(count: int) -> list[str]:
    """Returns, a line each, what a study of so many trials takes, beside what it can't do without."""
    with tempfile.TemporaryDirectory() as place:
        config = write_study(Path(place) / "study.py", num_trials=count)
        study = directory.StudyDirectory(Path(place) / "study")
        try:
            specification = specification_lib.load(config)
            lines, trials = _begin(study, specification)
            statuses = {row["trial"]: _ended(row["trial"]) for row in trials}
            return [*lines, *_run(study, trials, statuses), *_return(study, config)]
        finally:
            study.release()


def _line(what: str, seconds: float, bare: float | None = None, of: str = "") -> str:
    ratio = "" if bare is None else f", {seconds / bare:.1f} times {of} ({duration(bare)})"
    return f"{what:<28} {duration(seconds)}{ratio}"


def _begin(study: directory.StudyDirectory, specification: Any) -> tuple[list[str], Rows]:
    """Measures what comes before the first trial; returns the trials too."""
    trials: Rows = []

    def sample() -> None:
        points = trial_points.points(specification, [])
        trials.extend({"trial": t, "parameters": p} for t, p in enumerate(points))

    def check(row: dict[str, Any]) -> None:
        base, vary_seed = specification.base_config, specification.vary_seed
        parameters = row["parameters"]
        loop.validate(specification_lib.trial_config(base, row["trial"], parameters, vary_seed))

    lines = [_line("points", measured(sample))]
    check(trials[0])  # reads the data
    few = trials[: max(1, len(trials) // 20)]
    checked = measured(lambda: [check(row) for row in few])
    lines.append(_line("every config checked", checked * len(trials) / len(few)))
    written = measured(lambda: study.write(specification, trials))
    stored = json.loads((study.path / "study.json").read_text())
    bare = measured(lambda: (study.path / ".copy").write_text(json.dumps(stored, indent=1)))
    return [*lines, _line("study.json written", written, bare, "the same JSON")], trials


def _run(
    study: directory.StudyDirectory, trials: Rows, statuses: Mapping[int, dict[str, Any]]
) -> list[str]:
    """Measures what is written while trials run."""
    for number in statuses:
        study.trial_directory(number).mkdir(parents=True)

    def write() -> None:
        for number, status in statuses.items():
            trial.write_json(study.trial_directory(number) / "status.json", status)

    def write_bare() -> None:
        for number, status in statuses.items():
            (study.trial_directory(number) / "copy").write_text(json.dumps(status))

    bare = measured(write_bare)
    return [
        _line("a status for each trial", measured(write), bare, "the same JSON"),
        _line("study.csv", measured(lambda: study.write_table(trials, statuses))),
    ]


def _return(study: directory.StudyDirectory, config: Path) -> list[str]:
    """Measures what comes first when the study is taken up again, and in the ledger."""

    def resume() -> None:
        for row in study.stored_trials(specification_lib.load(config)):
            study.status(row["trial"])

    def resume_bare() -> None:
        for row in json.loads((study.path / "study.json").read_text())["trials"]:
            json.loads((study.trial_directory(row["trial"]) / "status.json").read_text())

    return [
        _line("taken up again", measured(resume), measured(resume_bare), "reading the same files"),
        _line("the ledger's row", measured(lambda: ledger.entry(ledger.read(study.path)))),
    ]


def _ended(number: int) -> dict[str, Any]:
    status = trial.new_status(trial.COMPLETE, step=1_000)
    return status | {"best_step": 500, "objective": number * 1e-5}
