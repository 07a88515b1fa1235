"""What a study leaves behind when its trials are over: table, best config, report, and a summary."""

import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies import specification as specification_lib
from playbook_jax.studies.execution import full_disk
from playbook_jax.studies.specification import Specification
from playbook_jax.studies.store import best_config, directory, ledger
from playbook_jax.studies.store.directory import Status, StudyDirectory, Trials

REPORT_MODULE = "playbook_jax.analysis.reports.report"
FAILED_MODULE = "playbook_jax.analysis.data.failed"
INDEX_MODULE = "playbook_jax.analysis.reports.index"
_SHOWN_FAILURES = 3


def conclude(
    study: StudyDirectory,
    specification: Specification,
    trials: Trials,
    statuses: Mapping[int, Status],
    command: Sequence[str],
) -> bool:
    """Does what `sum_up` does, and writes the ledger."""
    reported = sum_up(study, specification, trials, statuses, command)
    write_ledger(study.path)
    return reported


def sum_up(
    study: StudyDirectory,
    specification: Specification,
    trials: Trials,
    statuses: Mapping[int, Status],
    command: Sequence[str],
) -> bool:
    """Writes `study.csv`, `best_config.py` and the report, and prints what came out.

    Args:
      study: the study directory.
      specification: what was studied.
      trials: all trials.
      statuses: their statuses, by trial.
      command: what started the launcher; the scripts that are named lie beside it.

    Returns:
      Whether the report could be written.
    """
    study.write_table(trials, statuses)
    directories = {number: study.trial_directory(number) for number in statuses}
    # What failed to train is one thing here and in the report.
    failures = importlib.import_module(FAILED_MODULE).numbers(
        directories, statuses, specification.objective
    )
    _print_counts(specification.name, statuses, failures)
    best = directory.best(statuses, specification.objective["mode"], failures)
    script = Path(command[0])
    path = study.path if study.path.name.strip(".") else study.path.resolve()
    train_command = [
        str(script.with_name("train.py")),
        f"--config={path / 'best_config.py'}",
        f"--workdir={path.with_name(path.name + '_best')}",
        # With as many threads as the worker had, it computes the same bits.
        *(["--cores=1"] if hasattr(os, "sched_setaffinity") else []),
    ]
    if best is None:
        print("No trial is COMPLETE: there is no best one.")
    else:
        _tell_best(study, specification, trials[best], statuses[best], train_command)
    reported = report(study.path, script)
    if best is not None:
        replicate_command = [
            str(script.with_name("replicate.py")),
            f"--study={path}",
            f"--baseline={specification.base_config_path}",
            f"--workdir={path.with_name(path.name + '_replicates')}",
        ]
        reproduce_command = [
            str(script.with_name("reproduce.py")),
            f"--trial={path / 'trials' / study.trial_directory(trials[best]['trial']).name}",
            f"--workdir={path.with_name(path.name + '_best')}",
        ]
        print(f"Train the best trial again, bit for bit: {shlex.join(reproduce_command)}")
        print(f"Its config, to begin the next one with: {path / 'best_config.py'}")
        print(f"See whether it was luck: {shlex.join(replicate_command)}")
    return reported


def _tell_best(
    study: StudyDirectory,
    specification: Specification,
    trial: Mapping[str, Any],
    status: Status,
    train_command: Sequence[str],
) -> None:
    """Prints the best trial, and writes its config as `best_config.py`."""
    number, parameters = trial["trial"], trial["parameters"]
    text = f"{specification.objective['metric']} {status['objective']:.4g}"
    text += f" at step {status['best_step']:,}"
    _print_best(number, text, parameters)
    docstring = (
        f"The best trial of the study {specification.name!r}: trial {number}, {text}.\n\n"
        f"The study's question: {specification.goal}\n\n"
        f"    {shlex.join(train_command)}\n"
    )
    config = specification_lib.trial_config(
        specification.base_config, number, parameters, specification.vary_seed
    )
    source = best_config.source(config_lib.to_dict(config), docstring)
    trial_lib.write_text(study.path / "best_config.py", source)


def write_ledger(path: Path) -> None:
    """Writes the ledger of all studies beside a study or a group, and the page that shows it."""
    root = path.resolve().parent
    root = root.parent if (root / "group.json").exists() else root
    try:
        studies = ledger.find(root)
        ledger.write(root, studies)
        importlib.import_module(INDEX_MODULE).write(root, studies)
    except UsageError as error:  # the study itself is complete without it
        print(f"warning: {error}", file=sys.stderr)


def _print_counts(name: str, statuses: Mapping[int, Status], failures: Collection[int]) -> None:
    states = [status["state"] for status in statuses.values()]
    counts = ", ".join(f"{states.count(s)} {s}" for s in trial_lib.FINISHED if s in states)
    told = len(failures) > states.count(trial_lib.INFEASIBLE)
    failed_to_train = f"; {len(failures)} failed to train" if told else ""
    print(f"{name}: {len(states)} trials, {counts}{failed_to_train}")
    failed = [trial for trial, status in statuses.items() if status["state"] == trial_lib.FAILED]
    for trial in failed[:_SHOWN_FAILURES]:
        print(f"  trial {trial} FAILED: {statuses[trial]['reason']}")
    if len(failed) > _SHOWN_FAILURES:
        print(f"  … and {len(failed) - _SHOWN_FAILURES} more; study.csv has the reasons")


def _print_best(trial: int, text: str, parameters: Mapping[str, object]) -> None:
    print(f"Best: trial {trial}, {text}")
    width = max(map(len, parameters))
    for name, value in parameters.items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        print(f"  {name:<{width}}  {shown}")


def report(path: Path, script: Path) -> bool:
    """Writes the report of a study or a group, prints what it comes to, and returns whether that went well.

    Args:
      path: its directory.
      script: the launcher's, beside which the others lie.
    """
    try:
        written, findings = importlib.import_module(REPORT_MODULE).conclude(path)
    except Exception as error:  # whatever it is, the trials are done and their table is written
        if full_disk.is_meant(error):
            raise
        traceback.print_exc()
        again = shlex.join([str(script.with_name("analyze.py")), f"--study={path}"])
        print(f"The report failed; once it is mended: {again}", file=sys.stderr)
        return False
    print(findings)
    print(f"Report: {written}")
    return True
