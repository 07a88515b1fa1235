"""The keys of a training config: what each must be, its default and its meaning, in one table.

Needs neither jax nor TensorFlow.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from playbook_jax.errors import UsageError, shown

# (value) → what it must be, in words, or "" where it is that.
Must = Callable[[Any], str]
_REQUIRED, _ABSENT = object(), object()
_INT32 = 2**31 - 1  # the type of steps and indices on the devices
_SEED = 2**32 - 1
_FLOAT32 = 3.4028234663852886e38  # the largest there is
# More would be memory for nothing: 20 MB of records and of input's indices, a transfer each.
_MOST_AT_ONCE = 1_000_000


@dataclasses.dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
      must: the type and the bounds.
      meaning: what it is for.
      default: the value where a config leaves it out; the others must be there, or may be absent.
    """

    must: Must
    meaning: str
    default: Any = _REQUIRED


def is_whole(value: Any) -> bool:
    """Whether it is an integer; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(least: int, most: int = _INT32, words: str = "") -> Must:
    words = words or f"a whole number, at least {least}"

    def must(value: Any) -> str:
        if is_whole(value) and value > most and most != _SEED:
            return f"at most {most:,}"
        return "" if is_whole(value) and least <= value <= most else words

    return must


def _of_type(kind: type | tuple[type, ...], words: str) -> Must:
    return lambda value: "" if isinstance(value, kind) else words


def _name(words: str) -> Must:
    return lambda value: "" if isinstance(value, str) and value else words


def _either(*choices: str) -> Must:
    words = " or ".join(map(repr, choices))
    return lambda value: "" if isinstance(value, str) and value in choices else words


def _items(fits: Callable[[Any], bool], words: str) -> Must:
    return lambda value: "" if isinstance(value, tuple | list) and all(map(fits, value)) else words


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str)


def _examples(value: Any) -> str:
    several = value if isinstance(value, tuple | list) else (value,)
    fits = all(is_whole(number) and 0 <= number <= _INT32 for number in several)
    return "" if fits else "a number of examples or a tuple of their numbers"


_dictionary = _of_type(Mapping, "a dictionary")
_text = _of_type(str, "text")
_flag = _of_type(bool, "True or False")
_own_seed = _whole(-1, _SEED, "a whole number up to 2³² − 1, or -1 for `seed`")
_patterns = _items(lambda x: isinstance(x, str), "a tuple of patterns, such as ('Dense_0/.*',)")

KEYS = {
    "workload": Key(_name("the name of a file in workloads/"), "the name of a file in workloads/"),
    "model": Key(_dictionary, "what the workload builds its model from"),
    "dataset": Key(_dictionary, "where the data come from"),
    "dataset.source": Key(_name("the name of a source"), "'memory', 'tf_data' or 'tfds'"),
    "dataset.num_shards": Key(
        _whole(0), "into how many shards the training set is dealt; 0: one a host"
    ),
    "dataset.data_dir": Key(_text, "the directory of tfds's data sets", _ABSENT),
    "dataset.shuffle_buffer": Key(
        _whole(1, words="at least 1, a whole number"), "records that are shuffled together", _ABSENT
    ),
    "dataset.cache": Key(_flag, "whether decoded examples stay in memory", _ABSENT),
    "dataset.service": Key(_text, "the address of a tf.data service", _ABSENT),
    "seed": Key(
        _whole(0, _SEED, "a whole number from 0 to 2³² − 1"),
        "initialization, order of the examples, dropout",
    ),
    "batch_size": Key(_whole(1), "examples a step, on all devices together"),
    "eval_batch_size": Key(_whole(1), "examples at a time in evaluations"),
    "max_train_steps": Key(_whole(1), "updates, without those of the warmup"),
    "eval_every_steps": Key(_whole(1), "the interval of evaluations"),
    "checkpoint": Key(_dictionary, "when to save what"),
    "checkpoint.every_steps": Key(_whole(1), "the interval of checkpoints"),
    "checkpoint.keep_best": Key(_whole(1), "how many of the best states are kept"),
    "checkpoint.metric": Key(_name("the name of a metric"), "the metric that says which is best"),
    "checkpoint.mode": Key(_either("min", "max"), "whether it is to be small or large"),
    "optimizer": Key(_name("the name of an optimizer"), "the update rule"),
    "schedule": Key(_name("the name of a schedule"), "the learning rate's decay"),
    "hparams": Key(_dictionary, "scalars that enter the compiled step as values"),
    "eval_train_examples": Key(
        _whole(0), "size of the fixed sample behind `train/…`; 0: as many as validation", 0
    ),
    "log_every_steps": Key(
        _whole(1, _MOST_AT_ONCE), "one transfer of per-step records from the device each", 100
    ),
    "steps_per_call": Key(
        _whole(1, _MOST_AT_ONCE), "updates that one call of the compiled step may run", 1
    ),
    "device_mapping": Key(
        _name("the name of a mapping"),
        "how steps run on all devices: 'pmap' or 'shard_map'",
        "pmap",
    ),
    "save_predictions": Key(
        _examples, "of so many examples of validation, or of a tuple of them, by number", 0
    ),
    "initialize_from": Key(_dictionary, "parameters to begin with, see transfer.py", {}),
    "initialize_from.path": Key(
        _text, "a trial directory or an .npz file; '': none, all are drawn", ""
    ),
    "initialize_from.step": Key(
        lambda value: "" if isinstance(value, str) or is_whole(value) else "text or a whole number",
        "which checkpoint: 'best', 'latest', or a number",
        "best",
    ),
    "initialize_from.polyak": Key(_flag, "the averaged parameters", False),
    "initialize_from.rename": Key(
        _items(
            lambda x: _is_pair(x) and isinstance(x[1], str), "pairs of text like (('^a/', 'b/'),)"
        ),
        "pairs: a regular expression for a part of the path there, what it becomes",
        (),
    ),
    "initialize_from.skip": Key(
        _patterns, "patterns of the paths here that are drawn nevertheless", ()
    ),
    "freeze": Key(_patterns, "patterns, see parameter_rules.py, like the next two", ()),
    "learning_rate_multipliers": Key(
        _items(_is_pair, "pairs like (('Dense_0/.*', 0.1),)"),
        "pairs: a pattern, a number or the name of one of the hparams",
        (),
    ),
    "weight_decay_mask": Key(
        _items(_is_pair, "pairs like (('Dense_0/.*', True),)"),
        "pairs: a pattern, whether weight decay acts",
        (),
    ),
    "seeds": Key(_dictionary, "each alone, where not all follow from `seed` (-1)", {}),
    "seeds.initialization": Key(_own_seed, "of the parameters", -1),
    "seeds.data": Key(_own_seed, "of the examples' order, and augmentation on the host", -1),
    "seeds.dropout": Key(_own_seed, "of whatever a step draws", -1),
    "record_group_norms": Key(
        _flag, "the gradient's norm by top-level module, at every step", False
    ),
    "notes": Key(_text, "what this run is for; goes into the tables", ""),
}
# Those that may be of another type than their default.
SEVERAL_TYPES = ("save_predictions", "initialize_from.step")


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What one of the hparams must be, besides a finite number.

    Attributes:
      must: in words.
      fits: whether a value is that.
      default: the value where a config leaves it out; None: it is then absent.
    """

    must: str
    fits: Callable[[float], bool]
    default: float | None = None


