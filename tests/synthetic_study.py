"""Studies with a known truth, written as real ones are: the test support of the analysis."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import failed, hyperparameters, study as study_lib
from playbook_jax.studies.space import samplers, search_space

LEARNING_RATE = {"scale": "log", "low": 1e-3, "high": 10.0, "type": "float"}
MOMENTUM = {"scale": "one_minus_log", "low": 0.5, "high": 0.999, "type": "float"}
WEIGHT_DECAY = {"scale": "log", "low": 1e-6, "high": 1e-2, "type": "float"}
CLIP_NORM = {"scale": "log", "low": 0.1, "high": 10.0, "type": "float"}
FOUR = {
    "hparams.learning_rate": LEARNING_RATE,
    "hparams.momentum": MOMENTUM,
    "hparams.weight_decay": WEIGHT_DECAY,
    "hparams.clip_norm": CLIP_NORM,
}

Units = Mapping[str, float]  # where each hyperparameter lies in its space, from 0 to 1


@dataclasses.dataclass
class Truth:
    """How trials come out.

    Attributes:
      cost: of a trial, from where its hyperparameters lie; 0 is the best there is.
      infeasible: whether a trial diverges.
      noise: standard deviation of what is added to the cost.
      floor: the error rate at cost 0.
      best_at: in which part of the run, from 0 to 1, the best evaluation lies.
    """

    cost: Callable[[Units], float]
    infeasible: Callable[[Units], bool] = lambda units: False
    noise: float = 0.1
    floor: float = 0.02
    best_at: Callable[[np.random.Generator], float] = lambda rng: rng.uniform(0.4, 1)


def bowl(center: Mapping[str, float], weight: Mapping[str, float] | None = None) -> Callable:
    """Returns a cost that grows with the square of the distance from `center`."""
    weight = weight or {}
    return lambda units: sum(
        weight.get(name, 8.0) * (units[name] - middle) ** 2 for name, middle in center.items()
    )


def write(
    directory: Path,
    truth: Truth,
    *,
    spaces: Mapping[str, Any] = FOUR,
    scientific: tuple[str, ...] = (),
    num_trials: int = 20,
    seed: int = 0,
    steps: int = 200,
    evaluations: int = 20,
    schedule: str = "constant",
    metric: str = "validation/error_rate",
    mode: str = "min",
    started: int | None = None,
    goal: str = "Which learning rate, momentum and weight decay suit the small network?",
    algorithm: str = "halton",
) -> Path:
    """Writes a study whose trials from number `started` on have not been started."""
    parsed = {name: search_space.parse(name, space) for name, space in spaces.items()}
    points = samplers.sample(algorithm, parsed, num_trials, seed)
    base = base_config(spaces, steps, evaluations, schedule, metric, mode)
    specification = {
        "name": "synthetic",
        "goal": goal,
        "objective": {"metric": metric, "mode": mode},
        "num_trials": num_trials,
        "algorithm": algorithm,
        "seed": seed,
        "vary_seed": False,
        "scientific": {k: parsed[k].to_dict() for k in scientific},
        "nuisance": {k: v.to_dict() for k, v in parsed.items() if k not in scientific},
        "fixed": {"optimizer": "nesterov", "batch_size": 128},
        "base_config": base,
        "base_config_path": "configs/digits_mlp.py",
    }
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    trials = [{"trial": i, "parameters": values} for i, values in enumerate(points)]
    trial_lib.write_json(
        directory / "study.json", {"format": 1, "specification": specification, "trials": trials}
    )
    (directory / "trials").mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for number, values in enumerate(points[:started]):
        units = {name: unit(space, values[name]) for name, space in spaces.items()}
        write_trial(directory / "trials" / f"{number:03d}", base, values, units, truth, rng)
    return directory


def base_config(
    spaces: Mapping[str, Any], steps: int, evaluations: int, schedule: str, metric: str, mode: str
) -> dict[str, Any]:
    """Returns a training config that has every path of `spaces`."""
    config = {
        "workload": "digits",
        "model": {"name": "mlp"},
        "dataset": {"source": "memory", "num_shards": 0},
        "seed": 0,
        "batch_size": 128,
        "eval_batch_size": 512,
        "max_train_steps": steps,
        "eval_every_steps": max(1, steps // evaluations),
        "optimizer": "nesterov",
        "schedule": schedule,
        "checkpoint": {"every_steps": steps, "keep_best": 1, "metric": metric, "mode": mode},
        "hparams": {"learning_rate": 0.1, "end_factor": 0.0, "warmup_steps": 0},
    }
    for path, space in spaces.items():
        *parents, leaf = path.split(".")
        inner = config
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner.setdefault(leaf, space["values"][0] if "values" in space else space["low"])
    return config


def unit(space: Mapping[str, Any], value: Any) -> float:
    """Returns where a value lies in its space, from 0 to 1."""
    if "values" in space:
        values = [json.dumps(v) for v in space["values"]]
        return values.index(json.dumps(value)) / (len(values) - 1)
    scaled = {
        "linear": float,
        "log": math.log10,
        "one_minus_log": lambda v: -math.log10(1 - v),
    }[space["scale"]]
    low, high = scaled(space["low"]), scaled(space["high"])
    return (scaled(value) - low) / (high - low)


def write_trial(
    directory: Path,
    base: Mapping[str, Any],
    values: Mapping[str, Any],
    units: Units,
    truth: Truth,
    rng: np.random.Generator,
) -> None:
    """Writes one trial that has ended, through the functions that training uses."""
    config = json.loads(json.dumps(base))
    for path, value in values.items():
        *parents, leaf = path.split(".")
        inner = config
        for parent in parents:
            inner = inner[parent]
        inner[leaf] = value
    writer = trial_lib.Writer(directory, config)
    writer.write("provenance.json", {"commit": "0123456789abcdef", "threads": 1})
    steps, every = base["max_train_steps"], base["eval_every_steps"]
    metric, maximize = base["checkpoint"]["metric"], base["checkpoint"]["mode"] == "max"
    infeasible = truth.infeasible(units)
    end = max(1, int(steps * rng.uniform(0.05, 0.6))) if infeasible else steps
    error = min(0.9, truth.floor * math.exp(truth.cost(units) + truth.noise * rng.normal()))
    rows = curves(rng, end, every, error, truth.best_at(rng) * steps, infeasible)
    for row in rows:
        if maximize:
            row[metric] = 1 - row["validation/error_rate"]
        elif metric != "validation/error_rate":
            row[metric] = row["validation/error_rate"] * 3
        writer.append("metrics.jsonl", row)
    t = np.arange(end)
    loss = 2.3 * np.exp(-5 * t / steps) + 3 * error * rng.lognormal(0, 0.2, end)
    norm = loss * rng.lognormal(0, 0.3, end)
    if infeasible:
        loss[-1] = norm[-1] = np.nan
    records = np.stack([loss, norm, 0.01 * norm, np.full(end, 0.1), norm > 2], axis=1)
    writer.append_steps(records.astype(np.float32))
    status = trial_lib.new_status(trial_lib.COMPLETE, "", end)
    if infeasible:
        status |= {
            "state": trial_lib.INFEASIBLE,
            "reason": f"the loss is not finite (step {end - 1})",
        }
    else:
        best = (max if maximize else min)(rows, key=lambda row: row[metric])
        status |= {"best_step": best["step"], "objective": best[metric]}
    writer.write("status.json", status)
    writer.write("summary.json", trial_lib.summarize(directory, status))


def curves(
    rng: np.random.Generator, end: int, every: int, error: float, best_step: float, diverges: bool
) -> list[dict[str, float]]:
    """Returns the evaluations of a run whose error falls to `error` near `best_step`, then rises."""
    at = [*range(every, end, every), end]
    rows = []
    for step in at:
        progress = step / best_step
        shape = math.exp(4.5 * (1 - progress)) if progress < 1 else 1 + 0.5 * (progress - 1)
        validation = min(0.9, error * shape * rng.lognormal(0, 0.03) + 0.005 * error)
        train = min(0.9, max(0.0, round(validation * math.exp(-1.5 * step / max(at)) - 0.004, 3)))
        if diverges and step == at[-1]:
            validation = train = 0.9
        rows.append(
            {
                "step": step,
                "train/loss": 3 * train + 0.02,
                "train/error_rate": train,
                "validation/loss": 3 * validation,
                "validation/error_rate": validation,
            }
        )
    return rows


def made(
    rows: list[Mapping[str, Any]],
    *,
    spaces: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
    metric: str = "validation/error_rate",
    mode: str = "min",
    directory: Path = Path("/nowhere"),
    scientific: tuple[str, ...] = (),
) -> study_lib.Study:
    """Returns a study that is in no directory, every number of it given.

    Args:
      rows: one a trial: `at` (where each hyperparameter lies in its space, from 0 to 1, in the order of
        the spaces), `objective` (None for an INFEASIBLE trial), and fields of `study.Trial` that
        are to be different.
      spaces: the hyperparameters.
      base: the base config.
      metric: the objective.
      mode: whether less or more of it is better.
      directory: where it is said to lie.
      scientific: which of the hyperparameters are scientific.
    """
    axes = tuple(
        hyperparameters.parse(name, "scientific" if name in scientific else "nuisance", space)
        for name, space in spaces.items()
    )
    trials = []
    for number, row in enumerate(rows):
        row = dict(row)
        at, objective = row.pop("at"), row.pop("objective")
        complete = objective is not None
        fields = {
            "state": trial_lib.COMPLETE if complete else trial_lib.INFEASIBLE,
            "reason": "" if complete else "the loss is not finite (step 99)",
            "step": 100,
            "best_step": 50 if complete else None,
        }
        parameters = {
            h.name: h.value(u) if "scale" in spaces[h.name] else h.levels[u]
            for h, u in zip(axes, at, strict=True)
        }
        trials.append(study_lib.Trial(number, parameters, objective=objective, **(fields | row)))
    specification = {
        "name": "made",
        "goal": "Which is best?",
        "objective": {"metric": metric, "mode": mode},
        "base_config": dict(base or {}),
        "algorithm": "halton",
        "scientific": {n: space for n, space in spaces.items() if n in scientific},
        "nuisance": {n: space for n, space in spaces.items() if n not in scientific},
    }
    trials = failed.mark(trials, metric, mode == "max", {})
    return study_lib.Study(epath.Path(directory), specification, axes, tuple(trials))
