"""Training configs: loading, overriding, checking and comparing them.

A config is a locked `ml_collections.ConfigDict`. Everything under `config.hparams` is a scalar that
enters the compiled step as a traced value, so changing it never recompiles; everything else may
change shapes or code and is static. This module needs neither jax nor TensorFlow.
"""

import importlib.machinery
import importlib.util
import json
import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from playbook_jax.errors import UsageError, closest, unknown

REQUIRED = (
    "workload",
    "model",
    "dataset",
    "seed",
    "batch_size",
    "eval_batch_size",
    "max_train_steps",
    "eval_every_steps",
    "checkpoint",
    "optimizer",
    "schedule",
    "hparams",
)
# Keys that a config may leave out, and what they then are.
OPTIONAL = {
    "eval_train_examples": 0,  # size of the fixed sample behind `train/…`; 0: as many as validation
    "log_every_steps": 100,  # one transfer of per-step records from the device each
    "steps_per_call": 1,  # updates that one call of the compiled step may run
    "device_mapping": "pmap",  # how the steps are run on all devices, or "shard_map"
    "save_predictions": 0,  # of so many examples of validation, or of a tuple of them, by number
    "initialize_from": {  # parameters to begin with, see transfer.py
        "path": "",  # a trial directory or an .npz file; "": none, all are drawn
        "step": "best",  # which checkpoint, or "latest", or a number
        "polyak": False,  # the averaged parameters
        "rename": (),  # pairs: a regular expression for a part of the path there, what it becomes
        "skip": (),  # patterns of the paths here that are drawn nevertheless
    },
    "freeze": (),  # patterns, see parameter_rules.py, like the next two
    "learning_rate_multipliers": (),  # pairs: a pattern, a number or the name of one of the hparams
    "weight_decay_mask": (),  # pairs: a pattern, whether weight decay acts
    "seeds": {  # each alone, where not all follow from `seed` (-1), see `seeds`
        "initialization": -1,
        "data": -1,  # order of the examples, augmentation on the host
        "dropout": -1,  # whatever a step draws
    },
    "record_group_norms": False,  # the gradient's norm by top-level module, at every step
    "notes": "",  # what this run is for; goes into the tables
}
CHECKPOINT_KEYS = ("every_steps", "keep_best", "metric", "mode")
# Enter the compiled step as values, like the hparams, or not at all: they never recompile.
TRACED = ("hparams", "seed", "seeds", "max_train_steps", "notes", "initialize_from")

# Names of `hparams` that every run has, with the value when a config leaves them out.
HPARAM_DEFAULTS = {
    "warmup_steps": 0,
    "post_warmup_steps": 0,
    "end_factor": 0.0,
    "rsqrt_timescale": 10_000,
    "clip_norm": 0.0,
    "label_smoothing": 0.0,
    "divergence_factor": 20.0,
    "polyak_decay": 0.0,
}
_AT_LEAST_ZERO = (
    "learning_rate",
    "warmup_steps",
    "post_warmup_steps",
    "end_factor",
    "clip_norm",
    "weight_decay",
    "divergence_factor",
    "epsilon",
)
_BELOW_ONE = (
    "momentum",
    "beta1",
    "beta2",
    "rho",
    "label_smoothing",
    "dropout_rate",
    "polyak_decay",
)


