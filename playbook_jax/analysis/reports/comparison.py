"""Studies of one objective over time: what was changed from one to the next, and did it help?

Each study is to this module what a study of a group is to `groups`, with "study" as what is compared; the
studies of a group are taken one by one. Source: playbook, "The incremental tuning strategy" and
"Extracting insight from experimental results" (refine the study, run it again, judge anew).
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath

from playbook_jax.analysis.data import formatting, groups, hyperparameters, study as study_lib
from playbook_jax.analysis.data.groups import Group, Member
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.study_changes import BUDGET, ELSE, LENGTH, Change, changes
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK, Finding, Question, isolation
from playbook_jax.analysis.stats.fairness import ABOVE, Doubt
from playbook_jax.errors import UsageError
from playbook_jax.studies.space.search_space import Range, Space, Values

STUDY = "study"
# Any first ones of these trials are a study of their own: see samplers.py.
PREFIXED = ("halton", "uniform")
SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Pair:
    """A study and the one before.

    Attributes:
      old: the place of the one before among all studies.
      new: the place of the study.
      equal: both with the first trials that ended, as many of each; with all, where the first ones of their
        points are no study of their own.
    """

    old: int
    new: int
    equal: Group


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Studies of one objective, the earliest first.

    Attributes:
      group: the studies as a group has them.
      equal: the same with the first `number` trials of each.
      pairs: each study but the earliest, with the one before.
    """

    group: Group
    equal: Group
    pairs: tuple[Pair, ...]

    @property
    def number(self) -> int:
        """How many ended trials the study with the fewest has."""
        return min(len(member.study.ended) for member in self.group.members)


def load(directories: Sequence[epath.PathLike]) -> Comparison:
    """Returns the studies in the directories, which are compared in their order.

    Each study of a group is compared with the study of the same scientific values in the group before, or
    else with the best of what was before.

    Raises:
      UsageError: there are fewer than two, one is no study, or their objectives differ.
    """
    paths = [epath.Path(directory) for directory in directories]
    resolved = [str(path) if "://" in str(path) else str(Path(path).resolve()) for path in paths]
    if len(set(resolved)) < max(2, len(paths)):
        raise UsageError("give two or more different directories of studies to compare")
    rounds = [_read(path, name) for path, name in zip(paths, _names(resolved), strict=True)]
    found = [named for studies in rounds for named in studies]
    _refuse_other_objectives([named.study for named in found])
    pairs, before = [], 0
    for old, new in itertools.pairwise(rounds):
        begin = before + len(old)
        for index, named in enumerate(new):
            place = before + _counterpart(named, old)
            pairs.append(Pair(place, begin + index, _equal([found[place], named])))
        before = begin
    return Comparison(_group(found), _equal(found), tuple(pairs))


@dataclasses.dataclass(frozen=True)
class _Named:
    """A study, what to call it, and the scientific values that it has in its group, if in one."""

    name: str
    label: str
    study: Study


def _counterpart(named: _Named, old: Sequence[_Named]) -> int:
    """Returns the place of the study before with the same values, or else of the best one."""
    same = [place for place, one in enumerate(old) if one.label == named.label]
    sign = -1 if named.study.maximize else 1
    bests = [
        (sign * o.study.best.objective, i) for i, o in enumerate(old) if o.study.best is not None
    ]
    return (same or [min(bests, default=(0, 0))[1]])[0]


def _refuse_other_objectives(studies: Sequence[Study]) -> None:
    """Raises a UsageError where two objectives differ."""
    first, *others = studies
    for other in others:
        if dict(other.specification["objective"]) != dict(first.specification["objective"]):
            each = [
                f"{s.directory} has {s.metric} ({s.specification['objective']['mode']})"
                for s in (first, other)
            ]
            raise UsageError(
                f"the objectives differ, so the best values cannot be compared: {' and '.join(each)}"
            )


def _equal(found: Sequence[_Named]) -> Group:
    number = min(len(named.study.ended) for named in found)
    return _group([dataclasses.replace(n, study=_first(n.study, number)) for n in found])


