"""The next study as data: which of the findings' proposals are taken, in which order, and what is left.

The order is that of `decisions`. What wants something else for the same hyperparameter is refused, and
told. What a study asks about is never narrowed or fixed: that is the answer to its question, and up to its
reader, until one of its trials is adopted.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from playbook_jax.analysis.data import formatting, hyperparameters
from playbook_jax.analysis.data.proposals import (
    ADD,
    ANSWER,
    EXTEND,
    KEEP,
    LEAVE_OUT,
    NARROW,
    SET,
    Proposal,
)
from playbook_jax.analysis.data.study import ROLES, Study
from playbook_jax.analysis.findings import ACT, LOOK, Finding, to_do
from playbook_jax.analysis.stats import decisions
from playbook_jax.errors import UsageError
from playbook_jax.studies.space import conditions, search_space
from playbook_jax.studies.space.search_space import FROM_POINTS

NAME = "next_study.py"  # the file in the study directory


class _RefusedError(Exception):
    """A proposal that is not taken. Its text says why."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A proposal and what becomes of it.

    Attributes:
      proposal: the proposal.
      finding: the finding that makes it.
      text: the change in words, "Set max_train_steps to 400 (was 200)".
      role: of what it changes: "scientific", "nuisance" or "fixed".
      after: the search space or the value that comes of it.
      refused: why it is not made; empty where it is.
    """

    proposal: Proposal
    finding: Finding
    text: str
    role: str = ""
    after: Any = None
    refused: str = ""


@dataclasses.dataclass
class Draft:
    """The next study.

    Attributes:
      roles: the search spaces by role and name, as a study config has them.
      fixed: the fixed values by name.
      algorithm: what makes the points.
      algorithm_note: why it is another one than before, or empty.
      num_trials: how many trials; None where the algorithm tells.
      seed: of the points.
      trials_note: why it is another number than before, or empty.
      changes: what is changed.
      kept: bounds that are held against other findings.
      optional: what only a reader can decide: proposals that are not sure.
      refused: what is not changed although a finding would.
      left: findings that ask for something of which no proposal speaks.
      taken: by name, what is decided of a hyperparameter, optional changes among it.
    """

    roles: dict[str, dict[str, Any]]
    fixed: dict[str, Any]
    algorithm: str
    num_trials: int | None
    seed: int
    algorithm_note: str = ""
    trials_note: str = ""
    changes: list[Change] = dataclasses.field(default_factory=list)
    kept: list[Change] = dataclasses.field(default_factory=list)
    optional: list[Change] = dataclasses.field(default_factory=list)
    refused: list[Change] = dataclasses.field(default_factory=list)
    left: list[Finding] = dataclasses.field(default_factory=list)
    taken: dict[str, list[Change]] = dataclasses.field(default_factory=dict)

    def role(self, name: str) -> str:
        """Returns the role of a hyperparameter; empty where it has none."""
        roles = self.roles | {"fixed": self.fixed}
        return next((role for role, names in roles.items() if name in names), "")


def draft(study: Study, found: list[Finding]) -> Draft:
    """Returns the study with every change that a finding is sure of, in the order of `decisions`."""
    spec = study.specification
    made = Draft(
        roles={
            # The bounds of a list of trials are the next study's own.
            role: {
                name: {key: value for key, value in space.items() if key != FROM_POINTS}
                for name, space in (spec.get(role) or {}).items()
            }
            for role in ROLES
        },
        fixed=dict(spec.get("fixed") or {}),
        algorithm=str(spec.get("algorithm", "halton")),
        num_trials=_whole(spec.get("num_trials")) or len(study.trials) or 1,
        seed=(_whole(spec.get("seed")) or 0) + 1,
    )
    for finding, proposal in decisions.wishes(found):
        _consider(made, study, finding, proposal)
    made.left = [f for f in to_do(found) if f.verdict in (ACT, LOOK) and not f.proposals]
    _settle_algorithm(made)
    _settle_trials(made)
    return made


def decided(study: Study, found: list[Finding]) -> tuple[decisions.Decision, ...]:
    """Returns what the findings come to, one decision a hyperparameter."""
    return decisions.table(draft(study, found), found)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _consider(made: Draft, study: Study, finding: Finding, proposal: Proposal) -> None:
    taken = made.taken.setdefault(proposal.name, [])
    text = _describe(made, study, proposal)
    if any(decisions.same(change.proposal, proposal) for change in taken):
        return  # two findings want the same
    try:
        others = [change for change in taken if change.finding is not finding]
        if not decisions.agrees([change.proposal for change in others], proposal):
            raise _RefusedError(f"decided already by “{others[0].finding.answer}”")
        role, after = _after(made, proposal)
    except _RefusedError as error:
        made.refused.append(Change(proposal, finding, text, refused=str(error)))
        return
    change = Change(proposal, finding, text, role, after)
    taken.append(change)
    if proposal.kind == KEEP:
        made.kept.append(change)
        return
    if not proposal.sure:
        made.optional.append(change)
        return
    for names in (*made.roles.values(), made.fixed):
        if proposal.name in names and names is not _members(made, role):
            del names[proposal.name]
    _members(made, role)[proposal.name] = after
    made.changes.append(change)


def _members(made: Draft, role: str) -> dict[str, Any]:
    return made.fixed if role == "fixed" else made.roles[role]


def _after(made: Draft, proposal: Proposal) -> tuple[str, Any]:
    """Returns the role and the space or value of what a proposal changes.

    Raises:
      _RefusedError: it cannot be, or is not for a config to decide.
    """
    name, role = proposal.name, made.role(proposal.name)
    if proposal.kind in (SET, LEAVE_OUT, NARROW) and role == "scientific":
        raise _RefusedError("the study asks about it")
    if proposal.kind == ANSWER and isinstance(proposal.value, Mapping):
        return "nuisance", _parsed(name, proposal.value)
    if proposal.kind in (SET, ANSWER):
        return "fixed", _fixed(made, name, proposal.value)
    if proposal.kind == ADD:
        if role in ROLES:
            raise _RefusedError("it varies already")
        return "nuisance", _parsed(name, proposal.value)
    space = made.roles.get(role, {}).get(name)
    if space is None:
        raise _RefusedError("it does not vary")
    if proposal.kind == LEAVE_OUT:
        kept = [v for v in space["values"] if v not in proposal.value]
        if len(kept) == 1:
            return "fixed", _fixed(made, name, kept[0])
        _refuse_parents(made, name)
        return role, _parsed(name, {**space, "values": kept})
    if proposal.kind == KEEP:
        return role, space
    bounds = {proposal.side: proposal.value}
    if not proposal.side:
        bounds = dict(zip(("low", "high"), proposal.value, strict=True))
    return role, _parsed(name, {**space, **bounds})


def _fixed(made: Draft, name: str, value: Any) -> Any:
    _refuse_parents(made, name)
    if made.role(name) in ROLES and sum(map(len, made.roles.values())) == 1:
        raise _RefusedError("nothing would be left to vary")
    return value


def _refuse_parents(made: Draft, name: str) -> None:
    if any(
        conditions.path(name) in space.get("when", {})
        for names in made.roles.values()
        for space in names.values()
    ):
        raise _RefusedError("other hyperparameters depend on it")


def _parsed(name: str, space: Any) -> dict[str, Any]:
    try:
        return search_space.parse(name, space).to_dict()
    except UsageError as error:
        raise _RefusedError(str(error)) from error


def _describe(made: Draft, study: Study, proposal: Proposal) -> str:
    label, role = hyperparameters.label(proposal.name), made.role(proposal.name)
    # What it was in the study, and not after another change of the same range.
    was = (study.specification.get(role) or {}).get(proposal.name, {})
    was = was if role in ROLES else {}
    if proposal.kind in (EXTEND, NARROW):
        if not proposal.side:
            low, high = map(formatting.value, proposal.value)
            return f"Narrow {label} to {low} to {high} (was {_text(was, 'low')} to {_text(was, 'high')})"
        verb = "Widen" if proposal.kind == EXTEND else "Narrow"
        value, old = formatting.value(proposal.value), _text(was, proposal.side)
        return f"{verb} {label}: its {proposal.side} bound becomes {value} (was {old})"
    if proposal.kind == LEAVE_OUT:
        return f"Leave out {label} {formatting.join([formatting.value(v) for v in proposal.value])}"
    if proposal.kind == ANSWER:
        if isinstance(proposal.value, Mapping):
            return f"Tune {label} as a nuisance hyperparameter (it was asked about)"
        return f"Set {label} to {formatting.value(proposal.value)} (it was asked about)"
    if proposal.kind == ADD:
        before = made.fixed.get(proposal.name, study.base(proposal.name))
        return f"Tune {label}, too (was {formatting.value(before)} throughout)"
    if proposal.kind == SET:
        value = formatting.value(proposal.value)
        before = made.fixed.get(proposal.name, study.base(proposal.name))
        old = "it varied" if was else f"was {formatting.value(before)}"
        return f"Set {label} to {value} ({old})"
    return f"Keep the {proposal.side} bound of {label}"


def _text(space: dict[str, Any], side: str) -> str:
    return formatting.value(space.get(side))


def _settle_trials(made: Draft) -> None:
    """Adds trials where hyperparameters were added, as the launcher's own rule of thumb wants them.

    That is one for each combination of low and high values (`studies.doubts`), and here at most as many
    again as the study had.
    """
    added = any(change.proposal.kind == ADD for change in made.changes)
    if added and made.num_trials:
        paths = {name.partition("@")[0] for name in made.roles["nuisance"]}
        wanted = max(made.num_trials, min(2 * made.num_trials, 2 ** len(paths)))
        if wanted > made.num_trials:
            made.trials_note = f"was {made.num_trials}: more hyperparameters are tuned"
        made.num_trials = wanted


def _settle_algorithm(made: Draft) -> None:
    """Replaces a list or a grid, whose points belong to the old space, where that has changed."""
    if made.algorithm == "grid" and not any(c.proposal.kind == ADD for c in made.changes):
        made.num_trials = None  # the grid tells
    elif made.algorithm in ("grid", "list"):
        made.algorithm_note = (
            f"Was {made.algorithm!r}, whose points were made for the old search space."
        )
        made.algorithm = "halton"
