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

from playbook_jax import trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies.store import adoptions, stored as stored_lib
from playbook_jax.tracking import csv_cells

FILE_NAME = "ledger.csv"
_NOTHING = {
    "objective": {"metric": "", "mode": "min"}
}  # what is known of a study that cannot be read


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the ledger.

    Attributes:
      study: the study's name.
      config: the path of its specification, hyperparameters of all trials included.
      notes: its question; of one that cannot be read, why not.
      trials: how many have come to their end, of how many.
      infeasible: how many of them failed to train, INFEASIBLE ones among them, as the report has it.
      failed: how many of them are FAILED.
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
    failed: int
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
      problem: why it cannot be read; empty where it can.
    """

    path: Path
    specification: Mapping[str, Any]
    trials: list[Mapping[str, Any]]
    statuses: list[Mapping[str, Any]]
    problem: str = ""

    @property
    def finished(self) -> int:
        """How many trials have come to their end."""
        return self.count(*trial_lib.FINISHED)

    def count(self, *states: str) -> int:
        """Returns how many trials are in one of these states."""
        return sum(status["state"] in states for status in self.statuses)

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
      UsageError: there is none, or it cannot be read.
    """
    path = Path(path)
    if not (path / "study.json").exists() or stored_lib.is_foreign(path / "study.json"):
        raise UsageError(f"{path} holds no study; give the --workdir of scripts/launch_study.py")
    stored = stored_lib.read(path / "study.json")
    study = Study(path, stored["specification"], stored["trials"], [])
    for index in range(len(study.trials)):
        study.statuses.append(stored_lib.read_status(study.trial_directory(index)))
    return study


def find(root: str | Path) -> list[Study]:
    """Returns the studies right below `root`, those of groups among them, by path.

    One that is damaged, or of a newer version, says so as its `problem`. A `study.json` of something else
    is passed over.

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
    return [_found(path.parent) for path in sorted(paths) if not stored_lib.is_foreign(path)]


def _found(path: Path) -> Study:
    try:
        return read(path)
    except UsageError as error:
        return Study(path, _NOTHING, [], [], problem=str(error))


def entry(study: Study) -> Entry:
    """Returns a study's row."""
    own = [i for i, row in enumerate(study.trials) if "imported" not in row]
    directories = map(study.trial_directory, own)
    provenance = next(filter(None, map(stored_lib.read_provenance, directories)), {})
    old = len(study.trials) - len(own)
    best = study.statuses[study.ranked[0]]["objective"] if study.ranked else None
    commit = provenance.get("commit") or "unknown"
    return Entry(
        study=study.specification.get("name") or study.path.name,
        config=str(study.path / "study.json"),
        notes=study.problem or study.specification.get("goal", ""),
        trials=f"{study.finished}/{len(study.trials)}" + (f" ({old} imported)" if old else ""),
        infeasible=_infeasible(study),
        failed=study.count(trial_lib.FAILED),
        best_validation=best,
        metric=study.specification["objective"]["metric"],
        reproduction=shlex.join(provenance.get("command", [])),
        code=commit[:12] + (" with changes" if provenance.get("dirty") else ""),
        launches="; ".join(launch.text for launch in adoptions.read(study.path)),
    )


def _infeasible(study: Study) -> int:
    """Returns how many trials failed to train: by the report where there is one, else those that diverged."""
    diverged = sum(status["state"] == trial_lib.INFEASIBLE for status in study.statuses)
    told = trial_lib.read_json(study.path / "findings.json", {})
    failures = told.get("failed") if isinstance(told, dict) else None
    return max(diverged, len(failures)) if isinstance(failures, list) else diverged


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
        row = dataclasses.asdict(entry(study))
        writer.writerow({name: csv_cells.guarded(value) for name, value in row.items()})
    path = Path(root) / FILE_NAME
    try:
        trial_lib.write_text(path, text.getvalue())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return path
