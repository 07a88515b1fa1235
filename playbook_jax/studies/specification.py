"""The study config: read, checked against the base config, and turned into trials' configs.

A hyperparameter has one of three roles (playbook, "Identifying scientific, nuisance, and fixed
hyperparameters"): `scientific`, whose effect is the question; `nuisance`, optimized over so that
values of the scientific ones are compared fairly; `fixed`, a caveat on every conclusion. Needs no
jax.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError, closest, unknown
from playbook_jax.studies import overrides as overrides_lib
from playbook_jax.studies.space import (
    conditions,
    grid,
    listed_trials,
    reparameterized,
    samplers,
    search_space,
)
from playbook_jax.studies.space.search_space import Range, Space, Values

REQUIRED = ("name", "goal", "base_config", "objective")
OPTIONAL = {
    "num_trials": None,  # of a grid or a list, it may be left out
    "algorithm": "halton",
    "seed": 0,  # scrambles the points; another one makes a replicate of the study
    "vary_seed": False,  # whether trial t trains with the base config's seed + t
    "scientific": {},
    "nuisance": {},
    "fixed": {},  # a value, or {"value": …, "reason": "what justifies it"}
    "points": None,  # of algorithm "list": the trials, or a CSV file, see explicit.py
    "baseline": False,  # whether trial 0 is the base config itself, outside of the sequence
    "start_from": "",  # another study, whose trials are kept, see start_from.py
    "shape": "joint",  # or "group": a study for each scientific value, see group.py
}
ROLES = ("scientific", "nuisance", "fixed")
# All trials are chosen, kept in memory and written down before the first one starts.
MOST_TRIALS = grid.MOST_POINTS
JOINT, GROUP = SHAPES = ("joint", "group")
# What a study may not vary, and why.
_FORBIDDEN = {
    "max_train_steps": "the playbook never tunes it within a study; compare whole studies instead",
    "checkpoint.metric": "it follows the study's objective",
    "checkpoint.mode": "it follows the study's objective",
}


@dataclasses.dataclass(frozen=True)
class Specification:
    """A study, checked.

    Attributes:
      name: what tables call it.
      goal: the question, in words.
      objective: `metric` and `mode` ("min" or "max").
      num_trials: how many trials.
      algorithm: a name of `samplers.ALGORITHMS`.
      seed: scrambles the points.
      vary_seed: whether each trial has a training seed of its own.
      scientific: the space of each scientific hyperparameter, by its path in the training config.
      nuisance: the space of each nuisance hyperparameter.
      fixed: the value of each fixed hyperparameter.
      fixed_reasons: why some of them are fixed, in words.
      conditional_fixed: of the fixed ones that have a condition, a space of one value.
      base_config: what trials start from: complete, `fixed` and `objective` already applied.
      base_config_path: where the base config was read.
      points: the hyperparameters of the listed trials, where the algorithm is "list".
      baseline: whether trial 0 has the base config's own hyperparameters.
      start_from: the directory of another study, or a group, of which finished trials are kept.
      shape: "joint", or "group" for a study for each scientific value.
    """

    name: str
    goal: str
    objective: Mapping[str, str]
    num_trials: int
    algorithm: str
    seed: int
    vary_seed: bool
    scientific: Mapping[str, Space]
    nuisance: Mapping[str, Space]
    fixed: Mapping[str, Any]
    base_config: ConfigDict
    base_config_path: str
    fixed_reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)
    conditional_fixed: Mapping[str, Space] = dataclasses.field(default_factory=dict)
    points: Sequence[Mapping[str, Any]] = ()
    baseline: bool = False
    shape: str = JOINT
    start_from: str = ""

    @property
    def spaces(self) -> dict[str, Space]:
        """The space of each hyperparameter that varies, scientific ones first."""
        return {**self.scientific, **self.nuisance}

    @property
    def order(self) -> list[str]:
        """The hyperparameters that vary as their dimensions were given out, where that must be stored.

        Without conditional ones, any trial tells it, and nothing is stored.
        """
        return list(self.spaces) if any(space.when for space in self.spaces.values()) else []

    def to_dict(self) -> dict[str, Any]:
        """Returns the specification as `study.json` holds it."""
        roles = {
            role: {name: space.to_dict() for name, space in getattr(self, role).items()}
            for role in ("scientific", "nuisance")
        }
        optional = {
            "fixed_reasons": dict(self.fixed_reasons),
            "baseline": self.baseline,
            "start_from": self.start_from,
            "order": self.order,
        }
        return {
            **{key: getattr(self, key) for key in ("name", "goal")},
            "objective": dict(self.objective),
            **{key: getattr(self, key) for key in ("num_trials", "algorithm", "seed", "vary_seed")},
            **roles,
            "fixed": dict(self.fixed),
            "base_config": config_lib.to_dict(self.base_config),
            "base_config_path": self.base_config_path,
            # Left out where unused, so that studies from before they existed compare equal.
            **{key: value for key, value in optional.items() if value},
        }


def trial_config(
    base_config: ConfigDict, trial: int, parameters: Mapping[str, Any], vary_seed: bool
) -> ConfigDict:
    """Returns the training config of one trial.

    Args:
      base_config: a specification's.
      trial: the trial's number.
      parameters: its hyperparameters by key, a path, perhaps with a condition or of an axis; lists, as
        JSON has them, stand for tuples.
      vary_seed: whether the trial's number is added to the seed.

    Raises:
      UsageError: the base config lacks a path, or a value does not fit the one it replaces.
    """
    values = reparameterized.config_values(parameters, base_config)
    if vary_seed:
        values["seed"] = (base_config.seed + trial) % 2**32
    return config_lib.override(base_config, values)


def total_steps(base_config: ConfigDict, parameters: Mapping[str, Any]) -> int:
    """Returns how many updates a trial makes; much faster than through its config."""
    lengths = ("hparams.warmup_steps", "hparams.post_warmup_steps", "max_train_steps")
    parameters = {conditions.path(key): value for key, value in parameters.items()}
    varied = sum(parameters[name] - base_config[name] for name in lengths if name in parameters)
    return config_lib.total_steps(base_config) + int(varied)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Specification:
    """Returns the study that the Python file at `path` describes.

    Args:
      path: the study config.
      overrides: what replaces some of its values, as on the command line, see overrides.py.

    Raises:
      UsageError: the study or its base config is missing, or contradicts itself.
    """
    try:
        values = config_lib.load_python(path).to_dict()
    except UsageError as error:
        if "does not accept dots" in str(error):
            raise UsageError(
                f"{path}: hyperparameters' names have dots; begin with "
                "config = ConfigDict(convert_dict=False)"
            ) from error
        raise
    return parse(overrides_lib.apply(OPTIONAL | values, overrides), path)


def parse(
    values: Mapping[str, Any], path: str | Path, base_config: ConfigDict | None = None
) -> Specification:
    """Returns the study that the values of a study config describe.

    Args:
      values: what `get_config()` gives, as a dictionary.
      path: where they come from.
      base_config: the base config, where the file that they name is not to be read.

    Raises:
      UsageError: the base config is missing, or the study contradicts itself.
    """
    values = OPTIONAL | values
    for key in values:
        if key not in (*REQUIRED, *OPTIONAL):
            raise unknown("key of the study config,", key, (*REQUIRED, *OPTIONAL))
    for key in REQUIRED:
        if key not in values:
            raise UsageError(f"the study config lacks {key!r}")
    _check_plain(values)
    if base_config is None:
        base_config = _base_config(path, values["base_config"])
    base_config = config_lib.override(
        base_config, {f"checkpoint.{key}": values["objective"][key] for key in ("metric", "mode")}
    )
    rows = _rows(values, path)
    for role in ("scientific", "nuisance") if rows else ():
        values[role] = listed_trials.with_bounds(values[role], rows, base_config)
    roles, reasons = _roles(values)
    spaces = {**roles["scientific"], **roles["nuisance"]}
    conditional_fixed = {
        name: Values((value,), conditions.of_key(name, values["scientific"] | values["nuisance"]))
        for name, value in roles["fixed"].items()
        if "@" in name
    }
    conditions.check(spaces, conditional_fixed)
    _check_roles(roles, base_config, values["vary_seed"])
    always = {n: value for n, value in roles["fixed"].items() if n not in conditional_fixed}
    base_config = config_lib.complete(config_lib.override(base_config, always))
    for name in (*spaces, *conditional_fixed):
        _check_fit(name, {**spaces, **conditional_fixed}, base_config)
    points = listed_trials.check(rows, spaces)
    return Specification(
        **{key: values[key] for key in ("name", "goal", "algorithm", "seed", "vary_seed")},
        **{key: values[key] for key in ("objective", "baseline", "shape")},
        num_trials=_num_trials(values, spaces, points),
        **roles,
        fixed_reasons=reasons,
        conditional_fixed=conditional_fixed,
        base_config=base_config,
        base_config_path=values["base_config"],
        points=points,
        start_from=_start_from(values, path),
    )


def _roles(values: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Returns spaces or, of fixed hyperparameters, values by role and key; and the fixed ones' reasons."""
    for role in ROLES:
        if not isinstance(values[role], Mapping):
            raise UsageError(f"{role} must map names to search spaces; it is {values[role]!r}")
    varying = {**values["scientific"], **values["nuisance"]}
    roles: dict[str, dict[str, Any]] = {
        role: {
            name: search_space.parse(name, space)
            for name, space in conditions.normalized(values[role], varying).items()
        }
        for role in ("scientific", "nuisance")
    }
    roles["fixed"], reasons = {}, {}
    for name, value in values["fixed"].items():
        if isinstance(value, Mapping):
            if set(value) != {"value", "reason"} or not isinstance(value["reason"], str):
                raise UsageError(
                    f"fixed: {name} must be a value, or {{'value': …, 'reason': 'in words'}}; "
                    f"it is {value!r}"
                )
            reasons[name], value = value["reason"], value["value"]
        roles["fixed"][name] = search_space.freeze(value)
    return roles, reasons


