"""Configs that train in a moment, and the environment of scripts that train them."""

import os
from pathlib import Path

from ml_collections import ConfigDict

from playbook_jax import config as config_lib

ROOT = Path(__file__).parent.parent


def one_device() -> dict[str, str]:
    """The environment of processes with one device, as users have it, and not the four of the tests."""
    return {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}


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


# Sizes at which every config trains in a moment; each config has some of these keys.
SIZES = {
    "batch_size": 64,
    "eval_batch_size": 320,
    "eval_train_examples": 64,
    "max_train_steps": 12,
    "eval_every_steps": 6,
    "log_every_steps": 6,
    "checkpoint.every_steps": 6,
    "model.hidden_sizes": (16,),
    "model.channels": (4, 8),
    "model.num_layers": 1,
    "model.embedding_size": 16,
    "model.feed_forward_size": 32,
    "dataset.sequence_length": 16,
    "dataset.evaluation_bytes": 4_096,
    "hparams.warmup_steps": 0,
}


def shrunk(path, **overrides) -> ConfigDict:
    """The config in a file with SIZES, as far as it has these keys, and `overrides` as above."""
    config = config_lib.load(path)
    known = config_lib.flatten(config)
    values = {key: value for key, value in SIZES.items() if key in known}
    values["steps_per_call"] = min(config.get("steps_per_call", 1), 3)
    values |= {key.replace("__", "."): value for key, value in overrides.items()}
    return config_lib.override(config, {key: v for key, v in values.items() if key in known})
