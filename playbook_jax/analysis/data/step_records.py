"""What a trial recorded at each step, as far as an analysis needs it: losses, gradient norms, time."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from playbook_jax import trial as trial_lib
from playbook_jax.tracking import clock


@dataclasses.dataclass(frozen=True)
class StepRecords:
    """The per-step records of a trial, in short. Whatever is not known is empty, or None.

    Attributes:
      curves: the records thinned as `trial.summarize` does: `step`, and beside it `loss` and
        `gradient_norm` (means over a stretch of steps) and `gradient_norm_max`; NaN where not finite.
      percentiles: of the gradient norms of all steps, by percent.
      edges: of the histogram of the gradient norms, in log10, one more than counts.
      counts: of that histogram.
      clipped_fraction: the part of the updates that clipping made smaller.
      every: `loss` and `gradient_norm` of every single step; only of those trials for which `every_step`
        was asked for.
    """

    curves: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    percentiles: dict[int, float] = dataclasses.field(default_factory=dict)
    edges: np.ndarray = dataclasses.field(default_factory=lambda: np.array([]))
    counts: np.ndarray = dataclasses.field(default_factory=lambda: np.array([]))
    clipped_fraction: float | None = None
    every: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def parse(summary: Any) -> StepRecords:
    """Returns the records in a trial's summary; whatever of it is damaged counts as not there."""
    stored = summary if isinstance(summary, Mapping) else {}
    norms = _mapping(stored.get("gradient_norm"))
    histogram = _mapping(norms.get("histogram"))
    edges, counts = (_numbers(histogram.get(name)) for name in ("edges", "counts"))
    whole = len(edges) == len(counts) + 1 and np.isfinite(edges).all()
    fraction = stored.get("clipped_fraction")
    return StepRecords(
        _curves(_mapping(stored.get("curves"))),
        {
            int(percent): float(value)
            for percent, value in _mapping(norms.get("percentiles")).items()
            if str(percent).isdecimal() and isinstance(value, int | float)
        },
        edges if whole else np.array([]),
        counts if whole else np.array([]),
        float(fraction) if isinstance(fraction, int | float) else None,
    )


def every_step(directory: epath.Path) -> dict[str, np.ndarray]:
    """Returns `loss` and `gradient_norm` of every step of the trial in `directory`, as float64."""
    try:
        trial_lib.refuse_damaged(directory, "steps.f32")
        records = trial_lib.read_steps(directory)
    except (LookupError, TypeError, ValueError):  # a damaged header, or records
        return {}
    names = trial_lib.STEP_COLUMNS
    if not len(records) or records.shape[1] < len(names):
        return {}
    return {name: records[:, names.index(name)].astype(float) for name in ("loss", "gradient_norm")}


def timing(directory: epath.Path) -> dict[str, float]:
    """Returns the means over a run, see `clock.totals`; empty where nothing was measured."""
    try:
        return clock.totals(trial_lib.read_json_lines(directory / "timing.jsonl")) or {}
    except (LookupError, TypeError):
        return {}


def _curves(stored: Mapping[str, Any]) -> dict[str, np.ndarray]:
    columns = {
        name: _numbers(stored.get(name))
        for name in ("step", "loss", "gradient_norm", "gradient_norm_max")
    }
    length = len(columns["step"])
    return {name: values for name, values in columns.items() if len(values) == length > 0}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _numbers(values: Any) -> np.ndarray:
    try:
        numbers = np.array([] if values is None else values, float)
    except (TypeError, ValueError):
        return np.array([])
    return numbers if numbers.ndim == 1 else np.array([])