class _FreshLoader(importlib.machinery.SourceFileLoader):
    """Compiles the file each time: bytecode on disk is blind to a change within the same second."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_python(path: str | Path) -> ConfigDict:
    """Returns what `get_config()` of the Python file at `path` gives, locked.

    Raises:
      UsageError: the file is missing, fails, or has no `get_config` that returns a ConfigDict.
    """
    path = Path(path)
    if not path.is_file():
        known = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UsageError(f"no config file {str(path)!r}{closest(str(path), known)}")
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a Python file; a config file defines get_config()")
    name = f"_config_{path.stem}"
    spec = importlib.util.spec_from_loader(name, _FreshLoader(name, str(path)))
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UsageError(
            f"get_config() in {path} returns a {type(config).__name__}, not a ConfigDict"
        )
    return config.lock()


def load(path: str | Path) -> ConfigDict:
    """Returns the training config in `path`: a Python file, or the `config.json` of a trial.

    Raises:
      UsageError: the file is missing or is no config.
    """
    if str(path).endswith(".json"):
        try:
            return from_dict(json.loads(Path(path).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{path} is not a config that can be read: {error}") from error
    return load_python(path)


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as JSON has it: plain dictionaries, tuples as lists."""
    return json.loads(json.dumps(config.to_dict(), allow_nan=True))


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
    """Returns the locked config that `to_dict` was given; lists become tuples."""

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: convert(v) for key, v in value.items()}
        return tuple(convert(v) for v in value) if isinstance(value, list) else value

    return ConfigDict(convert(values)).lock()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"hparams.learning_rate": 0.1, …} for a nested dictionary or config."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def override(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of `config` with each dotted path of `values` set to its value.

    Raises:
      UsageError: a path that the config lacks, or a value of another type than the one it replaces.
    """
    result = ConfigDict(config.to_dict()).lock()
    known = flatten(result)
    for path, value in values.items():
        if path not in known:
            raise UsageError(f"the config has no {path!r}{closest(path, known)}")
        old = known[path]
        if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        elif isinstance(old, int) and isinstance(value, float) and path.startswith("hparams."):
            with result.ignore_type():  # hparams are all cast to one type before they are used
                result.update_from_flattened_dict({path: value})
            continue
        elif isinstance(old, tuple) and isinstance(value, list):
            value = tuple(value)
        try:
            result.update_from_flattened_dict({path: value})
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(f"{path} = {value!r} does not fit the config's {old!r}") from error
    return result


def complete(config: ConfigDict) -> ConfigDict:
    """Returns a checked copy of `config` in which every optional key is present.

    Raises:
      UsageError: a key is missing or unknown, or a value cannot be.
    """
    for key in REQUIRED:
        if key not in config:
            raise UsageError(f"the config lacks {key!r}{closest(key, config)}")
    for key in config:
        if key not in REQUIRED and key not in OPTIONAL:
            raise unknown("config key", key, (*REQUIRED, *OPTIONAL))
    for key in CHECKPOINT_KEYS:
        if key not in config.checkpoint:
            raise UsageError(f"the config lacks 'checkpoint.{key}'")
    for key in config.checkpoint:
        if key not in CHECKPOINT_KEYS:
            if "stop" in key or "patience" in key:
                raise UsageError(
                    f"checkpoint.{key}: there is no early stopping. The playbook trains for a fixed "
                    "number of steps, then chooses the best checkpoint (checkpoint.keep_best)"
                )
            raise unknown("config key", f"checkpoint.{key}", CHECKPOINT_KEYS)
    values = {**OPTIONAL, **config.to_dict()}
    for name in ("initialize_from", "seeds"):
        values[name] = _complete_part(name, values[name])
    values["hparams"] = {**HPARAM_DEFAULTS, **values["hparams"]}
    result = ConfigDict(values)
    _check_sizes(result)
    _check_hparams(result.hparams)
    return result.lock()


def with_optional(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored config with the optional keys that it was written too early to have."""
    values = {**to_dict(ConfigDict(OPTIONAL)), **stored}
    for name in ("initialize_from", "seeds"):
        values[name] = {**OPTIONAL[name], **values[name]}
    return to_dict(
        ConfigDict(values | {"hparams": {**HPARAM_DEFAULTS, **stored.get("hparams", {})}})
    )


def _complete_part(part: str, value: Any) -> dict[str, Any]:
    """Returns the optional dictionary of this name with all of its keys."""
    defaults = OPTIONAL[part]
    if not isinstance(value, Mapping):
        example = {"initialize_from": "{'path': DIR}", "seeds": "{'data': 1}"}[part]
        raise UsageError(f"{part} must be a dictionary like {example}, not {value!r}")
    for key in value:
        if key not in defaults:
            raise unknown("config key", f"{part}.{key}", [f"{part}.{name}" for name in defaults])
    return {**defaults, **value}


