"""The preview of a study (`--dry_run`): its trials, what they cost, and what is doubtful about it."""

import importlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies import launcher, shares, specification as specification_lib, warnings
from playbook_jax.studies.execution import (
    device_placement,
    jobs,
    measurement,
    pack_choice,
    study_context,
)
from playbook_jax.studies.specification import Specification
from playbook_jax.studies.store import directory
from playbook_jax.studies.store.directory import StudyDirectory, Trials

_ROWS = 20


def preview(
    config_path: str | Path,
    workdir: str | Path,
    *,
    num_workers: int | None = None,
    pack: int | str | None = None,
    measure: bool = False,
    overrides: Sequence[str] = (),
    train_module: str = launcher.TRAIN_MODULE,
) -> None:
    """Checks a study as a launch would, prints its trials and cost, and writes `study.json` only.

    Args:
      config_path: the study config.
      workdir: the study directory.
      num_workers: how many processes are to run trials; None: as many as at a launch.
      pack: see `launcher.launch`.
      measure: whether to make some real steps, and to tell from them how long the study takes.
      overrides: what replaces values of the study config, as on the command line.
      train_module: a module with the function `validate` of train.py.

    Raises:
      UsageError: the study can't be run; nothing was written.
    """
    asked = specification_lib.load(config_path, overrides)
    num_workers = num_workers or device_placement.default_num_workers()
    specification, study = launcher.open_study(asked, workdir)
    undo = True
    try:
        stored = study.stored_trials(specification)
        if stored:
            pack_choice.refuse_other(pack, study.path, study.lanes)
            pack = study.lanes
        trials = launcher.extend(stored, specification)
        # Before this process takes hold of the devices.
        duration = measure and _duration(specification, trials, study, num_workers, pack)
        configs = _validate(specification, trials, train_module)
        study.write(specification, trials)
        undo = False
        print(f"{specification.name}: {specification.goal}\n")
        print(_table(trials))
        print()
        print(shares.describe(asked, trials))
        if not duration:
            known = shares.time_left(trials, study, num_workers)
            print(known or "how long it takes: --measure tells, after a few real steps")
        print(_cost(specification, trials, study))
        print(_room(configs, Path(workdir), num_workers))
        if duration:
            print(duration)
    finally:
        study.release(undo)
    for doubt in warnings.find(asked):
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
    dead = study_context.dead_axis(trials, configs, train.unread)
    if dead:
        raise UsageError(dead)
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


def _duration(
    specification: Specification,
    trials: Trials,
    study: StudyDirectory,
    num_workers: int,
    pack: int | str | None,
) -> str:
    """Returns, from a few real steps, how long the trials will take that are not over."""
    over = trial_lib.FINISHED
    left = [row for row in trials if study.status(row["trial"])["state"] not in over]
    if not left:
        return "nothing is left to be run"
    programs = sorted(jobs.by_program(left).values(), key=len, reverse=True)
    first = programs[0][0]
    config = specification_lib.trial_config(
        specification.base_config, first["trial"], first["parameters"], specification.vary_seed
    )
    steps = [
        specification_lib.total_steps(specification.base_config, row["parameters"]) for row in left
    ]

    def times(every: int) -> float:
        return sum(math.ceil(number / every) for number in steps) / len(steps)

    work = measurement.Work(
        config=config_lib.to_dict(config),
        counts=[len(program) for program in programs],
        steps=sum(steps) / len(steps),
        evaluations=times(config.eval_every_steps),
        saves=times(config.checkpoint.every_steps),
        workers=min(num_workers, len(left)),
        pack=pack_choice.ALONE if pack is None else pack,
    )
    return measurement.describe(work, measurement.measure(work))


def _room(configs: list[ConfigDict], workdir: Path, num_workers: int) -> str:
    """Returns what the study takes on disk; warns where there is less."""
    from playbook_jax.training import disk_usage  # it imports jax

    needed = disk_usage.study_bytes(configs, num_workers)
    free = disk_usage.free_bytes(workdir)
    if free < needed:
        print(
            f"warning: about {disk_usage.describe(needed)} of disk are needed and "
            f"{disk_usage.describe(free)} are free; use another --workdir or a smaller checkpoint.keep_best",
            file=sys.stderr,
        )
    return (
        f"about {disk_usage.describe(needed)} of disk, of {disk_usage.describe(free)} that are free"
    )
