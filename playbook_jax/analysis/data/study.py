"""A study directory as pure data: what was asked, and what every trial came to.

Reads files only. Whatever has happened to the directory (a trial deleted, a file cut short, trials
still running) is in the data, as a trial's state and reason, and never an error: only a directory
that holds no study is refused.
"""

import csv
import dataclasses
import functools
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import (
    failed,
    formatting,
    hyperparameters,
    retrain_noise,
    step_records,
    thresholds,
)
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.retrain_noise import RetrainNoise
from playbook_jax.analysis.data.step_records import StepRecords
from playbook_jax.errors import UsageError
from playbook_jax.studies.space import conditions, reparameterized
from playbook_jax.studies.store import stored as stored_lib
from playbook_jax.studies.store.stored import UNREADABLE
from playbook_jax.tracking import stored_format

# A state that only a reader of files sees, as UNREADABLE: the directory of a trial that had ended is gone.
MISSING = "MISSING"
STATES = (*trial_lib.STATES, MISSING, UNREADABLE)
ROLES = ("scientific", "nuisance")
LEADERS = 3  # "the best few": as many as the playbook's figures star


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one trial came to.

    Attributes:
      number: its number in the study.
      parameters: its hyperparameters by path; conditional ones only where they exist.
      state: one of STATES.
      reason: why it is in that state, or empty.
      step: how many updates it has made.
      best_step: where its objective was best, or None.
      objective: the best value of the study's metric, or None; a number for COMPLETE trials only.
      unlearned: whether it is COMPLETE with a training loss that ended about where it began.
      outlying: whether it is COMPLETE with an objective far outside those of the others.
      evaluations: every metric, and `step`, as arrays of one length, thinned; NaN where not finite.
      records: what was recorded at each step; every single one only of the best few.
      timing: what `clock.totals` says of the run, where it was measured.
      model_size: how many parameters the model has, or None.
      imported: the study that it was run in, if that is another one.
    """

    number: int
    parameters: dict[str, Any]
    state: str
    reason: str = ""
    step: int = 0
    best_step: int | None = None
    objective: float | None = None
    unlearned: bool = False
    outlying: bool = False
    evaluations: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    records: StepRecords = dataclasses.field(default_factory=StepRecords)
    timing: dict[str, float] = dataclasses.field(default_factory=dict)
    model_size: int | None = None
    imported: str = ""

    @property
    def failed(self) -> bool:
        """Whether it failed to train, in whatever way: see `failed`."""
        return failed.to_train(self.state, self.unlearned, self.outlying)


@dataclasses.dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
      directory: where it lies.
      specification: as `study.json` has it.
      hyperparameters: those that vary, scientific ones first. Of replicates, which differ by their seeds
        alone, none: a seed is nothing that one could choose.
      trials: all of them, in their order.
      thresholds: what checks judge it by where that is not the default, see `thresholds`.
      analysis_config: the file that says so; empty for none.
      retrain: by how much its best trial scatters where it is trained again; None where that is not known.
    """

    directory: epath.Path
    specification: dict[str, Any]
    hyperparameters: tuple[Hyperparameter, ...]
    trials: tuple[Trial, ...]
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    analysis_config: str = ""
    retrain: RetrainNoise | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        return str(self.specification.get("name") or self.directory.name)

    @property
    def goal(self) -> str:
        """The question, in words."""
        return str(self.specification.get("goal") or "")

    @property
    def metric(self) -> str:
        """The objective's name, "validation/error_rate"."""
        return self.specification["objective"]["metric"]

    @property
    def maximize(self) -> bool:
        """Whether more is better."""
        return self.specification["objective"]["mode"] == "max"

    def base(self, path: str, default: Any = None) -> Any:
        """Returns a value of the base config by its dotted path."""
        value = self.specification.get("base_config")
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return default if value is None else value

    def value(self, trial: Trial, path: str, default: Any = None) -> Any:
        """Returns a value of a trial's config: its own, conditional or of an axis, or the base config's."""
        own = trial.parameters
        if path not in own and path in map(conditions.path, own):
            own = reparameterized.config_values(own, self.specification.get("base_config") or {})
        return own.get(path, self.base(path, default))

    def varying(self, path: str) -> list[Hyperparameter]:
        """Returns what varies a value of the config, under whatever condition."""
        return [h for h in self.hyperparameters if conditions.path(h.name) == path]

    def provenance(self, number: int) -> dict[str, Any]:
        """Returns what is known of how a trial was run; empty where nothing is."""
        return trial_lib.Trial(_trial_directory(self.directory, number), {}, {}).provenance

    def of_state(self, *states: str) -> list[Trial]:
        """Returns the trials in any of the states."""
        return [trial for trial in self.trials if trial.state in states]

    @functools.cached_property
    def ranked(self) -> list[Trial]:
        """The COMPLETE trials, the best first, the earlier first on a tie; those that failed last."""
        sign = -1 if self.maximize else 1
        complete = self.of_state(trial_lib.COMPLETE)
        return sorted(complete, key=lambda t: (t.failed, sign * t.objective, t.number))

    @functools.cached_property
    def group(self) -> "Study | None":
        """All studies of its group as one, where it is in a group; see `groups.whole`."""
        from playbook_jax.analysis.data import groups

        return groups.whole(self)

    @property
    def baseline(self) -> Trial | None:
        """Trial 0 where it has the base config's own hyperparameters, and was not drawn like the others."""
        asked = self.specification.get("baseline") is True
        return next((t for t in self.trials if asked and t.number == 0), None)

    @functools.cached_property
    def drawn(self) -> "Study":
        """The study without its baseline: what may be resampled, or compared with chance."""
        from playbook_jax.analysis.data import groups

        if self.specification.get("baseline") is not True:
            return self
        # Of a group, each study has one.
        trials = tuple(t for t in self.trials if groups.number(t) != 0)
        return dataclasses.replace(self, trials=trials)

    @property
    def is_replicates(self) -> bool:
        """Whether the trials are runs of one configuration, which differ by their seeds alone."""
        names = [name for role in ROLES for name in self.specification.get(role) or {}]
        return bool(names) and all(map(hyperparameters.is_seed, names))

    def more_trials(self, number: str) -> str:
        """Returns in words how the study is given more trials: as the launcher takes them."""
        algorithm = self.specification.get("algorithm")
        if algorithm == "list":
            return "new points at the end of the list, and the same study goes on"
        if algorithm == "grid":
            return "in a new study with algorithm 'halton': a grid has as many as it has points"
        return f"num_trials = {number} in the same study goes on"

    @property
    def ended(self) -> list[Trial]:
        """The trials that came to an end that says something of training: COMPLETE or INFEASIBLE."""
        return self.of_state(trial_lib.COMPLETE, trial_lib.INFEASIBLE)

    @property
    def failures(self) -> list[Trial]:
        """The trials that failed to train: INFEASIBLE, unlearned, or far outside the others."""
        return [t for t in self.trials if t.failed]

    @property
    def learned(self) -> list[Trial]:
        """The COMPLETE trials that trained, the best first."""
        return [trial for trial in self.ranked if not trial.failed]

    @property
    def leaders(self) -> list[Trial]:
        """The best few."""
        return self.ranked[:LEADERS]

    @property
    def contenders(self) -> list[Trial]:
        """Those of the best few that trained; the best few as they are where no trial did."""
        return [t for t in self.leaders if not t.failed] or self.leaders

    @property
    def best(self) -> Trial | None:
        """The best of the COMPLETE trials."""
        return self.ranked[0] if self.ranked else None

    @property
    def unfinished(self) -> list[Trial]:
        """The trials that the launcher has still to start or to end."""
        return self.of_state(trial_lib.PENDING, trial_lib.RUNNING, trial_lib.INTERRUPTED)

    def costs(self, trials: list[Trial]) -> np.ndarray:
        """Returns the trials' objectives, turned so that less is better."""
        sign = -1 if self.maximize else 1
        return sign * np.array([trial.objective for trial in trials], float)


