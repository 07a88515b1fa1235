"""The configurations that a procedure runs again, found where a command line says: in a study, say.

They come as they were run, with what their study found where it chose them.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.adoption import CANDIDATE, SEED
from playbook_jax.errors import UsageError
from playbook_jax.studies.store import ledger
from playbook_jax.tracking import stored_format

FORMAT = stored_format.REPLICATES
FILE_NAME = "replicates.json"  # see replicates.py
BEST = "best"


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What is run again.

    Attributes:
      source: where it comes from, in words.
      config: the complete training config, nested.
      objective: the `metric` and `mode` of the study that it comes from, or None.
      chosen: that study's results, as `replicates.json` has them, or None.
      replicates: the directory of replicates that exist already, or None.
    """

    source: str
    config: dict[str, Any]
    objective: Mapping[str, str] | None = None
    chosen: dict[str, Any] | None = None
    replicates: Path | None = None


def from_study(path: str | Path, trial: str = BEST) -> Configuration:
    """Returns a trial of a study: the one with this number, or the best.

    Raises:
      UsageError: there is no study, or no such trial that is COMPLETE.
    """
    members = trial_lib.read_json(Path(path) / "group.json")
    if isinstance(members, dict) and "studies" in members:
        rows = members["studies"] if isinstance(members["studies"], list) else []
        names = [str(Path(path) / str(s.get("directory"))) for s in rows if isinstance(s, dict)]
        raise UsageError(
            f"{path} is a group; give one of its studies: {formatting.join(names, 'or')}"
        )
    study = ledger.read(path)
    if not study.ranked:
        raise UsageError(f"{path} has no COMPLETE trial, so there is none to run again")
    numbers = [row["trial"] for row in study.trials]
    if trial == BEST:
        index = study.ranked[0]
    elif trial.isdecimal() and int(trial) in numbers:
        index = numbers.index(int(trial))
    else:
        raise UsageError(
            f"--trial={trial}: {path} has the trials {numbers[0]} to {numbers[-1]}, or 'best'"
        )
    status = study.statuses[index]
    if status["state"] != trial_lib.COMPLETE:
        raise UsageError(
            f"--trial={trial} of {path} is {status['state']}; choose one that is COMPLETE"
        )
    found = trial_lib.load(study.trial_directory(index))
    # The baseline is trial 0 and was not drawn: it is no part of what another study would have drawn.
    drawn = [i for i, n in enumerate(numbers) if n != 0 or not study.specification.get("baseline")]
    complete = [study.statuses[i]["objective"] for i in study.ranked if i in drawn]
    complete = complete or [status["objective"]]  # the baseline alone
    ended = [study.statuses[i] for i in drawn if study.statuses[i]["state"] in trial_lib.FINISHED]
    return Configuration(
        source=f"trial {numbers[index]} of {path}",
        config=config_lib.with_optional(found.config),
        objective=study.specification["objective"],
        chosen={
            "trial": numbers[index],
            "objective": status["objective"],
            "objectives": complete,
            "failures": len(ended) - len(complete),
        },
    )


def from_anywhere(path: str, vary: str = SEED) -> Configuration:
    """Returns what `--baseline` names; see `plan`.

    Raises:
      UsageError: it is none of these, or replicates that differ in something else.
    """
    place = Path(path)
    if (place / FILE_NAME).exists():
        stored = trial_lib.read_json(place / FILE_NAME)
        problem = f"--baseline: {place / FILE_NAME} cannot be read"
        stored_format.check(place / FILE_NAME, stored, FORMAT, problem)
        if stored["vary"] != vary:
            raise UsageError(
                f"--baseline: {path} has replicates with --vary={stored['vary']}, not {vary}"
            )
        side = stored[CANDIDATE]
        return Configuration(
            side["source"],
            config_lib.with_optional(side["config"]),
            stored["objective"],
            side["chosen"],
            Path(side.get("replicates") or place.resolve() / CANDIDATE),
        )
    if (place / "study.json").exists() or (place / "group.json").exists():
        return from_study(path)
    if (place / "config.json").exists():
        place = place / "config.json"
    if place.is_dir():
        raise UsageError(f"--baseline: {path} holds neither a study, nor a trial, nor replicates")
    config = config_lib.complete(config_lib.load(place))
    return Configuration(path, config_lib.to_dict(config))
