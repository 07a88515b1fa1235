"""The study directory: what a study leaves on disk.

study.json        the specification and every trial's hyperparameters, before the first one starts
trials/000/ …     trial directories (see trial.py)
study.csv         a row a trial
best_config.py    the best trial's config, ready to run
report.html       written by analysis/reports/report.py
logs/             what the workers print
"""

import csv
import io
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.runtime.lock import NAME, Lock
from playbook_jax.studies.space import search_space
from playbook_jax.studies.specification import Specification
from playbook_jax.studies.store import leases, stored as stored_lib
from playbook_jax.tracking import csv_cells, stored_format

FORMAT = stored_format.STUDY
UNPACKED = 1  # the format without `packing`
STATUS_COLUMNS = ("state", "reason", "step", "best_step", "objective")
_OURS = {"study.json", "trials", "study.csv", "best_config.py", "report.html", "logs"}

Status = dict[str, Any]
Trials = list[dict[str, Any]]  # {"trial": 0, "parameters": {"hparams.learning_rate": 0.1, …}}


class StudyDirectory:
    """A study directory, locked for one launcher.

    Local or mounted disks only: elsewhere (gs://…) nothing can be locked.

    Attributes:
      path: the directory.
      lock: its lock.
      lanes: how many trials run in one program, 1 where each runs alone (see jobs.py); what a study was
        begun with once `stored_trials` has read it.
    """

    lanes = 1

    def __init__(
        self, path: str | Path, file_name: str = "study.json", ours: Collection[str] = _OURS
    ) -> None:
        """Makes the directory if it does not exist, and locks it.

        Args:
          path: the directory.
          file_name: the file by which it is known.
          ours: what may lie in it before that file is written.

        Raises:
          UsageError: it can't be written, is in use, or holds something else than a study.
        """
        if "://" in str(path):
            raise UsageError(
                f"{path}: a study needs a local or mounted disk, where it can be locked"
            )
        self.path = Path(path)
        self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = [p.name for p in self.path.iterdir() if not p.name.startswith(".")]
            if not (self.path / file_name).exists() and set(foreign) - set(ours):
                raise UsageError(
                    f"{path} is not empty and holds no study ({', '.join(sorted(foreign)[:3])}); "
                    "use another --workdir"
                )
            self.lock = Lock(self.path / NAME)
            leases.wait_for_all(self.path)
            trial_lib.remove_parts(self.path)  # nobody else writes here now
        except OSError as error:
            raise UsageError(f"cannot write to {path}: {error.strerror or error}") from error
        if not (self.path / "logs").exists():
            self._made.insert(0, self.path / "logs")

    @property
    def logs(self) -> Path:
        """Where the workers' logs go."""
        (self.path / "logs").mkdir(exist_ok=True)
        return self.path / "logs"

    def release(self, undo: bool = False) -> None:
        """Lets go of the lock; with `undo`, removes the directories that this process made."""
        if undo and self.path / "logs" in self._made:
            shutil.rmtree(self.path / "logs", ignore_errors=True)
        self.lock.release()
        for directory in self._made if undo else ():
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()

    def trial_directory(self, trial: int) -> Path:
        """Returns where a trial lies: trials/007, trials/1234."""
        return self.path / "trials" / f"{trial:03d}"

    def status(self, trial: int) -> Status:
        """Returns a trial's status, see `stored.read_status`."""
        return stored_lib.read_status(self.trial_directory(trial))

    def stored_trials(self, specification: Specification) -> Trials:
        """Returns the trials that a started study holds; none where it has not started.

        Raises:
          UsageError: the study in this directory is another one, or longer, and has started.
        """
        path = self.path / "study.json"
        if not path.exists():
            return []
        stored = trial_lib.read_json(path)
        problem = f"{path} cannot be read as a study; use another --workdir"
        stored_format.check(path, stored, FORMAT, problem)
        stored = stored_lib.read(path)
        trials = [
            {
                "trial": row["trial"],
                "parameters": {k: search_space.freeze(v) for k, v in row["parameters"].items()},
                **{key: row[key] for key in ("imported",) if key in row},
            }
            for row in stored["trials"]
        ]
        started = (self.path / "trials").is_dir() and any((self.path / "trials").iterdir())
        if not started:
            return []
        self.lanes = stored_format.lanes(stored)
        old, new = stored["specification"], json.loads(json.dumps(specification.to_dict()))
        # The base config counts as it was resolved; its file may move. A study may grow.
        try:
            old |= {"base_config": config_lib.with_optional(old["base_config"])}
        except (LookupError, TypeError, ValueError) as error:
            raise UsageError(f"{problem} (its base config is not whole: {error})") from error
        ignored = {"base_config_path": "", "num_trials": 0}
        for side in (old, new):  # the other study may be gone, or elsewhere
            side["start_from"] = bool(side.get("start_from"))
        changed = config_lib.differences(_settled(old) | ignored, _settled(new) | ignored)
        if new["num_trials"] < len(trials):
            changed.append(f"num_trials: {len(trials)} → {new['num_trials']}")
        if changed:
            shown = "; ".join(changed[:5]) + (" …" if len(changed) > 5 else "")
            raise UsageError(
                f"{self.path} holds trials of another study ({shown}); use another --workdir "
                "(a started study accepts a larger num_trials and nothing else)"
            )
        return trials

    @property
    def head(self) -> dict[str, Any]:
        """How what is stored begins: the format, and `lanes`, as the bits of the trials depend on it."""
        if self.lanes == 1:
            return {"format": UNPACKED}
        return {"format": FORMAT, "packing": {"lanes": self.lanes}}

    def write(self, specification: Specification, trials: Trials) -> None:
        """Writes `study.json`, unless it holds just that."""
        study = {
            **self.head,
            "specification": specification.to_dict(),
            "trials": trials,
        }
        path = self.path / "study.json"
        if trial_lib.read_json(path) != json.loads(json.dumps(study)):
            trial_lib.write_json(path, study)

    def fail(self, trial: int, config: dict[str, Any], reason: str) -> Status:
        """Writes that a trial FAILED for a reason that its own process could not write down."""
        writer = trial_lib.Writer(self.trial_directory(trial), config)
        step = writer.status["step"]
        status = trial_lib.new_status(trial_lib.FAILED, reason, step)
        writer.write("status.json", status)
        return status

    def write_table(self, trials: Trials, statuses: Mapping[int, Status]) -> None:
        """Writes `study.csv`: trial, state, reason, step, best_step, objective, hyperparameters."""
        names = columns(trials)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        marked = ["imported"] if any("imported" in row for row in trials) else []
        writer.writerow(["trial", *STATUS_COLUMNS, *marked, *map(cell, names)])
        for row in trials:
            status = statuses[row["trial"]]
            writer.writerow(
                [
                    row["trial"],
                    *(cell(status[column]) for column in STATUS_COLUMNS),
                    *(cell(_source(row)) for _ in marked),
                    *(cell(row["parameters"].get(name)) for name in names),
                ]
            )
        trial_lib.write_text(self.path / "study.csv", text.getvalue())


