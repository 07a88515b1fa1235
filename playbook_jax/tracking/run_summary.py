"""What a report needs of a trial, of bounded size: percentiles, histogram and thinned curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np

PERCENTILES = (5, 25, 50, 75, 90, 95, 99, 100)
CURVE_POINTS = 200  # more than a plot shows; keeps the report of 1,000 trials small
LAST_STEPS = 20  # whose mean is a run's loss at its end
_AVERAGED = 5  # from this column on each is averaged, and the first two


def summarize(
    records: np.ndarray,
    columns: Sequence[str],
    evaluations: list[dict[str, Any]],
    best_step: int | None,
) -> dict[str, Any]:
    """Returns the summary of a trial, see `trial.summarize`.

    Args:
      records: the per-step records, float32 [steps, columns].
      columns: their names, `trial.STEP_COLUMNS` the first.
      evaluations: the rows of `metrics.jsonl`.
      best_step: the step of the best evaluation, if there is one.
    """
    loss, norms, clipped = records[:, 0].astype(np.float64), records[:, 1], records[:, 4]
    finite = norms[np.isfinite(norms)].astype(np.float64)
    best = [row for row in evaluations if row.get("step") == best_step]
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
        "curves": _thin_records(records, columns),
        "evaluations": _thin_evaluations(evaluations, best_step),
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
    averaged = [0, 1, *range(_AVERAGED, len(columns))]
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
