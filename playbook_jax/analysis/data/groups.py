"""The studies of a group as one: what is asked of a group is answered by all of its studies together.

A group has a study for each scientific value (see studies/group.py). As one study, the values are those of
a scientific hyperparameter again, and what has other bounds from study to study is as many hyperparameters.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from etils import epath

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import hyperparameters, study as study_lib, thresholds
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.retrain_noise import RetrainNoise
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.stats import isolation
from playbook_jax.errors import UsageError
from playbook_jax.studies.arms import label
from playbook_jax.tracking import stored_format

FILE_NAME = "group.json"
# Trials of the study itself keep their numbers, by which the page lights them up; trial 7 of the third study
# has the number 3,000,007.
SPAN = 1_000_000
ARM = "combination"  # of values, where several hyperparameters are scientific


@dataclasses.dataclass(frozen=True)
class Member:
    """A study of a group.

    Attributes:
      name: its directory's.
      values: of the scientific hyperparameters.
      label: what to call it: "adam", "num_layers 3".
      study: what lies there; None where that cannot be compared with the others.
      problem: why not; empty where it can.
    """

    name: str
    values: dict[str, Any]
    label: str
    study: Study | None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Group:
    """A group.

    Attributes:
      directory: where it lies.
      stored: as `group.json` has it.
      scientific: what is compared.
      members: its studies, in their order.
    """

    directory: epath.Path
    stored: dict[str, Any]
    scientific: tuple[Hyperparameter, ...]
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        """What tables call it."""
        return str(self.stored.get("name") or self.directory.name)

    @property
    def read(self) -> list[tuple[int, Member]]:
        """The members that can be compared, with their places."""
        return [(i, m) for i, m in enumerate(self.members) if m.study is not None]

    @property
    def objective(self) -> dict[str, str]:
        """The metric, and whether less or more of it is better: "min" or "max"."""
        return self.stored["objective"]

    @functools.cached_property
    def joined(self) -> Study:
        """All trials as one study: a hyperparameter with another space from study to study is several."""
        return self._as_study(apart=True)

    @functools.cached_property
    def flat(self) -> Study:
        """Like `joined`, with the hyperparameters' own names: each once, with the first one's space."""
        return self._as_study(apart=False)

    @functools.cached_property
    def arms(self) -> tuple[Study, Hyperparameter]:
        """All trials as one study, and the one scientific hyperparameter that tells its studies apart.

        With several scientific hyperparameters, the combinations of their values are those of one.
        """
        if len(self.scientific) == 1:
            return self.joined, self.scientific[0]
        names = [member.label for member in self.members]
        one = hyperparameters.parse(ARM, "scientific", {"values": names})
        nuisance = [h for h in self.joined.hyperparameters if h.role != "scientific"]
        trials = [
            dataclasses.replace(t, parameters={**t.parameters, ARM: names[place(t)]})
            for t in self.joined.trials
        ]
        study = dataclasses.replace(
            self.joined, hyperparameters=(one, *nuisance), trials=tuple(trials)
        )
        return study, one

    def _as_study(self, apart: bool) -> Study:
        found, trials = _united(self, {i: offset(i) for i, _ in self.read}, apart)
        described = {k: v for k, v in self.stored.items() if k != "studies"} | {"shape": "group"}
        if not self.read:
            return Study(self.directory, described, self.scientific, ())
        first = self.read[0][1].study
        return dataclasses.replace(
            first,
            directory=self.directory,
            specification=first.specification | described,
            hyperparameters=(*self.scientific, *found),
            trials=tuple(trials),
            retrain=self.retrain,
        )

    @property
    def retrain(self) -> RetrainNoise | None:
        """The retrain noise of the study where it is largest: a difference must be above it anywhere."""
        known = [(m.study.retrain, m.label) for _, m in self.read if m.study.retrain is not None]
        if not known:
            return None
        noise, name = max(known, key=lambda pair: pair[0].sd)
        # Its trial has another number among those of all studies.
        return dataclasses.replace(noise, trial=None, name=f"the best of {name}")


def is_group(directory: epath.PathLike) -> bool:
    """Says whether a directory holds a group, and not a study."""
    return (epath.Path(directory) / FILE_NAME).exists()


def load(directory: epath.PathLike, known: Study | None = None, analysis_config: str = "") -> Group:
    """Returns the group in a directory; what cannot be read of it is among what it says.

    Args:
      directory: of the group.
      known: one of its studies, if it has been read already.
      analysis_config: a file with thresholds that are not the default; empty for none.

    Raises:
      UsageError: there is no group, `group.json` is damaged, or the analysis config cannot be.
    """
    directory = epath.Path(directory)
    path = directory / FILE_NAME
    stored = trial_lib.read_json(path)
    if stored is None and not path.exists():
        raise UsageError(f"{directory} holds no group: it has no {FILE_NAME}")
    stored_format.refuse_newer(path, stored, stored_format.GROUP)
    try:
        rows = [(str(row["directory"]), dict(row["values"])) for row in stored["studies"]]
        scientific = tuple(_scientific(name, rows) for name in stored["scientific"])
        if any(values.keys() != stored["scientific"].keys() for _, values in rows):
            raise ValueError("a study's values are not those of the scientific hyperparameters")
    except (LookupError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise UsageError(
            f"{path} is damaged ({type(error).__name__}: {error}); restore it, or start the group in "
            "another --workdir"
        ) from error
    if analysis_config:
        thresholds.load(analysis_config)  # that it cannot be read is no fault of a study
    members = [_member(directory / name, values, known, analysis_config) for name, values in rows]
    found = [m.study.specification["objective"] for m in members if m.study is not None]
    objective = stored.get("objective") or (found[0] if found else None)
    if not isinstance(objective, dict) or not {"metric", "mode"} <= objective.keys():
        raise UsageError(f"{path} names no objective, and no study of the group can be read")
    members = [_comparable(member, objective) for member in members]
    return Group(directory, {**stored, "objective": objective}, scientific, tuple(members))


def _scientific(name: str, rows: list[tuple[str, dict[str, Any]]]) -> Hyperparameter:
    """Returns a scientific hyperparameter with the values that have studies, each once."""
    values: list[Any] = []
    for _, given in rows:
        if given[name] not in values:
            values.append(given[name])
    return hyperparameters.parse(name, "scientific", {"values": values})


def _member(
    path: epath.Path, values: dict[str, Any], known: Study | None, analysis_config: str
) -> Member:
    words = [v if isinstance(v, str) else isolation.named(n, v) for n, v in values.items()]
    name = ", ".join(words)
    if known is not None and path == known.directory:
        return Member(path.name, values, name, known)
    try:
        return Member(path.name, values, name, study_lib.load(path, analysis_config))
    except UsageError as error:
        return Member(path.name, values, name, None, str(error))


def _comparable(member: Member, objective: Mapping[str, str]) -> Member:
    if member.study is None or dict(member.study.specification["objective"]) == dict(objective):
        return member
    problem = f"{member.study.directory} has another objective, {member.study.metric}"
    return dataclasses.replace(member, study=None, problem=problem)


def whole(study: Study) -> Study | None:
    """Returns the group of a study as one study, or None where it is in none, or a study of it is gone."""
    try:
        group = load(study.directory.parent, study, study.analysis_config)
    except UsageError:
        return None  # no group, one of before, or of foreign hands: the study itself can be read
    studies = [member.study for member in group.members]
    if any(one is None for one in studies) or all(one is not study for one in studies):
        return None
    offsets = {i: 0 if m.study is study else offset(i) for i, m in group.read}
    found, trials = _united(group, offsets, apart=True)
    return dataclasses.replace(
        study,
        specification=study.specification
        | {"goal": group.stored.get("goal"), "name": group.stored.get("name")},
        hyperparameters=(*group.scientific, *found),
        trials=tuple(trials),
        retrain=group.retrain,
    )


def _united(
    group: Group, offsets: Mapping[int, int], apart: bool
) -> tuple[list[Hyperparameter], list[Trial]]:
    """Returns the nuisance hyperparameters of all studies, and all trials, with scientific values.

    Args:
      group: the group.
      offsets: what is added to the trials' numbers, by the study's place.
      apart: whether hyperparameters that are not the same in all studies get names of their own.
    """
    common = shared(group)
    nuisance: dict[str, Hyperparameter] = {}
    trials: list[Trial] = []
    for index, member in group.read:
        suffix = f"@{label(member.values)}"
        names = {
            h.name: h.name if h.name in common or not apart else h.name + suffix
            for h in member.study.hyperparameters
        }
        for h in member.study.hyperparameters:
            nuisance.setdefault(names[h.name], dataclasses.replace(h, name=names[h.name]))
        for trial in member.study.trials:
            own = {names.get(name, name): value for name, value in trial.parameters.items()}
            trials.append(
                dataclasses.replace(
                    trial,
                    number=offsets[index] + trial.number,
                    parameters={**member.values, **own},
                )
            )
    return sorted(nuisance.values(), key=lambda h: h.name not in common), trials


def shared(group: Group) -> list[str]:
    """Returns the hyperparameters that all studies tune in the same search space."""
    studies = [member.study for _, member in group.read]
    spaces: dict[str, list[Any]] = {}
    for study in studies:
        for h in study.hyperparameters:
            spaces.setdefault(h.name, []).append(h.space)
    return [
        name
        for name, found in spaces.items()
        if len(found) == len(studies) and all(space == found[0] for space in found)
    ]


def offset(index: int) -> int:
    """Returns what is added, where studies are joined, to the trial numbers of the one at a place."""
    return (index + 1) * SPAN


def number(trial: Trial) -> int:
    """Returns the number of a trial in its own study."""
    return trial.number % SPAN


def place(trial: Trial) -> int:
    """Returns the place in the group of a trial's study, of a trial of `Group.joined`."""
    return trial.number // SPAN - 1
