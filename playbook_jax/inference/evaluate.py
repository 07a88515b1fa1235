"""Offline evaluation: a saved checkpoint on a whole split, with every example's prediction.

Also scores predictions that were made elsewhere, such as a serving system's logs. Each look at the
test set is noted in the trial's provenance (playbook, "Evaluating model performance" and "After
exploration concludes"). On the training set, it tells whether the sample that periodic evaluations see
represents the whole ("Choosing a sample for periodic evaluation"); that costs nothing here, and a run
would have to evaluate the whole training set for it.
"""

import csv
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from playbook_jax import (
    checkpoints,
    config as config_lib,
    trial as trial_lib,
    workload as workload_lib,
)
from playbook_jax.errors import UsageError, unknown
from playbook_jax.input import pipeline, splits
from playbook_jax.input.tfrecords import RecordSplit
from playbook_jax.runtime import parallel
from playbook_jax.training import evaluation, evaluation_batches, parameter_rules, train_step


@dataclasses.dataclass(frozen=True)
class Result:
    """How a model does on a split.

    Attributes:
      examples: how many were evaluated, all of the split where a checkpoint was.
      step: that of the checkpoint; None for predictions from elsewhere.
      metrics: name → value over the split.
      standard_errors: name → by how much the value would vary over other splits of this size.
      classes: for a classifier, label → `examples` and how many of them are `correct`.
      skew: for the training set, metric → how the sample that periodic evaluations see compares:
        `sample` and `whole`, the values, and `standard_errors`, how many of those that a sample of its
        size has are between them. Empty where the sample is the whole.
      arrays: for each example its number in the split (`example`), each metric's numerator, its
        denominator where it is not 1 for all, and what the workload's `predictions` gives.
    """

    examples: int
    step: int | None
    metrics: dict[str, float]
    standard_errors: dict[str, float]
    classes: dict[str, dict[str, int]]
    skew: dict[str, dict[str, float]]
    arrays: dict[str, np.ndarray]

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the arrays."""
        fields = [field.name for field in dataclasses.fields(self) if field.name != "arrays"]
        return {name: getattr(self, name) for name in fields}


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
      UsageError: there is no such trial, checkpoint, split, or average, or the checkpoint is not of the
        model that the workload now has.
    """
    config = _config(directory)
    saved = checkpoints.load(directory, step)
    prefix = "polyak_" if polyak else ""
    if f"{prefix}params" not in saved:
        raise UsageError(f"{directory} keeps no averaged parameters (hparams.polyak_decay)")
    variables = {name: saved[prefix + name] or {} for name in ("params", "batch_stats")}
    workload = workload_lib.of_trial(trial_lib.load(directory))(config)
    data = _split(workload, split)
    wanted = jax.eval_shape(workload.init, jax.random.key(0))
    differences = parameter_rules.differences(variables, {"batch_stats": {}, **wanted})
    if differences:
        raise UsageError(
            f"the checkpoint in {directory} is of another model than the workload {config.workload} "
            f"now has: {parameter_rules.some(differences)}"
        )
    outputs = _per_example(workload, variables, data, config)
    result = _result(outputs, splits.size(data), int(saved["step"]))
    if split == "train":
        validation = {"validation": _split(workload, "validation")}
        size = evaluation.train_sample_size(config, validation)
        chosen = evaluation.train_sample_numbers(data, size)
        result = dataclasses.replace(result, skew=_skew(outputs["metrics"], chosen))
    if split == "test":
        _note_test(directory, f"step {result.step}" + ", averaged parameters" * polyak)
    return result


def score(directory: epath.PathLike, path: epath.PathLike, split: str) -> Result:
    """Scores predictions from elsewhere against the labels of a split.

    Args:
      directory: a trial directory, for its workload.
      path: a CSV file with the columns `example` (its number in the split) and `prediction`.
      split: "train", "validation" or "test".

    Raises:
      UsageError: the file can't be read, or does not fit the split.
    """
    config = _config(directory)
    data = _split(workload_lib.of_trial(trial_lib.load(directory))(config), split)
    if np.ndim(splits.template(data).get("label")) != 1:
        raise UsageError(
            f"the workload {config.workload} has no `label` an example to compare with"
        )
    labels = (data.arrays() if isinstance(data, RecordSplit) else data)["label"]
    rows = _read_csv(path)
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
    if split == "test":
        _note_test(directory, str(path))
    result = _result(outputs, len(rows), None)
    return dataclasses.replace(result, arrays={**result.arrays, "example": example})


