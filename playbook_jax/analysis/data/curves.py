"""The curves of a trial that checks look at, turned so that less is better."""

import dataclasses

import numpy as np

from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.studies.space.search_space import Values

VALIDATION, TRAIN = "validation/", "train/"


@dataclasses.dataclass(frozen=True)
class Curve:
    """Values over the course of training, all finite; less is better.

    Attributes:
      metric: what it is, "validation/error_rate".
      steps: where it was measured.
      values: the metric; of an accuracy what is missing to 1, of others that should be large the negative.
    """

    metric: str
    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        """Returns how many values there are."""
        return len(self.values)


def validation(study: Study, trial: Trial) -> Curve | None:
    """Returns a trial's curve of the objective, where that is measured in validation and recorded."""
    return of(study, trial, study.metric) if study.metric.startswith(VALIDATION) else None


def training(study: Study, trial: Trial) -> Curve | None:
    """Returns a trial's curve of the objective's counterpart in training, or else of the training loss.

    The loss is that of the periodic evaluations, or else of the steps themselves.
    """
    kind = study.metric.rsplit("/", 1)[-1]
    for metric in (TRAIN + kind, TRAIN + "loss"):
        curve = of(study, trial, metric)
        if curve is not None:
            return curve
    return loss(trial)


def loss(trial: Trial) -> Curve | None:
    """Returns the training loss of the steps, each value the mean over a stretch of them."""
    curves = trial.records.curves
    return _finite("loss", curves["step"], curves["loss"]) if "loss" in curves else None


def of(study: Study, trial: Trial, metric: str) -> Curve | None:
    """Returns a trial's curve of a metric, where it was recorded."""
    values = trial.evaluations.get(metric)
    if values is None:
        return None
    if metric.endswith("accuracy"):
        values = 1 - values
    elif study.maximize and metric.rsplit("/", 1)[-1] == study.metric.rsplit("/", 1)[-1]:
        values = -values
    return _finite(metric, trial.evaluations["step"], values)


def _finite(metric: str, steps: np.ndarray, values: np.ndarray) -> Curve | None:
    there = np.isfinite(values)
    return Curve(metric, steps[there], values[there]) if there.any() else None


def compared(study: Study) -> list[Trial]:
    """Returns the trials that a study is judged by, the best first.

    The best trial of each value of the scientific hyperparameters where these are listed values, else
    the best few.
    """
    scientific = [h for h in study.hyperparameters if h.role == "scientific"]
    names = [h.name for h in scientific]
    if not names or not all(isinstance(h.space, Values) for h in scientific):
        return study.contenders
    best: dict[str, Trial] = {}
    for trial in study.ranked:
        best.setdefault(repr([trial.parameters.get(name) for name in names]), trial)
    return list(best.values())
