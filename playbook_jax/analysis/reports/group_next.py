"""The next group as data: what the findings of its studies would change, as one config with conditions.

Each study's own findings change its own search spaces and fixed values, as `next_draft` says. Where all
studies then agree, the config has a plain name; where they do not, a name for each space, under the condition
of the scientific values that have it. What a comparison must share, such as the number of steps, is never
changed for one study alone: the largest number that any of them keeps or asks for holds for all.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from playbook_jax.analysis.data.groups import Group, Member
from playbook_jax.analysis.findings import Finding
from playbook_jax.analysis.reports import next_draft
from playbook_jax.analysis.reports.next_draft import Change, Draft
from playbook_jax.studies.space import conditions

STEPS = "max_train_steps"
_SHARED = "all studies of a group must share it to be compared"


def draft(group: Group, found: Mapping[str, list[Finding]]) -> Draft | None:
    """Returns the next group, or None where a study of it cannot be read: its spaces are not known.

    Args:
      group: the group.
      found: the findings of each study by the member's name.
    """
    if any(member.study is None for member in group.members):
        return None
    drafts = [next_draft.draft(m.study, found[m.name]) for m in group.members]
    for index, made in enumerate(drafts):
        drafts[index] = dataclasses.replace(
            made, fixed={k: v for k, v in made.fixed.items() if not _asked(group, k)}
        )
    merged = _Merged(group, drafts)
    first = drafts[0]
    result = Draft(
        roles={
            "scientific": {h.name: h.space.to_dict() for h in group.scientific},
            "nuisance": merged.members([made.roles["nuisance"] for made in drafts]),
        },
        fixed=merged.members([made.fixed for made in drafts]),
        algorithm=first.algorithm,
        num_trials=max(made.num_trials or 0 for made in drafts) or None,
        seed=first.seed,
        trials_note=next((made.trials_note for made in drafts if made.trials_note), ""),
    )
    for index, (member, made) in enumerate(zip(group.members, drafts, strict=True)):
        result.changes += [merged.change(index, member, c) for c in made.changes]
        result.optional += [merged.change(index, member, c) for c in made.optional]
        result.refused += [merged.change(index, member, c) for c in made.refused]
        result.left += [_of(member, finding) for finding in made.left]
    return _with_one_length(group, result, drafts)


def _asked(group: Group, name: str) -> bool:
    return conditions.path(name) in {h.name for h in group.scientific}


class _Merged:
    """The names that the hyperparameters of the studies have in one config."""

    def __init__(self, group: Group, drafts: Sequence[Draft]) -> None:
        self._group, self._drafts = group, drafts
        # The name in the config, by the member's place and the name in its study.
        self._names: dict[tuple[int, str], str] = {}

    def members(self, of: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns a role's members of all studies under the names that they have in one config."""
        result: dict[str, Any] = {}
        for name in dict.fromkeys(name for members in of for name in members):
            for value, places in _equal(name, of):
                for held in self._conditions(places):
                    key = _key(name, held, value)
                    result[key] = _unconditional(value)
                    for place in places:
                        if _holds(held, self._group.members[place]):
                            self._names[place, name] = key
        return result

    def change(self, place: int, member: Member, change: Change) -> Change:
        """Returns a change of one study as one of the group's config."""
        name = change.proposal.name
        own = _key(name, self._condition([place]), change.after)
        key = self._names.get((place, name), own)
        return dataclasses.replace(
            change,
            proposal=dataclasses.replace(change.proposal, name=key),
            text=f"For {member.label}: {change.text[:1].lower()}{change.text[1:]}",
            after=_unconditional(change.after),
        )

    def _conditions(self, places: Sequence[int]) -> list[dict[str, list[Any]]]:
        """Returns conditions, one of which holds in each of these studies, and none in the others."""
        if len(places) == len(self._group.members):
            return [{}]
        together = self._condition(places)
        holding = [i for i, m in enumerate(self._group.members) if _holds(together, m)]
        return [together] if holding == list(places) else [self._condition([p]) for p in places]

    def _condition(self, places: Sequence[int]) -> dict[str, list[Any]]:
        held = {}
        for h in self._group.scientific:
            values = [self._group.members[place].values[h.name] for place in places]
            listed = [v for v in h.space.to_dict()["values"] if _plain(v) in map(_plain, values)]
            if len(listed) < len(h.space.values):
                held[h.name] = listed
        return held


