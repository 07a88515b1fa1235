"""Training configs: loading, overriding, checking and comparing them.

A config is a locked `ml_collections.ConfigDict`. Everything under `config.hparams` is a scalar that
enters the compiled step as a traced value, so changing it never recompiles; everything else may
change shapes or code and is static. This module needs neither jax nor TensorFlow.
"""

import importlib.machinery
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from playbook_jax import config_keys
from playbook_jax.errors import UsageError, closest, refusing, shown, unknown
from playbook_jax.tracking import sources

OPTIONAL = config_keys.defaults()  # keys that a config may leave out, and what they then are
REQUIRED = tuple(name for name in config_keys.children("") if name not in OPTIONAL)
# Enter the compiled step as values, like the hparams, or not at all: they never recompile.
TRACED = ("hparams", "seed", "seeds", "max_train_steps", "notes", "initialize_from")

# Names of `hparams` that every run has, with the value when a config leaves them out.
HPARAM_DEFAULTS = {
    name: bounds.default
    for name, bounds in config_keys.HPARAMS.items()
    if bounds.default is not None
}


class _FreshLoader(importlib.machinery.SourceFileLoader):
    """Compiles the file each time: bytecode on disk is blind to a change within the same second."""

    def get_code(self, fullname: str) -> Any:
        data = self.get_data(self.path)
        sources.note(sources.CONFIG, self.path, data.decode(errors="replace"))
        return self.source_to_code(data, self.path)


def load_python(path: str | Path) -> ConfigDict:
    """Returns what `get_config()` of the Python file at `path` gives, locked.

    Raises:
      UsageError: the file is missing, fails, or has no `get_config` that returns a ConfigDict.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise UsageError(f"{path} is a directory; a config is a Python file in it")
    if not path.is_file():
        known = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UsageError(f"no config file {str(path)!r}{closest(str(path), known)}")
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a Python file; a config file defines get_config()")
    name = f"_config_{path.stem}"
    spec = importlib.util.spec_from_loader(name, _FreshLoader(name, str(path)))
    module = importlib.util.module_from_spec(spec)
    with refusing(str(path)):
        spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise UsageError(f"{path} defines no function get_config()")
    with refusing(str(path)):
        config = module.get_config()
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
            values = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} is not a config that can be read: {error}") from error
        if not isinstance(values, dict):
            raise UsageError(f"{path} is not a config that can be read: it holds {shown(values)}")
        return from_dict(values)
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
    given = _plain(config)
    for key in REQUIRED:
        if key not in given:
            meaning = config_keys.KEYS[key].meaning
            raise UsageError(f"the config lacks {key!r}{closest(key, given)}: {meaning}")
    for key in given:
        if key not in REQUIRED and key not in OPTIONAL:
            raise unknown("config key", shown(key).strip("'"), (*REQUIRED, *OPTIONAL))
    values = {**OPTIONAL, **given}
    for name in ("initialize_from", "seeds"):
        values[name] = _complete_part(name, values[name])
    if isinstance(values["hparams"], Mapping):
        values["hparams"] = {**HPARAM_DEFAULTS, **values["hparams"]}
    config_keys.check(values)
    _check_checkpoint(values["checkpoint"])
    result = ConfigDict(values)
    _check_sizes(result)
    return result.lock()


def _plain(value: Any) -> Any:
    """Returns plain dictionaries, and Python's own numbers for NumPy's."""
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_plain(child) for child in value)
    # NumPy, for which --help need not wait, is not imported to know its scalars.
    is_scalar = type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
    return value.item() if is_scalar else value


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


def _check_checkpoint(values: Mapping[str, Any]) -> None:
    for key in values:
        if key not in config_keys.children("checkpoint"):
            if "stop" in key or "patience" in key:
                raise UsageError(
                    f"checkpoint.{key}: there is no early stopping. The playbook trains for a fixed "
                    "number of steps, then chooses the best checkpoint (checkpoint.keep_best)"
                )
            raise unknown("config key", f"checkpoint.{key}", config_keys.children("checkpoint"))


def _check_sizes(config: ConfigDict) -> None:
    if config.eval_batch_size < config.batch_size:
        raise UsageError(
            f"eval_batch_size {config.eval_batch_size} is smaller than batch_size "
            f"{config.batch_size}; evaluation keeps no activations, so make it at least as large"
        )
    if total_steps(config) >= 2**31:
        raise UsageError(
            f"warmup_steps, post_warmup_steps and max_train_steps make {total_steps(config):,} steps; "
            f"a run has at most {2**31 - 1:,}"
        )


def longest_stretch(config: ConfigDict) -> int:
    """Returns how many steps there are at most between two things that are due."""
    every = (config.log_every_steps, config.eval_every_steps, config.checkpoint.every_steps)
    return min(every)


def most_steps_per_call(config: ConfigDict) -> int:
    """Returns how many steps a call of the device can be asked for."""
    return min(config.steps_per_call, longest_stretch(config))


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
