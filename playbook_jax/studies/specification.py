"""The study config: read, checked against the base config, and turned into trials' configs.

A hyperparameter has one of three roles (playbook, "Identifying scientific, nuisance, and fixed
hyperparameters"): `scientific`, whose effect is the question; `nuisance`, optimized over so that
values of the scientific ones are compared fairly; `fixed`, a caveat on every conclusion. Needs no
jax.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError, closest, unknown
from playbook_jax.studies import samplers, search_space
from playbook_jax.studies.search_space import Range, Space, Values

REQUIRED = ("name", "goal", "base_config", "objective", "num_trials")
OPTIONAL = {
    "algorithm": "halton",
    "seed": 0,  # scrambles the points; another one makes a replicate of the study
    "vary_seed": False,  # whether trial t trains with the base config's seed + t
    "scientific": {},
    "nuisance": {},
    "fixed": {},
}
ROLES = ("scientific", "nuisance", "fixed")
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
      base_config: what trials start from: complete, `fixed` and `objective` already applied.
      base_config_path: where the base config was read.
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

    @property
    def spaces(self) -> dict[str, Space]:
        """The space of each hyperparameter that varies, scientific ones first."""
        return {**self.scientific, **self.nuisance}

    def to_dict(self) -> dict[str, Any]:
        """Returns the specification as `study.json` holds it."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for role in ("scientific", "nuisance"):
            values[role] = {name: space.to_dict() for name, space in values[role].items()}
        return values | {
            "objective": dict(self.objective),
            "fixed": dict(self.fixed),
            "base_config": config_lib.to_dict(self.base_config),
        }


def trial_config(
    base_config: ConfigDict, trial: int, parameters: Mapping[str, Any], vary_seed: bool
) -> ConfigDict:
    """Returns the training config of one trial.

    Args:
      base_config: a specification's.
      trial: the trial's number.
      parameters: its hyperparameters by path; lists, as JSON has them, stand for tuples.
      vary_seed: whether the trial's number is added to the seed.

    Raises:
      UsageError: the base config lacks a path, or a value does not fit the one it replaces.
    """
    values = {name: search_space.freeze(value) for name, value in parameters.items()}
    if vary_seed:
        values["seed"] = (base_config.seed + trial) % 2**32
    return config_lib.override(base_config, values)


def total_steps(base_config: ConfigDict, parameters: Mapping[str, Any]) -> int:
    """Returns how many updates a trial makes; much faster than through its config."""
    lengths = ("hparams.warmup_steps", "hparams.post_warmup_steps")
    varied = sum(parameters[name] - base_config[name] for name in lengths if name in parameters)
    return config_lib.total_steps(base_config) + int(varied)


def load(path: str | Path) -> Specification:
    """Returns the study that the Python file at `path` describes.

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
    for key in values:
        if key not in (*REQUIRED, *OPTIONAL):
            raise unknown("key of the study config,", key, (*REQUIRED, *OPTIONAL))
    for key in REQUIRED:
        if key not in values:
            raise UsageError(f"the study config lacks {key!r}")
    values = OPTIONAL | values
    _check_plain(values)
    for role in ROLES:
        if not isinstance(values[role], Mapping):
            raise UsageError(f"{role} must map names to search spaces; it is {values[role]!r}")
    spaces = {
        role: {name: search_space.parse(name, space) for name, space in values[role].items()}
        for role in ("scientific", "nuisance")
    }
    fixed = {name: search_space.freeze(value) for name, value in values["fixed"].items()}
    base_config = _base_config(path, values["base_config"], values["objective"])
    _check_roles(spaces["scientific"], spaces["nuisance"], fixed, base_config, values["vary_seed"])
    base_config = config_lib.complete(config_lib.override(base_config, fixed))
    specification = Specification(
        **{key: values[key] for key in ("name", "goal", "num_trials", "algorithm", "seed")},
        objective=values["objective"],
        vary_seed=values["vary_seed"],
        **spaces,
        fixed=fixed,
        base_config=base_config,
        base_config_path=values["base_config"],
    )
    for name, space in specification.spaces.items():
        _check_fit(name, space, base_config)
    return specification


def _check_plain(values: Mapping[str, Any]) -> None:
    for key in ("name", "goal"):
        if not isinstance(values[key], str) or not values[key].strip():
            raise UsageError(f"{key} must be {_MEANINGS[key]}; it is {values[key]!r}")
    for key, least in (("num_trials", 1), ("seed", 0)):
        value = values[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{key} must be a whole number, at least {least}; it is {value!r}")
    if not isinstance(values["vary_seed"], bool):
        raise UsageError(f"vary_seed must be True or False; it is {values['vary_seed']!r}")
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


def _base_config(
    study_path: str | Path, base_path: Any, objective: Mapping[str, str]
) -> ConfigDict:
    """Returns the complete base config, with the study's objective."""
    if not isinstance(base_path, str):
        raise UsageError(f"base_config must be the path of a training config, not {base_path!r}")
    # A path that leads nowhere from here is meant from the checkout.
    checkout = Path(__file__).parent.parent.parent
    places = [Path(base_path), checkout / base_path]
    found = next((place for place in places if place.is_file()), places[0])
    try:
        base_config = config_lib.complete(config_lib.load(found))
    except UsageError as error:
        raise UsageError(f"base_config of {study_path}: {error}") from error
    return config_lib.override(
        base_config, {f"checkpoint.{key}": objective[key] for key in ("metric", "mode")}
    )


def _check_roles(
    scientific: Mapping[str, Space],
    nuisance: Mapping[str, Space],
    fixed: Mapping[str, Any],
    base_config: ConfigDict,
    vary_seed: bool,
) -> None:
    if not scientific and not nuisance:
        raise UsageError("no hyperparameter varies: name some under 'scientific' or 'nuisance'")
    known = config_lib.flatten(base_config)
    roles: dict[str, str] = {}
    for role, members in zip(ROLES, (scientific, nuisance, fixed), strict=True):
        for name in members:
            if name in roles:
                raise UsageError(
                    f"{name} is both {roles[name]} and {role}; a hyperparameter has one role"
                )
            roles[name] = role
            if name not in known:
                raise UsageError(f"{role}: the base config has no {name!r}{closest(name, known)}")
            if name in _FORBIDDEN and (role != "fixed" or name != "max_train_steps"):
                raise UsageError(f"{role}: {name} cannot be set here; {_FORBIDDEN[name]}")
    if vary_seed and "seed" in roles and roles["seed"] != "fixed":
        raise UsageError(f"seed is {roles['seed']} and vary_seed is set; choose one of the two")


def _check_fit(name: str, space: Space, base_config: ConfigDict) -> None:
    """Raises a UsageError where the base config cannot take the space's values."""
    old = config_lib.flatten(base_config)[name]
    if isinstance(space, Range):
        whole = isinstance(old, int) and not isinstance(old, bool)
        whole &= not name.startswith("hparams.") or name.endswith("_steps")
        if whole and space.type != "int":
            raise UsageError(f"{name} is a whole number: its search space needs 'type': 'int'")
    for value in space.values if isinstance(space, Values) else (space.low, space.high):
        config_lib.complete(config_lib.override(base_config, {name: value}))
