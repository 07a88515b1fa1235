"""A group: a study for each value of what is asked about, run together and compared at the end.

    config.shape = "group"
    config.scientific = {"optimizer": {"values": ["nesterov", "adam"]}}

    group.json              the question, and which study has which scientific values
    group.csv               a row a study: how many trials, and its best one
    report.html             how the studies compare, written by analysis/reports/group_report.py
    optimizer=nesterov/     a study directory like any other (see directory.py)
    optimizer=adam/
    logs/                   what the workers print

In each study the scientific hyperparameters are fixed, and a condition on them has become plain: a
hyperparameter exists in a study or it does not. So the nuisance hyperparameters may differ from study to
study, each of which has `num_trials` trials. All studies use the same seed: where they search the same
space, they try the same points, and no value is luckier with its points than another.

To the launcher a group looks like one study whose trials are those of all its studies, turn by turn: they
share workers and compiled programs, and no worker waits at the end of one study.

Source: the playbook, "Creating a set of studies" ("we would make a separate study for each configuration
of the scientific parameters").
"""

import csv
import dataclasses
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies import arms, conclusion, trial_points
from playbook_jax.studies.space import conditions, grid
from playbook_jax.studies.space.samplers import LIST
from playbook_jax.studies.space.search_space import Space
from playbook_jax.studies.specification import JOINT, Specification
from playbook_jax.studies.store import directory
from playbook_jax.studies.store.directory import Status, StudyDirectory, Trials
from playbook_jax.tracking import stored_format

FORMAT = stored_format.GROUP
FILE_NAME = "group.json"
_OURS = {FILE_NAME, "group.csv", "report.html", "logs"}


@dataclasses.dataclass(frozen=True)
class Member:
    """A study of a group.

    Attributes:
      directory: the name of its directory.
      values: the scientific hyperparameters' values.
      specification: the study with these values fixed.
    """

    directory: str
    values: Mapping[str, Any]
    specification: Specification

    @property
    def settled(self) -> dict[str, Any]:
        """What is fixed in this study, and so in its trials, and perhaps not in the others of the group."""
        return {key: v for key, v in self.specification.fixed.items() if "@" not in key}


def members(specification: Specification) -> list[Member]:
    """Returns the studies of a group, one for each combination of the scientific values.

    Raises:
      UsageError: there is no scientific hyperparameter, one has no list of values, or a study is left
        with nothing to tune.
    """
    if not specification.scientific:
        raise UsageError(
            "shape 'group' makes a study for each scientific value, and nothing is scientific"
        )
    if specification.algorithm not in ("halton", "uniform"):
        raise UsageError(
            f"shape 'group' goes with 'halton' and 'uniform'; {specification.algorithm!r} has all "
            "combinations in one study (shape 'joint') already"
        )
    for key, space in specification.scientific.items():
        if space.when:
            raise UsageError(f"{key} is conditional: in a group, scientific ones always exist")
    levels = {name: grid.levels(name, space) for name, space in specification.scientific.items()}
    result: list[Member] = []
    for combination in itertools.product(*levels.values()):
        values = dict(zip(levels, combination, strict=True))
        name = _directory_name(values)
        if name in {member.directory for member in result}:
            name += f"-{len(result)}"
        result.append(Member(name, values, _with_values(specification, values)))
    return result


def _with_values(specification: Specification, values: Mapping[str, Any]) -> Specification:
    """Returns the study in which the scientific hyperparameters have these values."""
    nuisance, conditional = _resolved(specification, values)
    if not nuisance:
        raise UsageError(f"with {arms.label(values)} no hyperparameter varies: tune one there too")
    settled = {key: space.value(0.0) for key, space in conditional.items() if "@" not in key}
    always = {k: v for k, v in specification.fixed.items() if "@" not in k} | settled
    reasons = {
        key: specification.fixed_reasons[old]
        for key, old in [(k, k) for k in always] + [(k, _old(k, specification)) for k in settled]
        if old in specification.fixed_reasons
    }
    kept = {key: space for key, space in conditional.items() if "@" in key}
    return dataclasses.replace(
        specification,
        name=f"{specification.name}, {arms.label(values)}",
        scientific={},
        nuisance=nuisance,
        fixed={**values, **always, **{key: space.value(0.0) for key, space in kept.items()}},
        fixed_reasons=reasons,
        conditional_fixed=kept,
        base_config=config_lib.complete(
            config_lib.override(specification.base_config, {**values, **settled})
        ),
        shape=JOINT,
    )


def _old(path: str, specification: Specification) -> str | None:
    """Returns the key under which a conditional fixed hyperparameter has a reason, if it has one."""
    keys = [k for k in specification.conditional_fixed if conditions.path(k) == path]
    return next((key for key in keys if key in specification.fixed_reasons), None)


