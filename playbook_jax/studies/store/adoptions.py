"""Launches: a trial whose configuration was adopted as the new baseline, each with its evidence.

    launches.json          in the study's directory: the launches of its trials, the newest last
    adopted_config.py      beside it: the training config of the newest, the base of what follows

Source: playbook, "The incremental tuning strategy" (a launch is an update of the best configuration, on
strong evidence that the change really improves it) and "Determining whether to adopt a training pipeline
change or hyperparameter configuration".
"""

import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies.store import best_config, replicated

if TYPE_CHECKING:
    from playbook_jax.studies.store.ledger import Study

FILE_NAME, CONFIG_NAME = "launches.json", "adopted_config.py"
FORMAT = 1
ADOPT = "adopt"  # the verdict that lets a configuration in
_REPLICATES, _ADOPTION = "replicates.json", "adoption.json"  # what scripts/replicate.py leaves


@dataclasses.dataclass(frozen=True)
class Launch:
    """A configuration that was adopted.

    Attributes:
      time: when, as ISO 8601 has it.
      trial: its number in the study.
      parameters: its hyperparameters by path.
      metric: the objective's name.
      objective: what it reached in the study.
      config: the training config.
      evidence: the workdir of the replicates, or empty.
      verdict: what they say, "adopt"; empty where there are none.
      reason: why.
      baseline: what it replaced, in words, or empty.
      improvement: of the mean over the baseline's, in the objective's units, or None.
      note: what whoever adopted it had to say.
      forced: why it was adopted although the evidence does not say so; empty where it does.
    """

    time: str
    trial: int
    parameters: Mapping[str, Any]
    metric: str
    objective: float
    config: Mapping[str, Any]
    evidence: str = ""
    verdict: str = ""
    reason: str = ""
    baseline: str = ""
    improvement: float | None = None
    note: str = ""
    forced: str = ""

    @property
    def text(self) -> str:
        """The launch in a line, "2026-11-25: trial 7, adopt: it is better …"."""
        told = f"{self.time[:10]}: trial {self.trial}"
        if self.verdict:
            told += f", {self.verdict}: {self.reason}"
        if self.forced:
            told += f"{'; adopted' if self.verdict else ', adopted'} all the same: {self.forced}"
        return f"{told} ({self.note})" if self.note else told


def newest(directory: str | Path) -> Launch | None:
    """Returns the launch that what follows is based on, if there is one."""
    return next(iter(read(directory)[::-1]), None)


def read(directory: str | Path) -> list[Launch]:
    """Returns the launches of a study, the newest last; none where the file cannot be read."""
    stored = trial_lib.read_json(Path(directory) / FILE_NAME)
    rows = stored.get("launches") if isinstance(stored, Mapping) else None
    names = {field.name for field in dataclasses.fields(Launch)}
    try:
        found = [Launch(**{k: v for k, v in row.items() if k in names}) for row in rows or []]
    except (TypeError, AttributeError):
        return []
    return found if all(map(_is_sound, found)) else []


def _is_sound(launch: Launch) -> bool:
    """Returns whether all fields have the types that they are said to have."""
    texts = ("time", "metric", "evidence", "verdict", "reason", "baseline", "note", "forced")
    return (
        all(isinstance(getattr(launch, name), str) for name in texts)
        and isinstance(launch.trial, int)
        and isinstance(launch.objective, int | float)
        and isinstance(launch.improvement, int | float | None)
        and all(isinstance(part, Mapping) for part in (launch.parameters, launch.config))
    )


