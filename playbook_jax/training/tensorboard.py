"""TensorBoard, on request: a view of the trial's own files, written while it runs.

    scripts/train.py --config=configs/digits_mlp.py --workdir=/tmp/run --tensorboard
    tensorboard --logdir=/tmp/run

shows every evaluation, the per-step records (thinned) and the timing as scalars, and the hyperparameters
in TensorBoard's own table. A thread of its own imports TensorFlow, which takes seconds, and writes through
clu; training waits for neither, except that a run ends only when all is written. A run that goes on
writes its events anew from the records up to there, so that no step is in them twice.
"""

import importlib.util
import math
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError

FOLDER = "tensorboard"
POINTS = 1_000  # of each per-step record; more than a plot shows
_MODULES = ("tensorflow", "tensorboard", "clu")
# Groups of the config that the table of hyperparameters has, beside what is under `hparams`.
_TABLE = ("model", "optimizer", "schedule", "batch_size", "max_train_steps", "seed")


class View:
    """Writes one trial's events; a `trial.Writer` tells it what there is.

    An error in the thread ends the view and is said aloud, but not the run, whose own files are whole:
    the same command again makes the events anew.
    """

    def __init__(self, config: ConfigDict) -> None:
        """Checks that all that is needed is installed; imports none of it.

        Args:
          config: the complete training config.

        Raises:
          UsageError: a package is missing.
        """
        missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
        if missing:
            raise UsageError(f"--tensorboard needs {' and '.join(missing)}, which is not installed")
        self._hyperparameters = hyperparameters(config)
        self._stride = max(1, math.ceil(config_lib.total_steps(config) / POINTS))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tensorboard")
        self._writer: Any = None
        self._begun = self._failed = False

    def rewound(self, directory: epath.Path) -> None:
        """Takes a trial directory as it is now: what is in it, and no more, is what the events show."""
        self._begun = True
        self._columns = trial.step_columns(directory)
        records = trial.read_steps(directory)
        rows = [
            (name, row)
            for name in ("metrics.jsonl", "timing.jsonl")
            for row in trial.read_json_lines(directory / name)
        ]
        self._do(lambda: self._begin(directory / FOLDER))
        self.steps(records)
        for name, row in rows:
            self.row(name, row)

    def steps(self, records: np.ndarray) -> None:
        """Takes the per-step records that follow, float32 [rows, columns]."""
        self._do(lambda: self._write_steps(records))

    def row(self, name: str, row: Mapping[str, Any]) -> None:
        """Takes a row of `metrics.jsonl` or `timing.jsonl`."""
        prefix = "" if name == "metrics.jsonl" else "timing/"
        values = {
            prefix + key: math.nan if value is None else value
            for key, value in row.items()
            if key not in ("step", "seconds", "interval_seconds")
        }
        self._do(lambda: self._write(row["step"], values))

    def catch_up(self, directory: epath.PathLike) -> None:
        """Makes the events of a run that was finished before, on the host that writes."""
        from playbook_jax.runtime import parallel

        if not self._begun and parallel.host_index() == 0:
            with self:
                self.rewound(epath.Path(directory))

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Waits until all is written."""
        self._do(self._end)
        self._thread.shutdown()

    def _do(self, job: Callable[[], None]) -> None:
        """Lets the thread do a job, after those before it."""

        def guarded() -> None:
            if self._failed:
                return
            try:
                job()
            except Exception as error:
                self._failed = True
                print(
                    f"warning: no more TensorBoard events: {type(error).__name__}: {error}",
                    file=sys.stderr,
                )

        self._thread.submit(guarded)

    # The rest runs in the thread.

    def _begin(self, folder: epath.Path) -> None:
        from playbook_jax.input import pipeline

        pipeline.import_tensorflow()  # before clu does, which would not keep it off the GPUs
        from clu.metric_writers import summary_writer

        if folder.exists():
            folder.rmtree()
        self._writer = summary_writer.SummaryWriter(os.fspath(folder))
        self._writer.write_hparams(self._hyperparameters)
        self._step, self._unwritten = 0, np.zeros((0, len(self._columns)), np.float32)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        self._writer.write_scalars(step, values)
        self._writer.flush()

    def _write_steps(self, records: np.ndarray) -> None:
        self._unwritten = np.concatenate([self._unwritten, records])
        while len(self._unwritten) >= self._stride:
            self._write_block(self._unwritten[: self._stride])
            self._unwritten = self._unwritten[self._stride :]

    def _write_block(self, block: np.ndarray) -> None:
        """Writes the means of some steps, as of the last of them, and their largest gradient norm."""
        self._step += len(block)
        with np.errstate(over="ignore", invalid="ignore"):
            means = block.mean(axis=0, dtype=np.float64)
        values = {f"steps/{name}": x for name, x in zip(self._columns, means, strict=True)}
        if len(block) > 1:
            column = self._columns.index("gradient_norm")
            values["steps/gradient_norm_max"] = block[:, column].max()
        self._writer.write_scalars(self._step - 1, values)

    def _end(self) -> None:
        if self._writer is None:
            return
        if len(self._unwritten):
            self._write_block(self._unwritten)
        self._writer.close()


def hyperparameters(config: ConfigDict) -> dict[str, bool | float | str]:
    """Returns what TensorBoard's table of hyperparameters shows of a run, by its path in the config."""
    chosen = {key: config[key] for key in ("hparams", *_TABLE)}
    return {
        path.removeprefix("hparams."): x if isinstance(x, bool | int | float | str) else str(x)
        for path, x in config_lib.flatten(chosen).items()
    }
