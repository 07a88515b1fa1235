"""Configs that train in a moment."""

from pathlib import Path

from ml_collections import ConfigDict

from playbook_jax import config as config_lib

ROOT = Path(__file__).parent.parent


def digits(**overrides) -> ConfigDict:
    """The digits MLP, tiny; keys of `overrides` have `__` for a dot."""
    values = {
        "model.hidden_sizes": (16,),
        "batch_size": 32,
        "eval_batch_size": 128,
        "max_train_steps": 40,
        "eval_every_steps": 10,
        "eval_train_examples": 100,
        "log_every_steps": 20,
        "steps_per_call": 8,
        "checkpoint.every_steps": 20,
        "hparams.learning_rate": 0.05,
    }
    values |= {key.replace("__", "."): value for key, value in overrides.items()}
    return config_lib.override(config_lib.load(ROOT / "configs" / "digits_mlp.py"), values)