def _rows(values: Mapping[str, Any], path: str | Path) -> list[Mapping[str, Any]]:
    """Returns the listed trials as they are written, if it is a list; otherwise none."""
    if values["algorithm"] == samplers.LIST:
        if values["points"] is None:
            raise UsageError("algorithm 'list' needs 'points': the trials, or a CSV file of them")
        return listed_trials.rows(values["points"], path)
    if values["points"] is not None:
        raise UsageError(f"'points' are for algorithm 'list', not for {values['algorithm']!r}")
    return []


def _num_trials(
    values: Mapping[str, Any], spaces: Mapping[str, Space], points: Sequence[Any]
) -> int:
    """Returns how many trials there are; of a grid or a list, all of its points."""
    given, algorithm = values["num_trials"], values["algorithm"]
    if algorithm not in ("grid", samplers.LIST):
        if given is None:
            raise UsageError("the study config lacks 'num_trials'")
        return given
    size = len(points or grid.points(spaces)) + values["baseline"]
    if given not in (None, size):
        kind = "larger" if size > given else "smaller"
        raise UsageError(
            f"the {algorithm} has {size:,} trials{', baseline included' * values['baseline']}, which is "
            f"{kind} than num_trials {given:,}; leave num_trials out, or change the {algorithm}"
        )
    return size


