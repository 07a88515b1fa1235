"""The trial directory: what a training run leaves on disk, and how it is read back.

    config.json       the resolved config
    provenance.json   command, commit and diff, versions, devices, seeds
    status.json       state, reason, step, best_step, objective
    metrics.jsonl     a line an evaluation: step, train/…, validation/…
    steps.f32         the per-step records: row t is the update t, float32
    steps.json        the names of their columns
    timing.jsonl      whatever depends on the clock
    summary.json      written at the end; all that the report of a study reads
    profile.json      on request, see profiling.py
    tensorboard/      on request, see tensorboard.py
    checkpoints/      see checkpoints.py

All JSON is strict (a number that is not finite is null) and replaced atomically. This module needs
no jax, and pandas only when a table is asked for.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from etils import epath

from playbook_jax.errors import UsageError
from playbook_jax.tracking import record_files, run_summary
from playbook_jax.tracking.json_files import (
    read_json as read_json,
    read_json_lines as read_json_lines,
    read_object as read_object,
    remove_parts as remove_parts,
    strict as strict,
    write_json as write_json,
    write_text as write_text,
    wrong,
)

if TYPE_CHECKING:
    import pandas as pd

PENDING, RUNNING, COMPLETE, INFEASIBLE, FAILED, INTERRUPTED = STATES = (
    "PENDING",
    "RUNNING",
    "COMPLETE",
    "INFEASIBLE",
    "FAILED",
    "INTERRUPTED",
)
# The exit code of a command that ran one trial, by the state in which it ended; bad input is 2.
EXIT_CODES = {COMPLETE: 0, FAILED: 1, INFEASIBLE: 3, INTERRUPTED: 75}
FINISHED = (COMPLETE, INFEASIBLE, FAILED)

# The first columns of every trial's per-step records; norms by parameter group may follow.
STEP_COLUMNS = ("loss", "gradient_norm", "update_norm", "learning_rate", "clipped")
PERCENTILES, CURVE_POINTS = run_summary.PERCENTILES, run_summary.CURVE_POINTS
LAST_STEPS = run_summary.LAST_STEPS


def read_status(directory: epath.PathLike) -> dict[str, Any]:
    """Returns a trial's status; PENDING where nothing ran yet, or the file is torn.

    Raises:
      UsageError: `status.json` holds something else than a status.
    """
    path = epath.Path(directory) / "status.json"
    status = new_status() | read_object(path)
    number, whole = int | float | None, int | None
    types = {"reason": str, "step": int, "best_step": whole, "objective": number}
    for name, kind in types.items():
        if not isinstance(status[name], kind) or isinstance(status[name], bool):
            raise wrong(path, f"{status[name]!r:.60} as its {name}")
    if status["state"] not in STATES:
        raise wrong(path, f"{status['state']!r:.60} as its state")
    return status


def read_provenance(directory: epath.PathLike) -> dict[str, Any]:
    """Returns what `provenance.json` holds, empty where it is missing or torn.

    Raises:
      UsageError: it holds something else than provenance.
    """
    path = epath.Path(directory) / "provenance.json"
    stored = read_object(path)
    runs = stored.get("earlier_runs", [])
    if not isinstance(runs, list):
        raise wrong(path, f"{runs!r:.60} as its earlier_runs")
    return stored


def read_timing(directory: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of `timing.jsonl`, leaving out what is torn or no row of numbers."""
    rows = read_json_lines(epath.Path(directory) / record_files.TIMING)
    return [row for row in rows if all(isinstance(value, int | float) for value in row.values())]


def step_columns(directory: epath.PathLike) -> tuple[str, ...]:
    """Returns the names of the columns of a trial's per-step records, STEP_COLUMNS the first."""
    path = epath.Path(directory) / "steps.json"
    columns = read_object(path).get("columns", STEP_COLUMNS)
    if not isinstance(columns, list | tuple) or tuple(columns[: len(STEP_COLUMNS)]) != STEP_COLUMNS:
        raise wrong(path, f"{columns!r:.60} as its columns")
    return tuple(columns)