def _resolved(
    specification: Specification, values: Mapping[str, Any]
) -> tuple[dict[str, Space], dict[str, Space]]:
    """Returns the nuisance and the conditional fixed hyperparameters that may exist with these values.

    Conditions on the values have become plain.
    """
    nuisance, fixed = specification.nuisance, specification.conditional_fixed
    result: tuple[dict[str, Space], dict[str, Space]] = {}, {}
    for key, space in conditions.possible({**nuisance, **fixed}, values).items():
        when = tuple((parent, taken) for parent, taken in space.when if parent not in values)
        full = conditions.key(conditions.stem(key), {p: list(taken) for p, taken in when})
        result[key in fixed][full] = dataclasses.replace(space, when=when)
    return result


def _directory_name(values: Mapping[str, Any]) -> str:
    """Returns "optimizer=adam", "hidden_sizes=64x64": what every file system takes."""

    def text(value: Any) -> str:
        return "x".join(map(text, value)) if isinstance(value, tuple) else str(value)

    parts = (f"{name.rpartition('.')[2]}={text(value)}" for name, value in values.items())
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", "_".join(parts))


def open_group(
    specification: Specification, path: str | Path
) -> tuple[Specification, "GroupDirectory"]:
    """Returns a group as the launcher runs it: a study of all trials, and their directory.

    Args:
      specification: one of shape "group".
      path: the directory.

    Raises:
      UsageError: the group cannot be, or the directory holds something else or another group.
    """
    group = GroupDirectory(path, specification, members(specification))
    try:
        points = group.points()
    except UsageError:
        group.release(undo=True)
        raise
    whole = dataclasses.replace(
        specification,
        num_trials=len(points),
        algorithm=LIST,
        points=points,
        vary_seed=False,  # it is among each trial's hyperparameters, by its number in its study
        baseline=False,
        conditional_fixed={},
    )
    return whole, group


