"""A study that starts from another one: the old trials that lie in its space are kept, and never run again.

    config.start_from = "/tmp/study"  # its --workdir; or a group's

A finished trial is imported where its whole config is what a trial of the new study would have: the same
base config outside of the space, the same fixed values, and a point inside the space. It keeps its directory,
linked or copied into the new study, and its row of `study.json` says where it comes from:

    {"trial": 0, "parameters": {…}, "imported": {"study": "/tmp/study", "trial": 7}}
"""

import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies import specification as specification_lib
from playbook_jax.studies.space import conditions, reparameterized, search_space
from playbook_jax.studies.specification import Specification
from playbook_jax.studies.store import ledger
from playbook_jax.studies.store.directory import Status, StudyDirectory, Trials

_CLOSE = 1e-9  # an axis is computed there and back


def rows(specification: Specification) -> Trials:
    """Returns the imported trials of a new study, as many as it has room for, numbered from 0.

    Raises:
      UsageError: the other study is not there, has another objective, or no trial that could be one of
        this study's.
    """
    path, reason, result = Path(specification.start_from), "none has finished", []
    for study in _studies(path):
        theirs, ours = dict(study.specification["objective"]), dict(specification.objective)
        if theirs != ours:
            told = [f"{o['metric']} ({o['mode']})" for o in (theirs, ours)]
            raise UsageError(
                f"start_from: {path} has the objective {told[0]}, this study {told[1]}"
            )
        for index, status in enumerate(study.statuses):
            if status["state"] not in (trial_lib.COMPLETE, trial_lib.INFEASIBLE):
                continue
            config = trial_lib.read_json(study.trial_directory(index) / "config.json")
            parameters, problem = _match(specification, config, study.trials[index]["parameters"])
            number = study.trials[index]["trial"]
            if problem:
                reason = f"trial {number} has {problem}"
            else:
                source = {"study": str(study.path), "trial": number}
                result.append({"parameters": parameters, "imported": source})
    if not result:
        raise UsageError(
            f"start_from: no finished trial of {path} could be one of this study's: {reason}"
        )
    room = result[: specification.num_trials - specification.baseline]
    return [{"trial": number, **row} for number, row in enumerate(room)]


def _studies(path: Path) -> Iterator[ledger.Study]:
    if (path / "group.json").exists():
        yield from (ledger.read(found.parent) for found in sorted(path.glob("*/study.json")))
        return
    try:
        yield ledger.read(path)
    except UsageError as error:
        raise UsageError(f"start_from: {error}") from error


def _match(
    specification: Specification, config: Any, old: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Returns what a config is as a trial of the study, and why it can't be one; one of the two is empty."""
    if not isinstance(config, dict):
        return {}, "no config.json that can be read"
    config = config_lib.from_dict(config_lib.with_optional(config))
    spaces, known = specification.spaces, config_lib.flatten(config)
    values = {}
    for key in spaces:
        paths = [conditions.path(key), *(part.path for part in reparameterized.parts(key))]
        if not all(path in known for path in paths):
            return {}, f"no {key}"
        values[key] = search_space.freeze(old[key]) if key in old else _axis(key, config)
    parameters = {key: values[key] for key in conditions.applicable(spaces, values)}
    for key, value in parameters.items():
        if not spaces[key].contains(value):
            return {}, f"{key} = {value!r}, outside of the space"
    fixed = specification.conditional_fixed
    parameters |= {k: fixed[k].value(0.0) for k in conditions.applicable(fixed, parameters)}
    try:
        ours = specification_lib.trial_config(specification.base_config, 0, parameters, False)
    except UsageError as error:
        return {}, str(error)
    mine = config_lib.flatten(config_lib.to_dict(ours))
    theirs = config_lib.flatten(config_lib.to_dict(config))
    for path in sorted(mine.keys() | theirs.keys()):
        if not _same(theirs.get(path), mine.get(path)):
            return {}, f"{path} = {theirs.get(path)!r}, where this study has {mine.get(path)!r}"
    return parameters, ""


def _axis(key: str, config: Any) -> Any:
    try:
        return reparameterized.axis_value(key, config)
    except UsageError:  # a part of it is zero: no point of the space
        return math.nan


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=_CLOSE)
    return one == other


def bring(study: StudyDirectory, trials: Sequence[Mapping[str, Any]]) -> dict[int, Status]:
    """Links or copies the imported trials that are not in the study yet; returns their statuses.

    One whose study is gone by now stays away, and will be run.
    """
    statuses = {}
    for row in trials:
        target = study.trial_directory(row["trial"])
        if "imported" not in row or target.exists():
            continue
        told = row["imported"]
        source = Path(told["study"]) / "trials" / f"{told['trial']:03d}"
        if source.is_dir():
            part = target.with_name(f".{target.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part, copy_function=_link)
            part.rename(target)
            statuses[row["trial"]] = study.status(row["trial"])
    return statuses


def _link(source: str, target: str) -> None:
    """Links a file, which is never written again, or copies it to another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