def _names(paths: Sequence[str]) -> list[str]:
    """Returns what to call directories: the last part of each, and as many more as tell them apart."""
    parts = [path.rstrip("/").split("/") for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _read(path: epath.Path, name: str) -> list[_Named]:
    if not groups.is_group(path):
        return [_Named(name, "", study_lib.load(path))]
    group = groups.load(path)
    if not group.read:
        raise UsageError(f"{path} is a group of which no study can be read")
    return [_Named(f"{name}, {m.label}", m.label, m.study) for _, m in group.read]


def _group(found: Sequence[_Named]) -> Group:
    first = found[0].study
    names = [named.name for named in found]
    members = tuple(Member(n.study.directory.name, {STUDY: n.name}, n.name, n.study) for n in found)
    compared = hyperparameters.parse(STUDY, "scientific", {"values": names})
    stored = {"name": " and ".join(names), "objective": dict(first.specification["objective"])}
    return Group(first.directory, stored, (compared,), members)


def _first(study: Study, number: int) -> Study:
    """Returns a study with its first so many ended trials, if these are a study of their own."""
    if study.specification.get("algorithm") not in PREFIXED:
        return study
    return dataclasses.replace(study, trials=tuple(study.ended[:number]))


def with_common_axes(group: Group) -> Group:
    """Returns the studies on axes that hold the search spaces of all, where their scales are the same."""
    spaces: dict[str, list[Space]] = {}
    for _, member in group.read:
        for h in member.study.hyperparameters:
            spaces.setdefault(h.name, []).append(h.space)
    common = {name: _union(found) for name, found in spaces.items()}
    members = []
    for member in group.members:
        axes = tuple(
            dataclasses.replace(h, space=common[h.name] or h.space)
            for h in member.study.hyperparameters
        )
        study = dataclasses.replace(member.study, hyperparameters=axes)
        members.append(dataclasses.replace(member, study=study))
    return dataclasses.replace(group, members=tuple(members))


def _union(spaces: Sequence[Space]) -> Space | None:
    first = spaces[0]
    if all(isinstance(space, Range) for space in spaces):
        if len({(space.scale, space.type) for space in spaces}) > 1:
            return None
        low, high = min(s.low for s in spaces), max(s.high for s in spaces)
        return dataclasses.replace(first, low=low, high=high)
    if all(isinstance(space, Values) for space in spaces):
        values = dict.fromkeys(value for space in spaces for value in space.values)
        return dataclasses.replace(first, values=tuple(values))
    return None


def check(compared: Comparison) -> list[Finding]:
    """Returns whether the studies ask the same question, and for each whether it is better than before."""
    doubts, judged = [], []
    for pair in compared.pairs:
        old, new = (compared.group.members[place].study for place in (pair.old, pair.new))
        own = _doubts(changes(old, new)) + _unequal(pair)
        doubts += [doubt for doubt in own if doubt not in doubts]
        judged.append(_judged(pair, own))
    return [_same(doubts), *judged]


def _judged(pair: Pair, doubts: Sequence[Doubt]) -> Finding:
    found = isolation.of(*pair.equal.arms, [ABOVE] if doubts else [])
    sizes = _sizes(pair.equal)
    told = f"Compared are the first {formatting.plural(sizes[0], 'trial')} of each that ended."
    if len(sizes) > 1:
        told = f"Compared are {formatting.join(sizes)} trials."
    action = found.action
    if not doubts and action and found.verdict == CANNOT_TELL:
        action = "Run more trials of both, or train the best of each again with other seeds."
    old, new = (member.label for member in pair.equal.members)
    return dataclasses.replace(
        found,
        question=f"Is {new} better than {old}?",
        evidence=(told, *found.evidence),
        action=action,
        proposals=(),
    )


def _sizes(group: Group) -> list[int]:
    return sorted({len(member.study.ended) for member in group.members})


def _doubts(changed: Sequence[Change]) -> list[Doubt]:
    told = []
    other = [change for change in changed if change.kind == ELSE]
    if other:
        each = [f"{c.path} ({c.before} → {c.after})" for c in other]
        text = (
            "The base configs differ in what neither study tunes or names, so it is not the same question: "
            f"{formatting.some(each, SHOWN)}."
        )
        told.append(Doubt(text, "Run one of them again from the other's base config."))
    for change in changed:
        if change.kind == LENGTH and change.path in BUDGET:
            text = (
                f"{change.path} is {change.after} and was {change.before}: that alone may change the "
                "objective."
            )
            told.append(Doubt(text, f"Compare them at the same {change.path}."))
    return told


def _unequal(pair: Pair) -> list[Doubt]:
    sizes = _sizes(pair.equal)
    if len(sizes) < 2:
        return []
    text = (
        f"One has {formatting.plural(sizes[0], 'trial')} and another {sizes[-1]}, and of points that were "
        "listed the first ones are no study of their own: of more trials the best is better."
    )
    return [Doubt(text, "Compare studies of as many trials.")]


def _same(doubts: Sequence[Doubt]) -> Finding:
    if not doubts:
        text = "The studies differ in search spaces, in fixed values that they name and in points alone."
        return _finding(FINE, text)
    actions = " ".join(dict.fromkeys(doubt.action for doubt in doubts))
    return _finding(LOOK, doubts[0].text, [doubt.text for doubt in doubts[1:]], actions)


def good_region(study: Study, h: Hyperparameter, tolerance: float) -> list[Any]:
    """Returns the values that the trials in the good region have, the lowest first."""
    if study.best is None:
        return []
    costs = study.costs(study.ranked)
    values = [
        trial.parameters[h.name]
        for trial, cost in zip(study.ranked, costs, strict=True)
        if cost <= costs[0] + tolerance and h.name in trial.parameters
    ]
    return sorted(values) if h.ordered else list(dict.fromkeys(map(str, values)))


_finding = Question(
    "Do the studies ask the same question?",
    "Extracting insight from experimental results",
    advice=(
        "A later study answers for an earlier one where only the search has changed. Where something else "
        "has, the difference between the best trials is that of both changes together."
    ),
    figures=("study-changes",),
    playbook=("studies-over-time",),
).finding
