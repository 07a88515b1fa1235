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
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from etils import epath

from playbook_jax.errors import UsageError

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
LAST_STEPS = 20  # whose mean is a run's loss at its end
PERCENTILES = (5, 25, 50, 75, 90, 95, 99, 100)
CURVE_POINTS = 200  # more than a plot shows; keeps the report of 1,000 trials small


def strict(value: Any) -> Any:
    """Returns `value` as strict JSON allows it: NumPy scalars plain, non-finite numbers None."""
    if isinstance(value, Mapping):
        return {str(key): strict(v) for key, v in value.items()}
    if isinstance(value, np.ndarray):
        return strict(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [strict(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new one, never a part."""
    path = epath.Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError as error:  # a full disk, perhaps, which a part would fill even more
        part.unlink(missing_ok=True)
        error.filename = str(path)
        raise


def remove_parts(directory: epath.PathLike) -> None:
    """Removes what `write_text` has left in a directory where its process was killed meanwhile."""
    for part in epath.Path(directory).glob(".*.part"):
        part.unlink(missing_ok=True)


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes strict JSON atomically."""
    write_text(
        path, json.dumps(strict(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    )


def read_json(path: epath.PathLike, default: Any = None) -> Any:
    """Returns what a JSON file holds, or `default` where it is missing or torn."""
    try:
        return json.loads(epath.Path(path).read_text())
    except (OSError, ValueError):
        return default


def read_json_lines(path: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of a file with a JSON object a line, leaving out lines that are torn."""
    try:
        lines = epath.Path(path).read_text().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def step_columns(directory: epath.PathLike) -> tuple[str, ...]:
    """Returns the names of the columns of a trial's per-step records, STEP_COLUMNS the first."""
    header = read_json(epath.Path(directory) / "steps.json", {"columns": STEP_COLUMNS})
    return tuple(header["columns"])


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
        return read_json(self.directory / "provenance.json", {})

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """What `summarize` gave at the end of the run; made anew where the run has not ended."""
        stored = read_json(self.directory / "summary.json")
        return stored if stored else summarize(self.directory, self.status)

    @functools.cached_property
    def evaluations(self) -> "pd.DataFrame":
        """A row an evaluation: `step` and the metrics `train/…`, `validation/…`."""
        import pandas as pd

        rows = read_json_lines(self.directory / "metrics.jsonl")
        # A null is a number that was not finite.
        frame = pd.DataFrame(rows, columns=None if rows else ["step"], dtype=float)
        return frame.astype({"step": int})

    @functools.cached_property
    def timing(self) -> list[dict[str, Any]]:
        """The rows of `timing.jsonl`, see `clock.Laps.row`; `clock.totals` sums them up."""
        return read_json_lines(self.directory / "timing.jsonl")

    @functools.cached_property
    def steps(self) -> "pd.DataFrame":
        """A row an update: `step` and `step_columns`; row t was made with learning rate schedule(t)."""
        import pandas as pd

        records = read_steps(self.directory)
        frame = pd.DataFrame(records, columns=list(step_columns(self.directory)))
        frame.insert(0, "step", np.arange(len(records)))
        return frame


def load(directory: epath.PathLike) -> Trial:
    """Returns the trial in `directory`.

    Raises:
      UsageError: there is no trial.
    """
    directory = epath.Path(directory)
    config = read_json(directory / "config.json")
    if config is None:
        raise UsageError(f"{directory} holds no trial: it has no config.json that can be read")
    return Trial(directory, config, read_json(directory / "status.json", new_status()))


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
        existing = read_json(self.directory / "config.json")
        if existing is not None:
            changed = config_lib.differences(
                config_lib.with_optional(existing), config_lib.with_optional(config)
            )
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
            if existing is None:
                write_json(self.directory / "config.json", config)
            else:
                (self.directory / ".writable").touch()
                (self.directory / ".writable").unlink()
        except OSError as error:
            raise UsageError(f"cannot write to {directory}: {error.strerror or error}") from error

    @property
    def status(self) -> dict[str, Any]:
        """What `status.json` holds now."""
        return read_json(self.directory / "status.json", new_status())

    def write(self, name: str, value: Any) -> None:
        """Writes one of the JSON files; `steps.json` must be there before the first records."""
        if self._writes:
            write_json(self.directory / name, value)

    def append_steps(self, records: np.ndarray) -> None:
        """Appends per-step records, float32 [rows, columns of `steps.json`]."""
        if self._writes:
            with (self.directory / "steps.f32").open("ab") as file:
                file.write(np.ascontiguousarray(records, "<f4").tobytes())
            if self.view:
                self.view.steps(records)

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Appends a line to `metrics.jsonl` or `timing.jsonl`."""
        if self._writes:
            with (self.directory / name).open("a") as file:
                file.write(json.dumps(strict(row), allow_nan=False) + "\n")
            if self.view:
                self.view.row(name, row)

    def rewind(self, step: int) -> None:
        """Cuts everything after `step`, and torn last lines: where a run goes on from a checkpoint."""
        if not self._writes:
            return
        steps = self.directory / "steps.f32"
        if steps.exists():
            data, size = steps.read_bytes(), 4 * step * len(step_columns(self.directory))
            if len(data) != size:
                part = steps.with_name(".steps.f32.part")
                part.write_bytes(data[:size])
                part.replace(steps)
        for name in ("metrics.jsonl", "timing.jsonl"):
            path = self.directory / name
            if path.exists():
                rows = [row for row in read_json_lines(path) if row.get("step", 0) <= step]
                write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
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
    records = read_steps(directory)
    evaluations = read_json_lines(epath.Path(directory) / "metrics.jsonl")
    loss, norms, clipped = records[:, 0].astype(np.float64), records[:, 1], records[:, 4]
    finite = norms[np.isfinite(norms)].astype(np.float64)
    best = [row for row in evaluations if row.get("step") == status.get("best_step")]
    return {
        "steps": len(records),
        "gradient_norm": {
            "percentiles": {
                str(p): float(np.percentile(finite, p)) if finite.size else None
                for p in PERCENTILES
            },
            "histogram": _histogram(finite),
        },
        "initial_loss": float(records[0, 0]) if len(records) else None,
        "final_loss": float(np.mean(loss[-LAST_STEPS:])) if len(records) else None,
        "highest_loss": float(np.max(loss)) if len(records) else None,
        "clipped_fraction": float(np.mean(clipped > 0)) if len(records) else None,
        "curves": _thin_records(records, step_columns(directory)),
        "evaluations": _thin_evaluations(evaluations, status.get("best_step")),
        "best": best[-1] if best else None,
        "final": evaluations[-1] if evaluations else None,
    }


def _histogram(norms: np.ndarray) -> dict[str, list[float]]:
    positive = norms[norms > 0]
    if not positive.size:
        return {"edges": [], "counts": []}
    counts, edges = np.histogram(np.log10(positive), bins=40)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _thin_records(records: np.ndarray, columns: Sequence[str]) -> dict[str, list[float]]:
    edges = np.unique(np.linspace(0, len(records), CURVE_POINTS + 1).astype(int))
    starts, ends = edges[:-1], edges[1:]
    averaged = [0, 1, *range(len(STEP_COLUMNS), len(columns))]
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.add.reduceat(records[:, averaged].astype(np.float64), starts)
        means = sums / (ends - starts)[:, None]
        return {
            "step": (ends - 1).tolist(),
            **{columns[c]: means[:, i].tolist() for i, c in enumerate(averaged)},
            "gradient_norm_max": np.maximum.reduceat(records[:, 1], starts).tolist(),
        }


def _thin_evaluations(rows: list[dict[str, Any]], best_step: int | None) -> dict[str, list[Any]]:
    if len(rows) > CURVE_POINTS:
        kept = {int(i) for i in np.linspace(0, len(rows) - 1, CURVE_POINTS)}
        kept |= {i for i, row in enumerate(rows) if row.get("step") == best_step}
        rows = [rows[i] for i in sorted(kept)]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