def load(
    directory: epath.PathLike, analysis_config: str = "", replicates: str | None = None
) -> Study:
    """Returns the study in `directory`.

    Args:
      directory: the --workdir of scripts/launch_study.py.
      analysis_config: a file with thresholds that are not the default; empty for none.
      replicates: the --workdir of scripts/replicate.py for this study, or for another one of the same
        objective, that says how large the retrain noise is; None to look for one.

    Raises:
      UsageError: there is none, or `study.json` is damaged; or the same of the other two.
    """
    directory = epath.Path(directory)
    set_ = thresholds.load(analysis_config) if analysis_config else {}
    path = directory / "study.json"
    if not path.exists():
        kind = "holds no study: it has no study.json" if directory.exists() else "does not exist"
        raise UsageError(f"{directory} {kind}; give the --workdir of scripts/launch_study.py")
    stored = trial_lib.read_json(path)
    stored_format.refuse_newer(path, stored, stored_format.STUDY)
    try:
        if problem := stored_lib.problem(stored):
            raise ValueError(problem)
        specification = stored["specification"]
        formatting.metric_label(specification["objective"]["metric"])
        dict(specification.get("fixed", {}))
        varying = tuple(
            hyperparameters.parse(name, role, space)
            for role in ROLES
            for name, space in specification.get(role, {}).items()
        )
        rows = [(int(row["trial"]), dict(row["parameters"])) for row in stored["trials"]]
        imported = [str((row.get("imported") or {}).get("study", "")) for row in stored["trials"]]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path} is damaged ({type(error).__name__}: {error}); "
            "restore it, or run the study in another --workdir"
        ) from error
    table = _read_table(directory / "study.csv")
    unlearned = set_.get(failed.UNLEARNED.name, failed.UNLEARNED.default)
    trials = [_load_trial(directory, number, values, table, unlearned) for number, values in rows]
    trials = [
        dataclasses.replace(trial, imported=source) if source else trial
        for trial, source in zip(trials, imported, strict=True)
    ]
    objective = specification["objective"]
    trials = failed.mark(trials, objective["metric"], objective["mode"] == "max", set_)
    study = Study(directory, specification, varying, tuple(trials), set_, analysis_config)
    if study.is_replicates:
        study = dataclasses.replace(study, hyperparameters=())
    study = dataclasses.replace(study, retrain=retrain_noise.find(study, replicates))
    return _with_every_step(study)