def adopt(study: "Study", trial: str, evidence: str | Path | None, note: str, force: str) -> Launch:
    """Adopts a trial's configuration: writes its config and a record beside the study.

    Args:
      study: the study.
      trial: the number of a COMPLETE trial of it, or "best".
      evidence: the workdir of scripts/replicate.py; None for those that the study knows of.
      note: a remark that is kept.
      force: a reason to adopt it although the evidence does not say so; empty for none.

    Raises:
      UsageError: there is no such trial, nothing shows that it is better, or it can't be written.
    """
    index = _index(study, trial)
    number = study.trials[index]["trial"]
    found = _evidence(study, number, evidence)
    verdict = found.get("verdict", "")
    may = verdict == ADOPT or found.get("removable") is True
    if not may and not force:
        raise UsageError(_refusal(study, number, found))
    stored = trial_lib.load(study.trial_directory(index))
    launch = Launch(
        time=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        trial=number,
        parameters=study.trials[index]["parameters"],
        metric=study.specification["objective"]["metric"],
        objective=study.statuses[index]["objective"],
        config=config_lib.with_optional(stored.config),
        evidence=found.get("workdir", ""),
        verdict=verdict,
        reason=found.get("reason", ""),
        baseline=((found.get("baseline") or {}).get("source")) or "",
        improvement=(found.get("difference") or {}).get("mean"),
        note=note,
        forced="" if may else force,
    )
    _write(study.path, launch)
    return launch


def _index(study: "Study", trial: str) -> int:
    numbers = [row["trial"] for row in study.trials]
    if not study.ranked:
        raise UsageError(f"{study.path} has no COMPLETE trial that could be adopted")
    if trial == "best":
        return study.ranked[0]
    complete = {numbers[index]: index for index in study.ranked}
    if not trial.isdecimal() or int(trial) not in complete:
        raise UsageError(
            f"--trial={trial} is no COMPLETE trial of {study.path}; give one, or 'best'"
        )
    return complete[int(trial)]


def _evidence(study: "Study", number: int, given: str | Path | None) -> dict[str, Any]:
    """Returns the newest adoption.json on a trial, with its `workdir`; empty where there is none.

    Raises:
      UsageError: what was given holds none, or is on another trial.
    """
    if given is not None:
        found = _read_evidence(study, number, Path(given))
        if found is None:
            raise UsageError(
                f"--evidence={given} holds no replicates of trial {number} of {study.path} that were "
                "weighed; give the --workdir of scripts/replicate.py"
            )
        return found
    places = [Path(place) for place in replicated.workdirs(study.path)]
    known = [(p, f) for p in places if (f := _read_evidence(study, number, p)) is not None]
    newest = max(known, key=lambda pair: (pair[0] / _ADOPTION).stat().st_mtime, default=None)
    return {} if newest is None else newest[1]


def _read_evidence(study: "Study", number: int, place: Path) -> dict[str, Any] | None:
    adoption = trial_lib.read_json(place / _ADOPTION)
    replicates = trial_lib.read_json(place / _REPLICATES)
    try:
        side = replicates["candidate"]
        same = side["chosen"]["trial"] == number
        index = [row["trial"] for row in study.trials].index(number)
        config = trial_lib.load(study.trial_directory(index)).config
        same &= not config_lib.differences(
            config_lib.with_optional(side["config"]), config_lib.with_optional(config)
        )
        return {**adoption, "workdir": str(place)} if same else None
    except (LookupError, TypeError, ValueError):
        return None


def _refusal(study: "Study", number: int, found: Mapping[str, Any]) -> str:
    way = "or say why all the same: --force='…'"
    if not found:
        return (
            f"nothing shows that trial {number} is better than what it would replace: run "
            f"scripts/replicate.py --study={study.path} --trial={number} --baseline=… first, {way}"
        )
    more = found.get("more_replicates")
    wait = f"about {more} more replicates of each side would tell; " if more else ""
    return (
        f"trial {number}: {found.get('verdict')}: {found.get('reason')} ({found['workdir']}); {wait}"
        f"keep the baseline, {way}"
    )


def is_config_of(text: str, launch: Launch) -> bool:
    """Returns whether this is the text that was written as the config of a launch."""
    return text == _source(launch)


def _source(launch: Launch) -> str:
    docstring = (
        f"Adopted on {launch.text}\n\n{launch.metric} {launch.objective:.4g} in its study.\n"
    )
    return best_config.source(launch.config, docstring)


def _write(directory: Path, launch: Launch) -> None:
    known = [dataclasses.asdict(old) for old in read(directory)]
    try:
        trial_lib.write_text(directory / CONFIG_NAME, _source(launch))
        rows = [*known, dataclasses.asdict(launch)]
        trial_lib.write_json(directory / FILE_NAME, {"format": FORMAT, "launches": rows})
    except OSError as error:
        raise UsageError(f"cannot write to {directory}: {error.strerror or error}") from error