def seeds(config: ConfigDict) -> dict[str, int]:
    """Returns the seeds of `initialization`, `data` and `dropout`."""
    own = OPTIONAL["seeds"] | dict(config.get("seeds", {}))
    return {name: config.seed if value < 0 else value for name, value in own.items()}


def _check_sizes(config: ConfigDict) -> None:
    sizes = {
        "batch_size": config.batch_size,
        "eval_batch_size": config.eval_batch_size,
        "max_train_steps": config.max_train_steps,
        "eval_every_steps": config.eval_every_steps,
        "log_every_steps": config.log_every_steps,
        "steps_per_call": config.steps_per_call,
        "checkpoint.every_steps": config.checkpoint.every_steps,
        "checkpoint.keep_best": config.checkpoint.keep_best,
    }
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{name} must be a whole number, at least 1; it is {value!r}")
    if not isinstance(config.record_group_norms, bool):
        raise UsageError(
            f"record_group_norms must be True or False; it is {config.record_group_norms!r}"
        )
    if config.eval_train_examples < 0:
        raise UsageError(f"eval_train_examples must not be negative: {config.eval_train_examples}")
    if config.eval_batch_size < config.batch_size:
        raise UsageError(
            f"eval_batch_size {config.eval_batch_size} is smaller than batch_size "
            f"{config.batch_size}; evaluation keeps no activations, so make it at least as large"
        )
    if config.checkpoint.mode not in ("min", "max"):
        raise UsageError(f"checkpoint.mode must be 'min' or 'max', not {config.checkpoint.mode!r}")
    if not isinstance(config.seed, int) or not 0 <= config.seed < 2**32:
        raise UsageError(f"seed must be a whole number from 0 to 2³² − 1; it is {config.seed!r}")
    for name, own in config.seeds.items():
        if not isinstance(own, int) or isinstance(own, bool) or not -1 <= own < 2**32:
            raise UsageError(
                f"seeds.{name} must be a whole number up to 2³² − 1, or -1 for `seed`; it is {own!r}"
            )


def _check_hparams(hparams: ConfigDict) -> None:
    if "learning_rate" not in hparams:
        raise UsageError("the config lacks 'hparams.learning_rate'")
    for name, value in hparams.items():
        where = f"hparams.{name}"
        if not isinstance(value, numbers.Real):
            raise UsageError(
                f"{where} must be a number (whatever is not belongs outside hparams): {value!r}"
            )
        if not math.isfinite(value):
            raise UsageError(f"{where} must be finite; it is {value}")
        if name in _AT_LEAST_ZERO and value < 0:
            raise UsageError(f"{where} must not be negative; it is {value}")
        if name == "rsqrt_timescale" and value <= 0:
            raise UsageError(f"{where} must be positive; it is {value}")
        if name in _BELOW_ONE and not 0 <= value < 1:
            raise UsageError(f"{where} must be at least 0 and below 1; it is {value}")
        if name in ("warmup_steps", "post_warmup_steps") and value != int(value):
            raise UsageError(f"{where} must be a whole number of steps; it is {value}")


def total_steps(config: ConfigDict) -> int:
    """Returns how many updates a run makes: warmup is prepended, so it lengthens the run."""
    hparams = config.hparams
    return int(hparams.warmup_steps) + int(hparams.post_warmup_steps) + config.max_train_steps


def static_part(config: ConfigDict) -> str:
    """Returns, as JSON, what decides the compiled program: all that share it share one."""
    values = {key: value for key, value in to_dict(config).items() if key not in TRACED}
    values |= {"hparams": sorted(config.hparams), "averages": averages(config)}
    return json.dumps(values, sort_keys=True)


def averages(config: ConfigDict) -> bool:
    """Returns whether a run keeps an average of its parameters, which takes as much memory as they do."""
    return config.hparams.get("polyak_decay", 0.0) > 0


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns "path: old → new" for each value in which two configs differ, by path."""
    old, new = flatten(old), flatten(new)
    absent = "(absent)"
    return [
        f"{path}: {old.get(path, absent)} → {new.get(path, absent)}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path, absent) != new.get(path, absent)
    ]
