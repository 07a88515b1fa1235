"""Offline evaluation: a saved checkpoint on a whole split, with every example's prediction.

Also scores predictions that were made elsewhere, such as a serving system's logs. The test set is
evaluated only on an explicit wish, which the trial's provenance notes (playbook, "Evaluating model
performance" and "After exploration concludes").
"""

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from playbook_jax import (
    checkpoints,
    config as config_lib,
    evaluation,
    parallel,
    train_step,
    trial as trial_lib,
    workload as workload_lib,
)
from playbook_jax.errors import UsageError, unknown


@dataclasses.dataclass(frozen=True)
class Result:
    """How a model does on a split.

    Attributes:
      examples: how many the split has.
      metrics: name → value over the split.
      standard_errors: name → by how much the value would vary over other splits of this size.
      classes: for a classifier, label → `examples` and how many of them are `correct`.
      arrays: for each example its number in the split (`example`), each metric's numerator, and what
        the workload's `predictions` gives.
    """

    examples: int
    metrics: dict[str, float]
    standard_errors: dict[str, float]
    classes: dict[str, dict[str, int]]
    arrays: dict[str, np.ndarray]

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the arrays."""
        return {
            "examples": self.examples,
            "metrics": self.metrics,
            "standard_errors": self.standard_errors,
            "classes": self.classes,
        }


def evaluate(
    directory: epath.PathLike, step: int | str, split: str, *, polyak: bool = False
) -> Result:
    """Evaluates a checkpoint of a trial on every example of a split.

    Args:
      directory: the trial directory.
      step: a number of completed updates, "best" or "latest".
      split: "train", "validation" or "test".
      polyak: whether to take the averaged parameters.

    Raises:
      UsageError: there is no such trial, checkpoint, split, or average.
    """
    config = config_lib.from_dict(trial_lib.load(directory).config)
    saved = checkpoints.load(directory, step)
    prefix = "polyak_" if polyak else ""
    if f"{prefix}params" not in saved:
        raise UsageError(f"{directory} keeps no averaged parameters (hparams.polyak_decay)")
    variables = {name: saved[prefix + name] for name in ("params", "batch_stats")}
    workload = workload_lib.find(config.workload)(config)
    arrays = _split(workload, split)
    outputs = _per_example(workload, variables, arrays, config)
    return _result(outputs, len(next(iter(arrays.values()))))


def score(directory: epath.PathLike, path: epath.PathLike, split: str) -> Result:
    """Scores predictions from elsewhere against the labels of a split.

    Args:
      directory: a trial directory, for its workload.
      path: a CSV file with the columns `example` (its number in the split) and `prediction`.
      split: "train", "validation" or "test".

    Raises:
      UsageError: the file can't be read, or does not fit the split.
    """
    config = config_lib.from_dict(trial_lib.load(directory).config)
    arrays = _split(workload_lib.find(config.workload)(config), split)
    if "label" not in arrays:
        raise UsageError(f"the workload {config.workload} has no `label` to compare with")
    labels = arrays["label"]
    try:
        with Path(path).open(newline="") as file:
            rows = [(int(row["example"]), int(row["prediction"])) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} must be a CSV file with whole numbers in the columns example and prediction "
            f"({type(error).__name__}: {error})"
        ) from error
    example = np.array([row[0] for row in rows], int)
    if not len(rows) or example.min() < 0 or example.max() >= len(labels):
        raise UsageError(f"{path} must name examples from 0 to {len(labels) - 1}")
    if len(np.unique(example)) != len(example):
        raise UsageError(f"{path} predicts some examples twice")
    predicted = np.array([row[1] for row in rows], int)
    wrong = (predicted != labels[example]).astype(np.float64)
    outputs = {
        "metrics": {"error_rate": (wrong, np.ones_like(wrong))},
        "predictions": {"prediction": predicted, "label": labels[example]},
    }
    result = _result(outputs, len(rows))
    return dataclasses.replace(result, arrays={**result.arrays, "example": example})


def write(directory: epath.PathLike, name: str, result: Result) -> epath.Path:
    """Writes `predictions/NAME.npz` and `predictions/NAME.json` in a trial directory."""
    place = epath.Path(directory) / "predictions"
    place.mkdir(parents=True, exist_ok=True)
    with (place / f"{name}.npz").open("wb") as file:
        np.savez_compressed(file, **result.arrays)
    trial_lib.write_json(place / f"{name}.json", result.to_json())
    return place / f"{name}.npz"


def _split(workload: workload_lib.Workload, split: str) -> Mapping[str, np.ndarray]:
    splits = workload.splits()
    if split not in splits:
        raise unknown("split", split, splits)
    return splits[split]


def _per_example(
    workload: workload_lib.Workload, variables: Any, arrays: Any, config: Any
) -> dict[str, Any]:
    """Returns each example's metrics and predictions, in the order of the split."""

    def run(variables: Any, batch: Any, hparams: Any) -> dict[str, Any]:
        outputs, _ = workload.apply(variables, batch, hparams, {}, train=False)
        return {
            "metrics": workload.metrics(outputs, batch),
            "predictions": workload.predictions(outputs, batch),
        }

    mapped = parallel.on_devices(run, (0, 0, None))
    variables = parallel.replicate(variables)
    hparams = train_step.cast_hparams(config.hparams)
    batches = evaluation.padded_batches(arrays, config.eval_batch_size)
    pieces = []
    for index in range(batches["weight"].shape[1]):
        batch = {name: x[:, index] for name, x in batches.items()}
        pieces.append(jax.tree.map(_join, mapped(variables, batch, hparams)))
    size = len(next(iter(arrays.values())))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:size], *pieces)


def _join(x: Any) -> np.ndarray:
    """Returns [devices, batch / devices, …] as [batch, …]."""
    x = np.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4:
        x = x.astype(np.float32)  # NumPy's files know no bfloat16
    return x.reshape(-1, *x.shape[2:])


def _result(outputs: Mapping[str, Any], examples: int) -> Result:
    arrays = {"example": np.arange(examples), **outputs["predictions"]}
    metrics, errors = {}, {}
    for name, (numerator, denominator) in outputs["metrics"].items():
        numerator, denominator = (np.asarray(x, np.float64) for x in (numerator, denominator))
        arrays[name] = numerator
        metrics[name] = float(numerator.sum() / denominator.sum())
        # Of a ratio of sums over independent examples (the delta method).
        residual = numerator - metrics[name] * denominator
        errors[name] = float(np.sqrt(np.sum(residual**2)) / denominator.sum())
    return Result(examples, metrics, errors, _classes(outputs["predictions"]), arrays)


def _classes(predictions: Mapping[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """Returns the counts of each class: on rare ones, rates alone mislead."""
    if not {"label", "prediction"} <= set(predictions):
        return {}
    label, correct = predictions["label"], predictions["prediction"] == predictions["label"]
    return {
        str(c): {"examples": int(np.sum(label == c)), "correct": int(np.sum(correct[label == c]))}
        for c in np.unique(label)
    }