def _with_every_step(study: Study) -> Study:
    """Returns the study with every step's record of the best few: of all trials, it would be too much."""
    leaders = {trial.number for trial in study.leaders}
    trials = [
        dataclasses.replace(
            trial,
            records=dataclasses.replace(
                trial.records,
                every=step_records.every_step(_trial_directory(study.directory, trial.number)),
            ),
        )
        if trial.number in leaders
        else trial
        for trial in study.trials
    ]
    return dataclasses.replace(study, trials=tuple(trials))


def _trial_directory(directory: epath.Path, number: int) -> epath.Path:
    return directory / "trials" / f"{number:03d}"


def _read_table(path: epath.Path) -> dict[int, dict[str, str]]:
    """Returns the rows of `study.csv` by trial: all that is left of trials that were deleted."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
    except (OSError, ValueError, csv.Error):
        return {}
    return {int(row["trial"]): row for row in rows if (row.get("trial") or "").isdecimal()}


def _load_trial(
    directory: epath.Path,
    number: int,
    parameters: dict[str, Any],
    table: Mapping[int, Any],
    unlearned_from: float,
) -> Trial:
    path = _trial_directory(directory, number)
    status_path = path / "status.json"
    status = trial_lib.read_json(status_path, {})
    if not status and not status_path.exists():
        row = table.get(number, {})
        if row.get("state") in trial_lib.FINISHED and not path.exists():
            told = f"its directory is gone; study.csv has it as {row['state']}"
            if row.get("objective"):
                told += f" with {row['objective']}"
            return Trial(number, parameters, MISSING, told)
        return Trial(number, parameters, trial_lib.PENDING)
    problem = stored_lib.status_problem(status)
    if problem:
        return Trial(number, parameters, UNREADABLE, f"status.json {problem}")
    complete = status["state"] == trial_lib.COMPLETE
    summary = trial_lib.Trial(path, {}, status).summary
    unlearned = complete and failed.unlearned(summary, unlearned_from)
    reason = failed.REASONS["unlearned"] if unlearned else ""
    return Trial(
        number,
        parameters,
        status["state"],
        str(status.get("reason") or reason),
        int(status.get("step") or 0),
        status["best_step"] if complete else None,
        float(status["objective"]) if complete else None,
        unlearned,
        evaluations=_evaluations(summary),
        records=step_records.parse(summary),
        timing=step_records.timing(path),
        model_size=_model_size(summary),
    )


def _model_size(summary: Any) -> int | None:
    size = summary.get("parameters") if isinstance(summary, dict) else None
    return size if isinstance(size, int) and size > 0 else None


def _evaluations(summary: Any) -> dict[str, np.ndarray]:
    stored = summary.get("evaluations") if isinstance(summary, dict) else None
    if not isinstance(stored, dict) or not isinstance(stored.get("step"), list):
        return {}
    columns: dict[str, np.ndarray] = {}
    for name, values in stored.items():
        try:
            column = np.array(values, float)  # null, for a number that was not finite, is NaN
        except (TypeError, ValueError):
            continue
        if column.shape == (len(stored["step"]),):
            columns[name] = column
    steps = columns.get("step", np.array([]))
    return columns if len(steps) and np.isfinite(steps).all() else {}