def read_steps(directory: epath.PathLike) -> np.ndarray:
    """Returns the per-step records, float32 of shape [steps, len(step_columns(directory))]."""
    columns = len(step_columns(directory))
    try:
        data = (epath.Path(directory) / "steps.f32").read_bytes()
    except OSError:
        data = b""
    rows = len(data) // (4 * columns)
    return np.frombuffer(data[: rows * 4 * columns], "<f4").reshape(rows, columns)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial directory, read when asked.

    Attributes:
      directory: where it lies.
      config: the resolved config, as nested dictionaries.
      status: `state`, `reason`, `step`, `best_step`, `objective`; PENDING where nothing ran yet.
    """

    directory: epath.Path
    config: dict[str, Any]
    status: dict[str, Any]

    @functools.cached_property
    def provenance(self) -> dict[str, Any]:
        """Command, commit and diff, versions, devices, host, seeds."""
        return read_provenance(self.directory)

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """What `summarize` gave at the end of the run; made anew where the run has not ended."""
        stored = read_object(self.directory / "summary.json")
        return stored if stored else summarize(self.directory, self.status)

    @functools.cached_property
    def evaluations(self) -> "pd.DataFrame":
        """A row an evaluation: `step` and the metrics `train/…`, `validation/…`."""
        import pandas as pd

        refuse_damaged(self.directory, record_files.METRICS)
        rows = read_json_lines(self.directory / record_files.METRICS)
        try:
            # A null is a number that was not finite.
            frame = pd.DataFrame(rows, columns=None if rows else ["step"], dtype=float)
            return frame.astype({"step": int})
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(
                self.directory / record_files.METRICS, "its values are no numbers"
            ) from error

    @functools.cached_property
    def timing(self) -> list[dict[str, Any]]:
        """The rows of `timing.jsonl`, see `clock.Laps.row`; `clock.totals` sums them up."""
        return read_timing(self.directory)

    @functools.cached_property
    def steps(self) -> "pd.DataFrame":
        """A row an update: `step` and `step_columns`; row t was made with learning rate schedule(t)."""
        import pandas as pd

        refuse_damaged(self.directory, record_files.STEPS)
        records = read_steps(self.directory)
        frame = pd.DataFrame(records, columns=list(step_columns(self.directory)))
        frame.insert(0, "step", np.arange(len(records)))
        return frame


def refuse_damaged(directory: epath.PathLike, name: str) -> None:
    """Raises a UsageError where `steps.f32` or `metrics.jsonl` is not what it was when the trial ended."""
    directory = epath.Path(directory)
    if read_status(directory)["state"] in (COMPLETE, INFEASIBLE):
        summary = read_object(directory / "summary.json")
        columns = len(step_columns(directory))
        if problem := record_files.unlike(directory / name, summary, columns):
            raise _damaged(directory / name, problem)


def _damaged(path: epath.Path, problem: str) -> UsageError:
    return UsageError(
        f"{path} is damaged: {problem}; restore it, or delete status.json and give the training command "
        "again"
    )


def load(directory: epath.PathLike) -> Trial:
    """Returns the trial in `directory`.

    Raises:
      UsageError: there is no trial, or its files are not of the right types.
    """
    directory = epath.Path(directory)
    config = read_object(directory / "config.json")
    if not config and read_json(directory / "config.json") is None:
        raise UsageError(f"{directory} holds no trial: it has no config.json that can be read")
    return Trial(directory, config, read_status(directory))


def new_status(state: str = PENDING, reason: str = "", step: int = 0) -> dict[str, Any]:
    """Returns the contents of `status.json`.

    `objective` is the value of `checkpoint.metric` at `best_step`, the evaluation where it was best.
    """
    return {"state": state, "reason": reason, "step": step, "best_step": None, "objective": None}


class View(Protocol):
    """Something that shows a trial while it runs; see `tensorboard.View`."""

    def rewound(self, directory: epath.Path) -> None:
        """Takes a trial directory as it is now, in place of what it knew."""

    def steps(self, records: np.ndarray) -> None:
        """Takes the records that `Writer.append_steps` has written."""

    def row(self, name: str, row: Mapping[str, Any]) -> None:
        """Takes the line that `Writer.append` has written."""


class Writer:
    """Writes one trial directory; `train.py` is its only caller.

    Attributes:
      view: is told what is written; set it before `rewind`.
    """

    view: View | None = None

    def __init__(
        self, directory: epath.PathLike, config: dict[str, Any], *, writes: bool = True
    ) -> None:
        """Opens a new trial directory, or one that an earlier run of the same config left.

        Args:
          directory: the workdir; made if it does not exist.
          config: the resolved config as `config.to_dict` gives it.
          writes: False on all hosts but one, where the other methods then do nothing; that one must
            have opened the directory before.

        Raises:
          UsageError: the directory can't be written, holds other files, or another config's trial.
        """
        from playbook_jax import config as config_lib

        self.directory = epath.Path(directory)
        self._writes = writes
        self.records = record_files.RecordFiles(self.directory)
        existing = self._existing()
        if existing is not None:
            # `notes` say what a run is for, and compute nothing: the newest text counts.
            noted = config_lib.with_optional(existing) | {"notes": config.get("notes", "")}
            changed = config_lib.differences(noted, config_lib.with_optional(config))
            if changed:
                shown = "; ".join(changed[:5]) + (" …" if len(changed) > 5 else "")
                raise UsageError(
                    f"{directory} belongs to another config ({shown}); "
                    "use another --workdir, or the same config to resume"
                )
        if not writes:
            if existing is None:
                raise UsageError(
                    f"host 0 writes to {directory}, and this host does not see it; "
                    "--workdir must be a directory that all hosts share"
                )
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            foreign = [p.name for p in self.directory.iterdir() if not p.name.startswith(".")]
            if existing is None and set(foreign) - {"log.txt"}:
                raise UsageError(
                    f"{directory} is not empty and holds no trial ({', '.join(foreign[:3])}); "
                    "use another --workdir"
                )
            remove_parts(self.directory)
            if existing is None or existing.get("notes", "") != config.get("notes", ""):
                write_json(self.directory / "config.json", config)
            else:
                (self.directory / ".writable").touch()
                (self.directory / ".writable").unlink()
        except OSError as error:
            raise UsageError(f"cannot write to {directory}: {error.strerror or error}") from error

    def _existing(self) -> dict[str, Any] | None:
        """Returns the config of the trial that is there; None where there is none."""
        path = self.directory / "config.json"
        if read_json(path) is not None:
            return read_object(path)
        if (self.directory / "checkpoints").exists() and path.exists():
            raise UsageError(
                f"{path} can't be read, so nobody knows which run its checkpoints are of; restore it, or "
                "use another --workdir"
            )
        return None

    @property
    def status(self) -> dict[str, Any]:
        """What `status.json` holds now; see `read_status`."""
        return read_status(self.directory)

    def write(self, name: str, value: Any) -> None:
        """Writes one of the JSON files; `steps.json` must be there before the first records."""
        if self._writes:
            write_json(self.directory / name, value)

    def append_steps(self, records: np.ndarray) -> None:
        """Appends per-step records, float32 [rows, columns of `steps.json`]."""
        if self._writes:
            self.records.append(record_files.STEPS, np.ascontiguousarray(records, "<f4").tobytes())
            if self.view:
                self.view.steps(records)

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Appends a line to `metrics.jsonl` or `timing.jsonl`."""
        if self._writes:
            self.records.append(name, json.dumps(strict(row), allow_nan=False).encode() + b"\n")
            if self.view:
                self.view.row(name, row)

    def problem(self, step: int, extents: np.ndarray | None) -> str:
        """Says what is missing of the records that a checkpoint counts on; see `RecordFiles.problem`."""
        return self.records.problem(step, extents, len(step_columns(self.directory)))

    def rewind(self, step: int, extents: np.ndarray | None = None) -> None:
        """Cuts what was written after `step`: where a run goes on from a checkpoint.

        Args:
          step: the number of completed updates.
          extents: how much of the records belongs to it, where the checkpoint tells.
        """
        if not self._writes:
            return
        self.records.rewind(step, extents, len(step_columns(self.directory)))
        if self.view:
            self.view.rewound(self.directory)


def summarize(directory: epath.PathLike, status: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a report needs of a trial, of bounded size.

    Args:
      directory: the trial directory.
      status: the trial's status, for `best_step`.

    Returns:
      `steps` (updates made), `initial_loss` (that of step 0), `final_loss` (the mean of the last
      LAST_STEPS), `highest_loss` (of any step), `gradient_norm` (`percentiles` by name,
      `histogram` with `edges` in log10 and `counts`), `clipped_fraction`, `curves` (per-step records
      thinned to at most CURVE_POINTS: `step`, `loss`, `gradient_norm` and that of each parameter
      group, each the mean, and `gradient_norm_max`, the largest, of the stretch of steps that ends
      there), `evaluations` (every metric as a list beside `step`, thinned likewise, the best kept),
      `best` and `final` (the metrics at those evaluations).
    """
    return run_summary.summarize(
        read_steps(directory),
        step_columns(directory),
        read_json_lines(epath.Path(directory) / record_files.METRICS),
        status.get("best_step"),
    )
