"""Replicates: a configuration run again and again with fresh seeds, and the baseline beside it.

    replicates.json           where the two sides come from, and what varies
    candidate_config.json     the configuration whose replicates are run
    candidate_study.py        the study config of its replicates, an ordinary one
    candidate/                that study
    baseline…                 the same of the baseline
    adoption.json             what came of it, see analysis/data/adoption.py

A replicate has the configuration's own seed plus 1, 2, …: never its own, with which it may have been the
best of a study by luck. The results of that study are not used again, for the same reason.

Source: playbook, "Determining whether to adopt a training pipeline change or hyperparameter
configuration" ("before adopting a candidate change, consider running the best trial N times").
"""

import contextlib
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.adoption import BASELINE, CANDIDATE, NOTHING, SEED, SIDES
from playbook_jax.errors import UsageError, unknown
from playbook_jax.procedures import configurations
from playbook_jax.procedures.configurations import FILE_NAME, FORMAT, Configuration
from playbook_jax.studies.store import replicated
from playbook_jax.tracking import stored_format

_SEEDS = 2**32
_ANY_SEED = {"scale": "linear", "low": 0, "high": _SEEDS - 1, "type": "int"}
# What may differ between replicates: the config's key, by the name on the command line.
VARIED = {
    SEED: "seed",
    "initialization": "seeds.initialization",
    "data": "seeds.data",
    "dropout": "seeds.dropout",
    NOTHING: "notes",
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
      sides: the configurations by name; the baseline may be missing.
      objective: `metric` and `mode`, of both.
      vary: a name of VARIED.
      count: how many replicates each side is to have.
      worth: the smallest improvement that is worth having, or None.
      examples: how many validation examples there are, or None to find out.
      study: the directory of the study that the candidate was found in, or None.
    """

    sides: Mapping[str, Configuration]
    objective: Mapping[str, str]
    vary: str
    count: int
    worth: float | None = None
    examples: int | None = None
    study: Path | None = None


def plan(
    study: str,
    trial: str,
    baseline: str | None,
    *,
    count: int,
    vary: str = SEED,
    worth: float | None = None,
    examples: int | None = None,
) -> Plan:
    """Returns the plan that a command line asks for.

    Args:
      study: the directory of the study that the candidate was found in.
      trial: its number there, or `configurations.BEST`.
      baseline: a training config, a study (of which it is the best trial), a trial, the workdir of
        earlier replicates, or None.
      count: how many replicates each side is to have.
      vary: a name of VARIED.
      worth: the smallest improvement that is worth having, in the objective's own units.
      examples: how many validation examples the objective counts.

    Raises:
      UsageError: one of them is not there, or does not fit the others.
    """
    if vary not in VARIED:
        raise unknown("--vary", vary, VARIED)
    sides = {CANDIDATE: configurations.from_study(study, trial)}
    objective = sides[CANDIDATE].objective
    if baseline is not None and vary == NOTHING:
        raise UsageError("--vary=nothing measures arithmetic, which needs no --baseline")
    if baseline is not None:
        sides[BASELINE] = configurations.from_anywhere(baseline, vary)
        theirs = sides[BASELINE].objective
        if theirs is not None and dict(theirs) != dict(objective):
            raise UsageError(
                f"--baseline: {baseline} has the objective {theirs['metric']} ({theirs['mode']}), and "
                f"--study has {objective['metric']} ({objective['mode']}): they cannot be compared"
            )
    return Plan(sides, objective, vary, count, worth, examples, Path(study))


def prepare(asked: Plan, workdir: str | Path) -> None:
    """Writes `replicates.json` and the study configs, or checks that they are those of an earlier run.

    Raises:
      UsageError: the directory can't be written, or holds something else.
    """
    directory = Path(workdir)
    stored = trial_lib.read_json(directory / FILE_NAME)
    if stored is None and directory.is_dir() and any(directory.iterdir()):
        raise UsageError(f"{workdir} is not empty and holds no replicates; use another --workdir")
    values = _to_dict(asked, stored or {})
    if stored is not None:
        _check_same(stored, values, workdir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, side in asked.sides.items():
            if side.replicates is None:
                path = directory / f"{name}_config.json"
                trial_lib.write_json(path, base_config(values[name]["config"], asked.vary))
                source = study_source(asked, name, path.resolve())
                trial_lib.write_text(directory / f"{name}_study.py", source)
        trial_lib.write_json(directory / FILE_NAME, values)
        _note(asked, directory)
    except OSError as error:
        raise UsageError(f"cannot write to {workdir}: {error.strerror or error}") from error


def _note(asked: Plan, directory: Path) -> None:
    """Notes in the study that the candidate comes from where its replicates are, for its report."""
    if asked.study is None or asked.vary != SEED:
        return
    try:
        replicated.note(asked.study, directory)
    except OSError as error:  # a study of somebody else's: replicates are as good without
        print(
            f"{asked.study}: its report will not find these replicates ({error.strerror or error})"
        )


def _to_dict(asked: Plan, stored: Mapping[str, Any]) -> dict[str, Any]:
    result = {
        "format": FORMAT,
        "objective": dict(asked.objective),
        "vary": asked.vary,
        "worth": asked.worth,
    }
    for name in SIDES:
        side = asked.sides.get(name)
        if side is None:
            result[name] = stored.get(name)  # a baseline that an earlier command has named stays
            continue
        known = (stored.get(name) or {}).get("validation_examples")
        result[name] = {
            "source": side.source,
            "config": side.config,
            "chosen": side.chosen,
            "replicates": side.replicates and str(side.replicates),
            "validation_examples": asked.examples
            or known
            or validation_examples(side.config, asked.objective["metric"]),
        }
    return json.loads(json.dumps(result))


def _check_same(stored: Any, values: Mapping[str, Any], workdir: str | Path) -> None:
    """Raises a UsageError where a directory's replicates are not those that are asked for."""
    path = Path(workdir) / FILE_NAME
    stored_format.check(path, stored, FORMAT, f"{path} cannot be read; use another --workdir")
    if stored["vary"] != values["vary"]:
        changed = f"--vary={stored['vary']}"
    else:
        changed = next(
            (
                f"the {name} {stored[name]['source']}"
                for name in SIDES
                if stored.get(name)
                and config_lib.differences(
                    config_lib.with_optional(stored[name]["config"]), values[name]["config"]
                )
            ),
            None,
        )
    if changed:
        raise UsageError(
            f"{workdir} holds replicates with {changed}, which is not what is asked for now; "
            "use another --workdir"
        )


def validation_examples(config: Mapping[str, Any], metric: str) -> int | None:
    """Returns how many examples the validation set has, where the objective may be a count of them."""
    if not formatting.is_rate(metric):
        return None
    from playbook_jax import workload
    from playbook_jax.input import pipeline, splits

    config = config_lib.from_dict(config)
    source = pipeline.source_class(config.dataset.source)
    return splits.size(source.read(workload.find(config.workload)(config))["validation"])


def base_config(config: Mapping[str, Any], vary: str) -> dict[str, Any]:
    """Returns what the replicates start from: where all seeds vary, none has a value of its own."""
    freed = {"seeds": config_lib.OPTIONAL["seeds"]} if vary == SEED else {}
    return {**config, **freed}


def points(asked: Plan, name: str) -> list[dict[str, Any]]:
    """Returns in what each replicate of a side differs from its configuration; more follow the fewer."""
    config, key = asked.sides[name].config, VARIED[asked.vary]
    if asked.vary == NOTHING:
        return [{key: f"same-seed repeat {i}"} for i in range(1, asked.count + 1)]
    own = config_lib.flatten(config)[key]
    own = config["seed"] if own < 0 else own  # of a seed that follows from `seed`
    return [{key: (own + i) % _SEEDS} for i in range(1, asked.count + 1)]


def study_source(asked: Plan, name: str, config_path: Path) -> str:
    """Returns the text of the study config that runs the replicates of a side."""
    side, rows = asked.sides[name], points(asked, name)
    key = VARIED[asked.vary]
    space = {"values": [row[key] for row in rows]} if asked.vary == NOTHING else _ANY_SEED
    listed = "".join(f"        {row!r},\n" for row in rows)
    return (
        f'"""Replicates of {_in_docstring(side.source)}; written by scripts/replicate.py."""\n\n'
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config() -> ConfigDict:\n"
        '    """Returns the study config."""\n'
        "    config = ConfigDict(convert_dict=False)  # names of hyperparameters have dots\n"
        f"    config.name = {'replicates, ' + name!r}\n"
        f"    config.goal = {'How much do runs of ' + side.source + ' differ?'!r}\n"
        f"    config.base_config = {str(config_path)!r}\n"
        f"    config.objective = {dict(asked.objective)!r}\n"
        '    config.algorithm = "list"\n'
        f"    config.nuisance = {{{key!r}: {space!r}}}\n"
        f"    config.points = [\n{listed}    ]\n"
        "    return config\n"
    )


def _in_docstring(text: str) -> str:
    return text.replace("\\", "/").replace('"', "'")


def run(
    asked: Plan,
    workdir: str | Path,
    *,
    num_workers: int,
    command: Sequence[str],
    retry_failed: bool = False,
) -> int:
    """Runs the replicates, or what is left of them; returns the exit code of the launcher.

    Raises:
      UsageError: they can't be run.
    """
    from playbook_jax.studies import launcher

    directory = Path(workdir)
    existed = directory.exists()
    prepare(asked, directory)
    codes = []
    # The candidate's config has run before; what is wrong with the baseline's shows at once.
    for name in (BASELINE, CANDIDATE):
        if name not in asked.sides or asked.sides[name].replicates is not None:
            continue
        print(f"{name.capitalize()}: {asked.sides[name].source}")
        output = io.StringIO()
        try:
            # What a study says at its end is of trials that compete; these are all alike.
            with contextlib.redirect_stdout(output):
                code = launcher.launch(
                    directory / f"{name}_study.py",
                    directory / name,
                    launcher.Options(command, num_workers, retry_failed),
                )
        except UsageError:
            _undo(directory, existed)
            raise
        if code != trial_lib.EXIT_CODES[trial_lib.COMPLETE]:
            print(output.getvalue(), end="")
        codes.append(code)
        if code == trial_lib.EXIT_CODES[trial_lib.INTERRUPTED]:
            return code
    return max(codes, default=0)


def _undo(directory: Path, existed: bool) -> None:
    """Removes what `prepare` wrote, unless a side has started."""
    if any((directory / name / "study.json").exists() for name in SIDES):
        return
    for name in (
        FILE_NAME,
        *(f"{side}_{end}" for side in SIDES for end in ("config.json", "study.py")),
    ):
        (directory / name).unlink(missing_ok=True)
    if not existed and not any(directory.iterdir()):
        directory.rmdir()