def _start_from(values: Mapping[str, Any], path: str | Path) -> str:
    """Returns the directory of the study to start from, found from here or beside the study config."""
    given = values["start_from"]
    if not isinstance(given, str):
        raise UsageError(f"start_from must be the --workdir of another study; it is {given!r}")
    if not given:
        return ""
    if values["shape"] == GROUP or values["algorithm"] not in ("halton", "uniform"):
        raise UsageError("start_from goes with shape 'joint', and algorithm 'halton' or 'uniform'")
    if values["vary_seed"]:
        raise UsageError("start_from and vary_seed exclude each other: old trials have other seeds")
    places = [Path(given).expanduser(), Path(path).parent / given]
    return str(next((place for place in places if place.is_dir()), places[0]).absolute())


def _check_plain(values: Mapping[str, Any]) -> None:
    for key in ("name", "goal"):
        if not isinstance(values[key], str) or not values[key].strip():
            raise UsageError(f"{key} must be {_MEANINGS[key]}; it is {values[key]!r}")
    for key, least in (("num_trials", 1), ("seed", 0)):
        value = values[key]
        if value is None and key == "num_trials":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{key} must be a whole number, at least {least}; it is {value!r}")
        if key == "num_trials" and value > MOST_TRIALS:
            raise UsageError(
                f"num_trials is {value:,}; a study has at most {MOST_TRIALS:,}, which are all chosen before "
                "the first one starts: 20 to 1,000 are usual, and a study can grow later"
            )
    for key in ("vary_seed", "baseline"):
        if not isinstance(values[key], bool):
            raise UsageError(f"{key} must be True or False; it is {values[key]!r}")
    if values["shape"] not in SHAPES:
        raise unknown("shape", values["shape"], SHAPES)
    samplers.check(values["algorithm"])
    objective = values["objective"]
    if not isinstance(objective, Mapping) or set(objective) != {"metric", "mode"}:
        raise UsageError(
            "objective must be {'metric': 'validation/error_rate', 'mode': 'min'}, or the like; "
            f"it is {objective!r}"
        )
    if objective["mode"] not in ("min", "max"):
        raise UsageError(f"objective.mode must be 'min' or 'max', not {objective['mode']!r}")


