"""The choice of the objective that the hyperparameter axes show: any recorded metric, at its best or its end.

The page holds the numbers, two for each complete trial and metric, and the script draws the points anew;
without script there is no choice, and the plots show the study's objective. Training curves have no such
choice: the curves of all metrics would make the page many times as large.
"""

import json
from typing import Any

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.render.html import escape, tag
from playbook_jax.analysis.render.plot_frame import Panel

BEST, FINAL = "best", "final"
_DIGITS = 5


def markup(study: Study, panel: Panel) -> str:
    """Returns the choice and its numbers; empty where only the study's own objective is known.

    Args:
      study: the study.
      panel: the frame of a plot of the objective against a hyperparameter; all have the same.
    """
    trials = [t for t in study.ranked if t.evaluations]
    names = sorted({name for t in trials for name in t.evaluations} - {"step"})
    metrics = [m for name in names for m in _of(study, trials, name)]
    if not metrics:
        return ""
    own = f"{formatting.metric_label(study.metric)}, best"
    data = {
        "own": own,
        "low": float(panel.at(0.0)),
        "high": float(panel.at(1.0)),
        "left": panel.left,
        "end": panel.end,
        "metrics": metrics,
    }
    options = [tag("option", escape(own), value="own")]
    options += [tag("option", escape(m["label"]), value=str(i)) for i, m in enumerate(metrics)]
    select = tag("label", "Show " + tag("select", "".join(options), id="objective"))
    log = tag("label", '<input type="checkbox" id="objective-log"/> on a logarithmic axis')
    # No text of a file can end the element.
    stored = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    script = f'<script type="application/json" id="objectives">{stored}</script>'
    return f'<div class="choose" hidden="hidden">{select} {log}</div>{script}'


def _of(study: Study, trials: list[Trial], name: str) -> list[dict[str, Any]]:
    """Returns a metric's values, at each trial's best evaluation and at its last."""
    rising = rises(study, name)
    found = []
    for at in (BEST, FINAL):
        if name == study.metric and at == BEST:
            continue  # that is what the plots show as they are
        values = {}
        for trial in trials:
            value = _value(trial.evaluations.get(name), rising, at)
            if value is not None:
                values[str(trial.number)] = value
        if values:
            found.append(
                {
                    "label": f"{formatting.metric_label(name)}, {at}",
                    "percent": formatting.is_rate(name),
                    "rising": rising,
                    "values": values,
                }
            )
    return found


def rises(study: Study, name: str) -> bool:
    """Says whether more of a metric is better, as far as its name tells."""
    same = name.rsplit("/", 1)[-1] == study.metric.rsplit("/", 1)[-1]
    return study.maximize if same else name.endswith("accuracy")


def _value(values: np.ndarray | None, rising: bool, at: str) -> float | None:
    if values is None or not np.isfinite(values).any():
        return None
    if at == FINAL:
        value = values[-1]
        return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
    best = np.nanmax(values) if rising else np.nanmin(values)
    return float(f"{best:.{_DIGITS}g}") if np.isfinite(best) else None
