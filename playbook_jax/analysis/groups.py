"""The studies of a group as one: what is asked of a group is answered by all of its studies together.

A group has a study for each scientific value (see studies/group.py). As one study, the values are those of
a scientific hyperparameter again, and what has other bounds from study to study is as many hyperparameters.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from playbook_jax import trial as trial_lib
from playbook_jax.analysis import hyperparameters, study as study_lib
from playbook_jax.analysis.hyperparameters import Hyperparameter
from playbook_jax.analysis.study import Study, Trial
from playbook_jax.errors import UsageError
from playbook_jax.studies.arms import label

FILE_NAME = "group.json"
# Trials of the study itself keep their numbers, by which the page lights them up; trial 7 of the third study
# has the number 3,000,007.
SPAN = 1_000_000


def whole(study: Study) -> Study | None:
    """Returns the group of a study as one study, or None where it is in none, or a study of it is gone."""
    parent = study.directory.parent
    stored = trial_lib.read_json(parent / FILE_NAME, {})
    try:
        rows = [(str(row["directory"]), dict(row["values"])) for row in stored["studies"]]
        scientific = tuple(
            hyperparameters.parse(name, "scientific", space)
            for name, space in stored["scientific"].items()
        )
        if study.directory.name not in [name for name, _ in rows]:
            return None
        members = [
            (study if name == study.directory.name else study_lib.load(parent / name), values)
            for name, values in rows
        ]
    except (LookupError, TypeError, ValueError, AttributeError, UsageError):
        return None  # a group of before, or of foreign hands: the study itself can still be read
    if any(
        member.specification["objective"] != study.specification["objective"]
        for member, _ in members
    ):
        return None
    spaces: dict[str, list[Hyperparameter]] = {}
    for member, _ in members:
        for h in member.hyperparameters:
            spaces.setdefault(h.name, []).append(h)
    shared = {
        name
        for name, found in spaces.items()
        if len(found) == len(members) and all(h.space == found[0].space for h in found)
    }
    nuisance = [found[0] for name, found in spaces.items() if name in shared]
    trials: list[Trial] = []
    for index, (member, values) in enumerate(members):
        suffix = f"@{label(values)}"
        nuisance += [
            dataclasses.replace(h, name=h.name + suffix)
            for h in member.hyperparameters
            if h.name not in shared
        ]
        offset = 0 if member is study else (index + 1) * SPAN
        trials += [_renamed(t, offset, values, shared, suffix) for t in member.trials]
    return dataclasses.replace(
        study,
        specification=study.specification
        | {"goal": stored.get("goal"), "name": stored.get("name")},
        hyperparameters=(*scientific, *nuisance),
        trials=tuple(trials),
    )


def _renamed(
    trial: Trial, offset: int, values: Mapping[str, Any], shared: set[str], suffix: str
) -> Trial:
    own = {n if n in shared else n + suffix: value for n, value in trial.parameters.items()}
    return dataclasses.replace(trial, number=offset + trial.number, parameters={**values, **own})


def number(trial: Trial) -> int:
    """Returns the number of a trial in its own study."""
    return trial.number % SPAN
