"""The preview of a study (`--dry_run`): its trials, what they cost, and what is doubtful about it."""

import importlib
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from playbook_jax import trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies import (
    directory,
    doubts,
    launcher,
    places,
    specification as specification_lib,
)
from playbook_jax.studies.directory import StudyDirectory, Trials
from playbook_jax.studies.specification import Specification

_ROWS = 20


def preview(
    config_path: str | Path, workdir: str | Path, *, train_module: str = launcher.TRAIN_MODULE
) -> None:
    """Checks a study as a launch would, prints its trials and cost, and writes `study.json` only.

    Args:
      config_path: the study config.
      workdir: the study directory.
      train_module: a module with the function `validate` of train.py.

    Raises:
      UsageError: the study can't be run; nothing was written.
    """
    asked = specification_lib.load(config_path)
    specification, study = launcher.open_study(asked, workdir)
    undo = True
    try:
        trials = launcher.extend(study.stored_trials(specification), specification)
        configs = _validate(specification, trials, train_module)
        study.write(specification, trials)
        undo = False
        print(f"{specification.name}: {specification.goal}\n")
        print(_table(trials))
        print()
        print(_cost(specification, trials, study))
        print(_room(configs, Path(workdir)))
    finally:
        study.release(undo)
    for doubt in doubts.find(asked):
        print(f"warning: {doubt}", file=sys.stderr)


def _validate(specification: Specification, trials: Trials, train_module: str) -> list[ConfigDict]:
    train = importlib.import_module(train_module)
    configs = []
    for row in trials:
        config = specification_lib.trial_config(
            specification.base_config, row["trial"], row["parameters"], specification.vary_seed
        )
        try:
            configs.append(train.validate(config))
        except UsageError as error:
            raise UsageError(f"trial {row['trial']}: {error}") from error
    return configs


def _table(trials: Trials) -> str:
    names = directory.columns(trials)
    rows = [["trial", *names]]
    for row in trials[:_ROWS]:
        rows.append(
            [str(row["trial"]), *(_cell(row["parameters"].get(name, "")) for name in names)]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    if len(trials) > _ROWS:
        lines.append(f"… and {len(trials) - _ROWS:,} more")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cost(specification: Specification, trials: Trials, study: StudyDirectory) -> str:
    steps = sum(
        specification_lib.total_steps(specification.base_config, row["parameters"])
        for row in trials
    )
    text = f"{len(trials):,} trials, {steps:,} steps in all"
    finished = sum(study.status(row["trial"])["state"] in trial_lib.FINISHED for row in trials)
    return text + (f"; {finished:,} trials are at their end already" if finished else "")


def _room(configs: list[ConfigDict], workdir: Path) -> str:
    """Returns what the study takes on disk; warns where there is less."""
    from playbook_jax import disk  # it imports jax

    needed = disk.study_bytes(configs, places.default_num_workers())
    free = disk.free_bytes(workdir)
    if free < needed:
        print(
            f"warning: about {disk.describe(needed)} of disk are needed and {disk.describe(free)} "
            "are free; use another --workdir or a smaller checkpoint.keep_best",
            file=sys.stderr,
        )
    return f"about {disk.describe(needed)} of disk, of {disk.describe(free)} that are free"
