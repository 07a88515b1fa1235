"""Groups with a known truth, written as the launcher writes them: the test support of group reports."""

from pathlib import Path

import numpy as np

from playbook_jax.studies import group, specification
from playbook_jax.studies.space import conditions
from tests import synthetic_study as synthetic
from tests.studies.test_specification import write as write_config

RATE, MOMENTUM, BETA = "hparams.learning_rate", "hparams.momentum", "hparams.beta1"
WIDE = {"scale": "log", "low": 1e-3, "high": 10.0}
BETAS = {"scale": "one_minus_log", "low": 0.5, "high": 0.99}
OPTIMIZERS = {"optimizer": {"values": ["nesterov", "adam"]}}
# As in configs/studies/digits_optimizers.py: a rate of its own for each, and what only one of them has.
TWO = {
    f"{RATE}@optimizer=nesterov": WIDE,
    f"{RATE}@optimizer=adam": {"scale": "log", "low": 1e-4, "high": 0.1},
    f"{MOMENTUM}@optimizer=nesterov": BETAS,
    f"{BETA}@optimizer=adam": BETAS,
}


def good(floor=0.02, **changes):
    """A truth whose best trial lies well inside of any space."""

    def cost(units):
        return sum((u - 0.5) ** 2 for u in units.values())

    late = {"best_at": lambda rng: rng.uniform(0.9, 0.95)}  # so that nothing overfits
    return synthetic.Truth(cost, **{"floor": floor, "noise": 0.02, **late, **changes})


def pair(path):
    """A fair group in which Nesterov is twice as good as Adam."""
    return write(path, {"nesterov": good(), "adam": good(0.04)})


def member(path, name):
    return path / f"optimizer={name}"


def write(path, truths, *, num_trials=20, steps=200, started=None, seed=0, **config):
    """Writes a group of which each study has a truth of its own; the base is configs/digits_mlp.py.

    Args:
      path: its directory.
      truths: by the labels of the studies, as reports have them.
      num_trials: of each study.
      steps: of each trial.
      started: how many trials of a study have ended, by label; all unless told.
      seed: of the results.
      **config: keys of the study config.
    """
    path = Path(path)
    fixed = {"max_train_steps": steps, "eval_every_steps": steps // 20, **config.pop("fixed", {})}
    values = {
        "name": "pair",
        "goal": "Which optimizer is better?",
        "objective": {"metric": "validation/error_rate", "mode": "min"},
        "shape": "group",
        "scientific": OPTIMIZERS,
        "nuisance": TWO,
        "num_trials": num_trials,
        **config,
    }
    spec = specification.load(
        write_config(path.with_name(f"{path.name}.py"), **values, fixed=fixed)
    )
    whole, directory = group.open_group(spec, path)
    trials = [{"trial": i, "parameters": dict(point)} for i, point in enumerate(whole.points)]
    directory.write(whole, trials)
    for index, member in enumerate(directory.members):
        label = ", ".join(map(str, member.values.values()))
        rng = np.random.default_rng(seed + index)
        rows = directory.trials_of(index, trials)[: (started or {}).get(label)]
        for row in rows:
            write_trial(path / member.directory, member.specification, row, truths[label], rng)
    directory.release()
    return path


def write_trial(path, spec, row, truth, rng):
    """Writes a trial of a study that has ended."""
    units = {
        conditions.path(name): synthetic.unit(space.to_dict(), row["parameters"][name])
        for name, space in spec.nuisance.items()
        if name in row["parameters"]
    }
    values = {conditions.path(name): value for name, value in row["parameters"].items()}
    base = spec.to_dict()["base_config"]
    directory = path / "trials" / f"{row['trial']:03d}"
    synthetic.write_trial(directory, base, values, units, truth, rng)