def _at_least_zero(default: float | None = None) -> Bounds:
    return Bounds("must not be negative", lambda value: value >= 0, default)


def _below_one(default: float | None = None) -> Bounds:
    return Bounds("must be at least 0 and below 1", lambda value: 0 <= value < 1, default)


_STEPS = Bounds(
    f"must be a whole number of steps, at least 0 and at most {_INT32:,}",
    lambda value: value == int(value) and 0 <= value <= _INT32,
    0,
)
HPARAMS = {
    "learning_rate": _at_least_zero(),
    "warmup_steps": _STEPS,
    "post_warmup_steps": _STEPS,
    "end_factor": _at_least_zero(0.0),
    "rsqrt_timescale": Bounds("must be positive", lambda value: value > 0, 10_000),
    "clip_norm": _at_least_zero(0.0),
    "label_smoothing": _below_one(0.0),
    "divergence_factor": _at_least_zero(20.0),
    "weight_decay": _at_least_zero(),
    "epsilon": _at_least_zero(),
    "momentum": _below_one(),
    "beta1": _below_one(),
    "beta2": _below_one(),
    "rho": _below_one(),
    "dropout_rate": _below_one(),
    "polyak_decay": _below_one(0.0),
}


def children(part: str) -> dict[str, Key]:
    """Returns the keys of a part of the config by their names in it; of "", those at the top."""
    prefix = f"{part}." if part else ""
    names = [path.removeprefix(prefix) for path in KEYS if path.startswith(prefix)]
    return {name: KEYS[prefix + name] for name in names if "." not in name}