_MEANINGS = {"name": "the study's name", "goal": "the study's question, in words"}


def _base_config(study_path: str | Path, base_path: Any) -> ConfigDict:
    """Returns the complete base config."""
    if not isinstance(base_path, str):
        raise UsageError(f"base_config must be the path of a training config, not {base_path!r}")
    try:
        return config_lib.complete(config_lib.load(base_config_place(base_path)))
    except UsageError as error:
        raise UsageError(f"base_config of {study_path}: {error}") from error


def base_config_place(path: str) -> Path:
    """Returns where the base config lies that a study config names; it need not be there."""
    # A path that leads nowhere from here is meant from the checkout.
    places = [Path(path), Path(__file__).parent.parent.parent / path]
    return next((place for place in places if place.is_file()), places[0])


def _check_roles(
    roles: Mapping[str, Mapping[str, Any]], base_config: ConfigDict, vary_seed: bool
) -> None:
    if not roles["scientific"] and not roles["nuisance"]:
        raise UsageError("no hyperparameter varies: name some under 'scientific' or 'nuisance'")
    known = config_lib.flatten(base_config)
    role_of: dict[str, str] = {}
    for role in ROLES:
        for key in roles[role]:
            name = conditions.path(key)
            for other, its_role in role_of.items():
                # Two with conditions are two hyperparameters (that exclude each other: see above).
                same = conditions.path(other) == name and not ("@" in key and "@" in other)
                if same or other == key:
                    raise UsageError(
                        f"{key} is both {its_role} and {role}; a hyperparameter has one role"
                    )
            role_of[key] = role
            if name not in known:
                raise UsageError(f"{role}: the base config has no {name!r}{closest(name, known)}")
            if name in _FORBIDDEN and (role != "fixed" or name != "max_train_steps"):
                raise UsageError(f"{role}: {name} cannot be set here; {_FORBIDDEN[name]}")
    if vary_seed and role_of.get("seed", "fixed") != "fixed":
        raise UsageError(f"seed is {role_of['seed']} and vary_seed is set; choose one of the two")


def _check_fit(key: str, spaces: Mapping[str, Space], base_config: ConfigDict) -> None:
    """Raises a UsageError where the base config cannot take the space's values."""
    name, space = conditions.path(key), spaces[key]
    reparameterized.check(key, spaces, base_config)
    if reparameterized.parts(key):
        return  # its bounds are no values of the config
    old = config_lib.flatten(base_config)[name]
    if isinstance(space, Range):
        whole = isinstance(old, int) and not isinstance(old, bool)
        whole &= not name.startswith("hparams.") or name.endswith("_steps")
        if whole and space.type != "int":
            raise UsageError(f"{name} is a whole number: its search space needs 'type': 'int'")
    for value in space.values if isinstance(space, Values) else (space.low, space.high):
        config_lib.complete(config_lib.override(base_config, {name: value}))
