"""The ledger: a table of all studies below a directory, with the columns that the playbook names.

It is read from the study directories, which are the only truth, so it can be written again at any time
and nothing is lost with it. Source: playbook, "Setting up experiment tracking".
"""

import csv
import dataclasses
import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax import stored_format, trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies import launches

FILE_NAME = "ledger.csv"
_NEVER_FINISHED = {"state": trial_lib.PENDING, "objective": None}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the ledger.

    Attributes:
      study: the study's name.
      config: the path of its specification, hyperparameters of all trials included.
      notes: its question.
      trials: how many have come to their end, of how many.
      infeasible: how many of them are INFEASIBLE.
      best_validation: the objective of the best checkpoint, None while there is none.
      metric: what that is a value of.
      reproduction: the command that started it.
      code: the commit, and whether there were changes that it does not hold (the trials'
        `provenance.json` has them).
      launches: which of its trials were adopted, when and on which evidence.
    """

    study: str
    config: str
    notes: str
    trials: str
    infeasible: int
    best_validation: float | None
    metric: str
    reproduction: str
    code: str
    launches: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
    """A study as it lies on disk.

    Attributes:
      path: its directory.
      specification: as `study.json` has it.
      trials: as `study.json` has them.
      statuses: each trial's status, in their order.
    """

    path: Path
    specification: Mapping[str, Any]
    trials: list[Mapping[str, Any]]
    statuses: list[Mapping[str, Any]]

    @property
    def finished(self) -> int:
        """How many trials have come to their end."""
        return sum(status["state"] in trial_lib.FINISHED for status in self.statuses)

    @property
    def ranked(self) -> list[int]:
        """The COMPLETE trials, the best first and the earliest first on a tie."""
        sign = 1 if self.specification["objective"]["mode"] == "min" else -1
        complete = [
            (sign * status["objective"], number)
            for number, status in enumerate(self.statuses)
            if status["state"] == trial_lib.COMPLETE
        ]
        return [number for _, number in sorted(complete)]

    def trial_directory(self, index: int) -> Path:
        """Returns the directory of the trial at this place of `trials`."""
        return self.path / "trials" / f"{self.trials[index]['trial']:03d}"


def read(path: str | Path) -> Study:
    """Returns the study in a directory.

    Raises:
      UsageError: there is none.
    """
    path = Path(path)
    stored = trial_lib.read_json(path / "study.json")
    stored_format.refuse_newer(path / "study.json", stored, stored_format.STUDY)
    if not _is_ours(stored):
        raise UsageError(f"{path} holds no study; give the --workdir of scripts/launch_study.py")
    return _with_statuses(path, stored)


def _with_statuses(path: Path, stored: Mapping[str, Any]) -> Study:
    study = Study(path, stored["specification"], stored["trials"], [])
    for index in range(len(study.trials)):
        status = trial_lib.read_json(study.trial_directory(index) / "status.json", _NEVER_FINISHED)
        study.statuses.append(status)
    return study


def find(root: str | Path) -> list[Study]:
    """Returns the studies right below `root`, those of groups among them, by path.

    A `study.json` of something else, or of a newer version, is passed over.

    Raises:
      UsageError: `root` is no directory.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"{root} is no directory; give the one that holds the study directories")
    groups = [path.parent for path in root.glob("*/group.json")]
    if (root / "group.json").exists():
        groups.append(root)
    paths = {*root.glob("*/study.json"), *(p for g in groups for p in g.glob("*/study.json"))}
    found = ((path.parent, trial_lib.read_json(path)) for path in sorted(paths))
    return [_with_statuses(path, stored) for path, stored in found if _can_be_read(stored)]


def _can_be_read(stored: Any) -> bool:
    return _is_ours(stored) and not stored_format.is_newer(stored, stored_format.STUDY)


def _is_ours(stored: Any) -> bool:
    return isinstance(stored, dict) and {"specification", "trials"} <= stored.keys()


def entry(study: Study) -> Entry:
    """Returns a study's row."""
    provenance = next(
        (
            found
            for index in range(len(study.trials))
            if "imported" not in study.trials[index]
            and (found := trial_lib.read_json(study.trial_directory(index) / "provenance.json"))
        ),
        {},
    )
    old = sum("imported" in row for row in study.trials)
    best = study.statuses[study.ranked[0]]["objective"] if study.ranked else None
    commit = provenance.get("commit") or "unknown"
    return Entry(
        study=study.specification["name"],
        config=str(study.path / "study.json"),
        notes=study.specification["goal"],
        trials=f"{study.finished}/{len(study.trials)}" + (f" ({old} imported)" if old else ""),
        infeasible=sum(s["state"] == trial_lib.INFEASIBLE for s in study.statuses),
        best_validation=best,
        metric=study.specification["objective"]["metric"],
        reproduction=shlex.join(provenance.get("command", [])),
        code=commit[:12] + (" with changes" if provenance.get("dirty") else ""),
        launches="; ".join(launch.text for launch in launches.read(study.path)),
    )


def write(root: str | Path, studies: Sequence[Study] | None = None) -> Path:
    """Writes the ledger of all studies right below `root`; returns its path.

    Args:
      root: the directory that holds the studies' directories.
      studies: the studies, if they have been read already.

    Raises:
      UsageError: `root` is no directory, or can't be written.
    """
    text = io.StringIO()
    names = [field.name for field in dataclasses.fields(Entry)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for study in find(root) if studies is None else studies:
        writer.writerow(dataclasses.asdict(entry(study)))
    path = Path(root) / FILE_NAME
    try:
        trial_lib.write_text(path, text.getvalue())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return path