def _equal(name: str, of: Sequence[Mapping[str, Any]]) -> list[tuple[Any, list[int]]]:
    """Returns each value that a name has, with the places where it has it."""
    found: list[tuple[Any, list[int]]] = []
    for place, members in enumerate(of):
        if name in members:
            same = next((places for value, places in found if value == members[name]), None)
            if same is None:
                found.append((members[name], [place]))
            else:
                same.append(place)
    return found


def _holds(held: Mapping[str, list[Any]], member: Member) -> bool:
    return all(_plain(member.values[name]) in map(_plain, given) for name, given in held.items())


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _key(name: str, held: Mapping[str, list[Any]], value: Any) -> str:
    """Returns a name under a condition on scientific values, besides those that it has already."""
    when = value.get("when", {}) if isinstance(value, Mapping) else {}
    stem = conditions.stem(name) if when else name
    return conditions.key(stem, {**when, **held})


def _unconditional(value: Any) -> Any:
    """Returns a search space without its condition, which is in its name."""
    if isinstance(value, Mapping):
        return {key: part for key, part in value.items() if key != "when"}
    return value


def _of(member: Member, finding: Finding) -> Finding:
    return dataclasses.replace(finding, answer=f"{member.label}: {finding.answer}")


def _with_one_length(group: Group, made: Draft, drafts: Sequence[Draft]) -> Draft:
    """Returns the draft in which no study alone is given other settings than those of optimization.

    Of numbers of steps the largest holds for all; anything else stays as it was.
    """
    tuned = {conditions.path(h.name) for h in group.joined.hyperparameters}

    def shared(change: Change) -> bool:
        name = change.proposal.name
        apart = "@" in name and not name.startswith("hparams.")
        return apart and conditions.path(name) not in tuned

    moved = [change for change in made.changes if shared(change)]
    paths = dict.fromkeys(conditions.path(change.proposal.name) for change in moved)
    fixed = {key: value for key, value in made.fixed.items() if conditions.path(key) not in paths}
    for path in paths:
        before = group.members[0].study.specification.get("fixed", {})
        fixed |= {path: before[path]} if path in before else {}
    longest = max(map(_steps, group.members, drafts))
    refused, kept = [], [change for change in made.changes if not shared(change)]
    for change in moved:
        if conditions.path(change.proposal.name) == STEPS and change.after == longest:
            fixed[STEPS] = longest
            kept.append(_plainly(change))
        else:
            refused.append(dataclasses.replace(change, refused=_SHARED))
    optional = [change for change in made.optional if not shared(change)]
    optional += _largest([c for c in made.optional if shared(c)], len(group.members))
    refused = [*made.refused, *refused]
    return dataclasses.replace(made, fixed=fixed, changes=kept, optional=optional, refused=refused)


def _plainly(change: Change) -> Change:
    """Returns a change without a condition."""
    name = conditions.path(change.proposal.name)
    return dataclasses.replace(change, proposal=dataclasses.replace(change.proposal, name=name))


def _largest(changes: Sequence[Change], studies: int) -> list[Change]:
    """Returns, of what every study would change, the change to the largest number."""
    by_path: dict[str, list[Change]] = {}
    for change in changes:
        if isinstance(change.after, int | float):
            by_path.setdefault(conditions.path(change.proposal.name), []).append(change)
    return [
        _plainly(max(those, key=lambda change: change.after))
        for those in by_path.values()
        if len(those) == studies
    ]


def _steps(member: Member, made: Draft) -> float:
    steps = made.fixed.get(STEPS, member.study.base(STEPS))
    return steps if isinstance(steps, int) else -math.inf