def _read_csv(path: epath.PathLike) -> list[tuple[int, int]]:
    rows = []
    try:
        with Path(path).open(newline="") as file:
            for row in csv.DictReader(file):
                rows.append((int(row["example"]), int(row["prediction"])))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} must be a CSV file with whole numbers in the columns example and prediction; "
            f"row {len(rows) + 1} is not ({type(error).__name__}: {error})"
        ) from error
    return rows


def write(directory: epath.PathLike, name: str, result: Result) -> epath.Path:
    """Writes `predictions/NAME.npz` and `predictions/NAME.json` in a trial directory.

    Raises:
      UsageError: it can't be written to.
    """
    path = epath.Path(directory) / "predictions" / f"{name}.npz"
    try:
        evaluation.write_arrays(path, result.arrays)
        trial_lib.write_json(path.with_suffix(".json"), result.to_json())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _config(directory: epath.PathLike) -> ConfigDict:
    return config_lib.from_dict(trial_lib.load(directory).config)


def _note_test(directory: epath.PathLike, what: str) -> None:
    """Adds this look at the test set to the trial's provenance."""
    path = epath.Path(directory) / "provenance.json"
    provenance = trial_lib.read_json(path, {})
    look = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "evaluated": what}
    looks = [*provenance.get("test_evaluations", []), look]
    try:
        trial_lib.write_json(path, provenance | {"test_evaluations": looks})
    except OSError as error:
        raise UsageError(
            f"cannot note in {path} that the test set was looked at: {error.strerror or error}"
        ) from error


def _split(workload: workload_lib.Workload, split: str) -> splits.Split:
    source = pipeline.source_class(workload.config.dataset.source)
    data = source.read(workload)
    if split not in data:
        raise unknown("split", split, data)
    return data[split]


def _per_example(
    workload: workload_lib.Workload, variables: Any, data: splits.Split, config: Any
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
    batches = evaluation_batches.make(data, config.eval_batch_size, workload.ranges())
    pieces = [
        jax.tree.map(_join, mapped(variables, {n: x[:, index] for n, x in batch.items()}, hparams))
        for batch, index in batches
    ]
    size = splits.size(data)
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:size], *pieces)


def _join(x: Any) -> np.ndarray:
    """Returns [devices, batch / devices, …] as [batch, …]."""
    x = evaluation.plain(x)
    return x.reshape(-1, *x.shape[2:])


def _result(outputs: Mapping[str, Any], examples: int, step: int | None) -> Result:
    arrays = {"example": np.arange(examples), **outputs["predictions"]}
    metrics, errors = {}, {}
    for name, (numerator, denominator) in outputs["metrics"].items():
        numerator, denominator = (np.asarray(x, np.float64) for x in (numerator, denominator))
        arrays[name] = numerator
        if np.any(denominator != 1):
            arrays[f"{name}_denominator"] = denominator
        metrics[name] = float(numerator.sum() / denominator.sum())
        # Of a ratio of sums over independent examples (the delta method).
        residual = numerator - metrics[name] * denominator
        errors[name] = float(np.sqrt(np.sum(residual**2)) / denominator.sum())
    classes = _classes(outputs["predictions"])
    return Result(examples, step, metrics, errors, classes, {}, arrays)


def _skew(metrics: Mapping[str, Any], chosen: np.ndarray) -> dict[str, dict[str, float]]:
    """Compares the examples with these numbers with all, by what each example adds to the metrics.

    The standard error is that of a ratio in a sample drawn from these examples without replacement: with
    eᵢ = numeratorᵢ − (value of all) · denominatorᵢ, √(n · var(e) · (1 − n/N)) / (the sample's denominator).
    """
    result = {}
    for name, pair in metrics.items():
        numerator, denominator = (np.asarray(x, np.float64) for x in pair)
        total = len(numerator)
        if len(chosen) == total:
            continue
        whole = numerator.sum() / denominator.sum()
        part = denominator[chosen].sum()
        sample = numerator[chosen].sum() / part
        variance = np.var(numerator - whole * denominator, ddof=1) * (1 - len(chosen) / total)
        error = np.sqrt(len(chosen) * variance) / part
        result[name] = {
            "sample": float(sample),
            "whole": float(whole),
            "standard_errors": float(abs(sample - whole) / error) if error else 0.0,
        }
    return result


def _classes(predictions: Mapping[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """Returns the counts of each class: on rare ones, rates alone mislead."""
    if not {"label", "prediction"} <= set(predictions):
        return {}
    label, correct = predictions["label"], predictions["prediction"] == predictions["label"]
    return {
        str(c): {"examples": int(np.sum(label == c)), "correct": int(np.sum(correct[label == c]))}
        for c in np.unique(label)
    }