def _source(row: Mapping[str, Any]) -> str:
    """Returns where an imported trial lies; empty for the study's own."""
    told = row.get("imported")
    return f"{told['study']}/trials/{told['trial']:03d}" if told else ""


def _settled(specification: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a specification without what follows from a list of trials, which may grow."""

    def own(space: Mapping[str, Any]) -> dict[str, Any]:
        kept = ("when", search_space.FROM_POINTS)
        listed = search_space.FROM_POINTS in space
        return {key: value for key, value in space.items() if not listed or key in kept}

    roles = ("scientific", "nuisance")
    spaces = {role: {n: own(s) for n, s in specification[role].items()} for role in roles}
    return {**specification, **spaces}


def columns(trials: Trials) -> list[str]:
    """Returns the hyperparameters of all trials, each once; not every trial has the conditional ones."""
    return list(dict.fromkeys(name for row in trials for name in row["parameters"]))


def cell(value: Any) -> Any:
    """Returns a value as a CSV cell has it."""
    return json.dumps(value) if isinstance(value, tuple) else csv_cells.guarded(value)


def best(statuses: Mapping[int, Status], mode: str, failures: Collection[int] = ()) -> int | None:
    """Returns the COMPLETE trial with the best objective, the earliest on a tie, or None.

    One of the `failures`, which did not train, is it only where no other is COMPLETE.
    """
    sign = 1 if mode == "min" else -1
    ranked = {
        trial: (trial in failures, sign * status["objective"])
        for trial, status in sorted(statuses.items())
        if status["state"] == trial_lib.COMPLETE
    }
    return min(ranked, key=ranked.get, default=None)