class GroupDirectory(StudyDirectory):
    """The directory of a group, locked for one launcher.

    Its trial i is trial i // m of study i % m, with m studies.
    """

    def __init__(
        self, path: str | Path, specification: Specification, studies: Sequence[Member]
    ) -> None:
        """Makes and locks the directory and those of the studies.

        Raises:
          UsageError: one can't be written, is in use, or holds something else.
        """
        self.members, self._specification = list(studies), specification
        ours = _OURS | {member.directory for member in studies}
        super().__init__(path, FILE_NAME, ours)
        self.studies: list[StudyDirectory] = []
        try:
            for member in studies:
                self.studies.append(StudyDirectory(self.path / member.directory))
            self._stored = [
                study.stored_trials(member.specification)
                for study, member in zip(self.studies, self.members, strict=True)
            ]
            self._refuse_other_values()
        except UsageError:
            self.release(undo=True)
            raise

    def _refuse_other_values(self) -> None:
        """Raises a UsageError where a started group has other studies."""
        path = self.path / FILE_NAME
        if not path.exists():
            return
        stored = trial_lib.read_json(path, {})
        problem = f"{path} cannot be read as a group; use another --workdir"
        stored_format.check(path, stored, FORMAT, problem)
        try:
            old = [str(study["directory"]) for study in stored["studies"]]
        except (LookupError, TypeError) as error:
            raise UsageError(problem) from error
        new = [member.directory for member in self.members]
        started = any((self.path / name / "trials").is_dir() for name in old)
        if started:
            self.lanes = stored_format.lanes(stored)
        if started and old != new:
            raise UsageError(
                f"{self.path} holds trials of another group (of {', '.join(old)}); use another --workdir "
                "(a started group accepts a larger num_trials and nothing else)"
            )

    def release(self, undo: bool = False) -> None:
        """Lets go of the locks; with `undo`, removes the directories that this process made."""
        for study in self.studies:
            study.release(undo)
        super().release(undo)

    def points(self) -> list[dict[str, Any]]:
        """Returns the hyperparameters of all trials: also what their study has fixed, and a varied `seed`."""
        columns = [
            [
                {**member.settled, **self._seed(member, number), **parameters}
                for number, parameters in enumerate(
                    trial_points.points(member.specification, [row["parameters"] for row in stored])
                )
            ]
            for member, stored in zip(self.members, self._stored, strict=True)
        ]
        return [point for turn in zip(*columns, strict=True) for point in turn]

    def _seed(self, member: Member, number: int) -> dict[str, int]:
        if not member.specification.vary_seed:
            return {}
        return {"seed": (member.specification.base_config.seed + number) % 2**32}

    def trial_directory(self, trial: int) -> Path:
        """Returns where a trial lies: optimizer=adam/trials/007."""
        study, number = self._place(trial)
        return study.trial_directory(number)

    def _place(self, trial: int) -> tuple[StudyDirectory, int]:
        number, index = divmod(trial, len(self.studies))
        return self.studies[index], number

    def stored_trials(self, specification: Specification) -> Trials:
        """Returns the trials that a started group holds; none where it has not started.

        A study of which no trial has started yet counts as begun as soon as another one has.
        """
        count = max(map(len, self._stored)) * len(self.studies)
        return [
            {"trial": trial, "parameters": dict(point)}
            for trial, point in enumerate(specification.points[:count])
        ]

    def write(self, specification: Specification, trials: Trials) -> None:
        """Writes `group.json` and each study's `study.json`, before the first trial starts."""
        asked = self._specification
        described = asked.to_dict()
        keys = ("name", "goal", "objective", "num_trials", "algorithm", "seed", "scientific")
        group = {
            **self.head,
            **{key: described[key] for key in keys},
            "studies": [
                {"directory": member.directory, "values": dict(member.values)}
                for member in self.members
            ],
        }
        old = trial_lib.read_json(self.path / FILE_NAME, {"studies": []})
        trial_lib.write_json(self.path / FILE_NAME, group)
        self._remove_replaced(old)
        for index, (study, member) in enumerate(zip(self.studies, self.members, strict=True)):
            study.lanes = self.lanes
            study.write(member.specification, self.trials_of(index, trials))

    def _remove_replaced(self, old: Mapping[str, Any]) -> None:
        """Removes the studies, none of which has started, of the group that this one replaces."""
        kept = {member.directory for member in self.members}
        for name in {study["directory"] for study in old["studies"]} - kept:
            (self.path / name / "study.json").unlink(missing_ok=True)
            if (self.path / name).is_dir() and not any((self.path / name).iterdir()):
                (self.path / name).rmdir()

    def trials_of(self, index: int, trials: Trials) -> Trials:
        """Returns the trials of one study, with its own numbers and without what it has fixed."""
        added = {*self.members[index].settled}
        if self.members[index].specification.vary_seed:
            added |= {"seed"}
        return [
            {
                "trial": number,
                "parameters": {k: v for k, v in row["parameters"].items() if k not in added},
            }
            for number, row in enumerate(trials[index :: len(self.studies)])
        ]

    def statuses_of(self, index: int, statuses: Mapping[int, Status]) -> dict[int, Status]:
        """Returns the statuses of one study's trials, by its own numbers."""
        count = len(self.studies)
        return {t // count: s for t, s in sorted(statuses.items()) if t % count == index}

    def write_table(self, trials: Trials, statuses: Mapping[int, Status]) -> None:
        """Writes each study's `study.csv`, and `group.csv`: a row a study."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = list(self.members[0].values)
        states = trial_lib.STATES
        writer.writerow(["study", *names, *states, "best_trial", "best_step", "objective"])
        for index, study in enumerate(self.studies):
            own = self.statuses_of(index, statuses)
            study.write_table(self.trials_of(index, trials), own)
            best = directory.best(own, self._specification.objective["mode"])
            result = own.get(best, trial_lib.new_status())
            counts = [sum(s["state"] == state for s in own.values()) for state in states]
            values = self.members[index].values.values()
            writer.writerow(
                [
                    directory.cell(self.members[index].directory),
                    *map(directory.cell, values),
                    *counts,
                    best,
                    result["best_step"],
                    result["objective"],
                ]
            )
        trial_lib.write_text(self.path / "group.csv", text.getvalue())


def conclude(
    group: GroupDirectory,
    specification: Specification,
    trials: Trials,
    statuses: Mapping[int, Status],
    command: Sequence[str],
) -> bool:
    """Concludes each study as if it had run alone, and compares them: in a report, and in print.

    Args:
      group: the directory.
      specification: the group, as `open_group` gives it.
      trials: all trials.
      statuses: their statuses, by trial.
      command: what started the launcher.

    Returns:
      Whether all reports could be written, that of the group among them.
    """
    reported, lines = True, []
    mode, metric = (specification.objective[key] for key in ("mode", "metric"))
    for index, (study, member) in enumerate(zip(group.studies, group.members, strict=True)):
        own = group.statuses_of(index, statuses)
        rows = group.trials_of(index, trials)
        reported &= conclusion.sum_up(study, member.specification, rows, own, command)
        print()
        best = directory.best(own, mode)
        result = "no trial is COMPLETE"
        if best is not None:
            result = f"{metric} {own[best]['objective']:.4g} (trial {best} of {len(own)})"
        lines.append((member.directory, result))
    group.write_table(trials, statuses)
    width = max(len(name) for name, _ in lines)
    print(f"{specification.name}, the best of each study:")
    for name, result in lines:
        print(f"  {name:<{width}}  {result}")
    print(f"Studies: {group.path}")
    reported &= conclusion.report(group.path, Path(command[0]))
    conclusion.write_ledger(group.path)  # once for all: the index links the group's report
    return reported