def defaults(part: str = "") -> dict[str, Any]:
    """Returns the keys of a part that a config may leave out, and what they then are."""
    given = {n: key.default for n, key in children(part).items()}
    return {
        name: defaults(name) if value == {} else value
        for name, value in given.items()
        if value is not _REQUIRED and value is not _ABSENT
    }


def check(values: Mapping[str, Any]) -> None:
    """Checks the type and bounds of every key of a config in which defaults are filled in.

    Raises:
      UsageError: one is missing or is not what it must be; says which, and what it must be.
    """
    for path, key in KEYS.items():
        part, _, name = path.rpartition(".")
        inside = values[part] if part else values
        if name in inside:
            must = key.must(inside[name])
            if must:
                raise UsageError(f"{path} must be {must}; it is {shown(inside[name])}")
        elif key.default is _REQUIRED:
            raise UsageError(f"the config lacks {path!r}: {key.meaning}")
    for name, value in values["hparams"].items():
        _check_hparam(name, value)
    _check_stored("", values)


def _check_hparam(name: str, value: Any) -> None:
    must = ""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        must = "must be a number (whatever is not belongs outside hparams)"
    elif is_whole(value) and abs(value) > _FLOAT32:
        must = f"must be at most {_FLOAT32:.2g} in size, as float32 is"
    elif not math.isfinite(value):
        must = "must be finite"
    elif abs(value) > _FLOAT32:
        must = f"must be at most {_FLOAT32:.2g} in size, as float32 is"
    elif name in HPARAMS and not HPARAMS[name].fits(value):
        must = HPARAMS[name].must
    if must:
        raise UsageError(f"hparams.{name} {must}; it is {shown(value)}")


def _check_stored(path: str, value: Any) -> None:
    """Raises a UsageError for what config.json could not hold, and give back as it was."""
    must = ""
    if isinstance(value, Mapping):
        for key, child in value.items():
            if not isinstance(key, str) or "." in key or not is_text(key):
                raise UsageError(
                    f"the config's key {shown(key)} in {path or 'it'} must be text without dots"
                )
            _check_stored(f"{path}.{key}" if path else key, child)
    elif isinstance(value, tuple | list):
        for number, child in enumerate(value):
            _check_stored(f"{path}[{number}]", child)
    elif isinstance(value, float):
        must = "" if math.isfinite(value) else "be finite"
    elif isinstance(value, str):
        must = "" if is_text(value) else "be text that UTF-8 can write"
    elif is_whole(value):
        must = "" if abs(value) < 2**63 else "fit into 64 bits"
    elif value is not None and not isinstance(value, bool):
        must = "be a number, text, True, False, None, or a tuple or dictionary of these"
    if must:
        raise UsageError(f"{path} must {must}; it is {shown(value)}")


def is_text(value: str) -> bool:
    """Whether a file can hold it; lone surrogates it can't."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
