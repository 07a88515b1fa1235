"""One decision a hyperparameter: where the wishes of all findings meet.

The order of precedence, by which one wish has its way and others for the same hyperparameter yield:

1. What a study asks about is not narrowed, fixed or removed: that is the answer to its question.
2. An end in which training fails, on strong evidence, is left out, whatever else is wanted of that bound: a
   remedy that is added shows its worth below it, and where the best then crowd the bound, that is extended.
3. Wishes that a finding is sure of come before those that it only offers.
4. Of these, what is pressing (act) before what is worth a look, and that before the rest.
5. Of these, a search space that is wanted, or wanted larger or smaller, comes before a feature that could
   be removed, and that before a value that could be fixed: what is still searched is not fixed.
6. Of these, the finding that comes first in the report: optimization failures are mended first.

Two wishes agree if they are the same, or move the two ends of one range. `next_draft` makes the study of
them; the table here is what the report's list, findings.json and next_study.py show.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from playbook_jax.analysis.data import features, formatting
from playbook_jax.analysis.data.hyperparameters import SIDES
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
from playbook_jax.analysis.findings import ACT, LOOK, Finding

if TYPE_CHECKING:
    from playbook_jax.analysis.data.study import Study
    from playbook_jax.analysis.reports.next_draft import Change, Draft

WIDEN, CUT, FIX, TUNE, REMOVE, LEAVE = KINDS = (
    "extend",
    "narrow",
    "fix",
    "tune",
    "remove",
    "keep",
)
_BOUNDS = (EXTEND, NARROW, KEEP)
_RANK = {EXTEND: 0, NARROW: 0, KEEP: 0, ADD: 0, ANSWER: 0, LEAVE_OUT: 0, SET: 2}


@dataclasses.dataclass(frozen=True)
class Decision:
    """What becomes of one hyperparameter.

    Attributes:
      name: its name in the study, or another path of the training config.
      kind: one of KINDS.
      sure: whether the next study does it; else it is offered to the reader.
      text: what is done, "Widen learning_rate: its high bound becomes 30 (was 10)".
      reasons: the answers of the findings that want it.
      findings: their places among the findings.
      refused: the wishes that were not followed, each with the reason, "Set … to 0: decided already by …".
    """

    name: str
    kind: str
    sure: bool
    text: str
    reasons: tuple[str, ...] = ()
    findings: tuple[int, ...] = ()
    refused: tuple[str, ...] = ()


def wishes(found: Sequence[Finding]) -> list[tuple[Finding, Proposal]]:
    """Returns what the findings propose, in the order of precedence."""
    verdicts = {ACT: 0, LOOK: 1}
    ordered = [
        ((not p.first, not p.sure, verdicts.get(f.verdict, 2), _rank(p), index), f, p)
        for index, f in enumerate(found)
        for p in f.proposals
    ]
    return [(f, p) for _, f, p in sorted(ordered, key=lambda wish: wish[0])]


def _rank(proposal: Proposal) -> int:
    removes = proposal.kind == SET and _removes(proposal.name, proposal.value)
    return 1 if removes else _RANK[proposal.kind]


def _removes(name: str, value: Any) -> bool:
    return features.is_strength(name) and value == features.OFF


def agrees(taken: Sequence[Proposal], wish: Proposal) -> bool:
    """Says whether a wish can be followed beside those for the same hyperparameter that are taken."""
    return all(
        old.kind in _BOUNDS and wish.kind in _BOUNDS and {old.side, wish.side} == set(SIDES)
        for old in taken
    )


def table(made: "Draft", found: Sequence[Finding]) -> tuple[Decision, ...]:
    """Returns the decisions of a draft, what is pressing first.

    Args:
      made: the next study, as `next_draft.draft` makes it of the findings.
      found: the findings.
    """
    by_name: dict[str, list[Change]] = {}
    for change in (*made.changes, *made.kept, *made.optional, *made.refused):
        by_name.setdefault(change.proposal.name, []).append(change)
    return tuple(_decision(name, changes, found) for name, changes in by_name.items())


def _decision(name: str, changes: "list[Change]", found: Sequence[Finding]) -> Decision:
    followed = [c for c in changes if not c.refused]
    refused = tuple(f"{c.text}: {c.refused}" for c in changes if c.refused)
    if not followed:
        label = name.removeprefix("hparams.")
        return Decision(name, LEAVE, True, f"Keep {label} as it is", refused=refused)
    behind = [i for c in followed for i in _places(c, found)]
    behind = list(dict.fromkeys(behind))
    moved = [c for c in followed if c.proposal.kind != KEEP]
    # Of a range, one end may be decided, and the other only offered.
    done = [c for c in moved if c.proposal.sure] or moved or followed
    told = text(done)
    offered = [c for c in moved if c not in done]
    if offered:
        words = text(offered)
        told += f"; perhaps {words[0].lower()}{words[1:]}"
    return Decision(
        name,
        _kind(done[0].proposal) if moved else LEAVE,
        all(c.proposal.sure for c in done),
        told,
        tuple(found[i].answer for i in behind),
        tuple(behind),
        refused,
    )


def text(changes: "Sequence[Change]") -> str:
    """Returns what is done: of a range that both ends move, where it then goes from and to."""
    ends = {c.proposal.side: c.proposal.value for c in changes}
    if len(changes) == 2 and ends.keys() == set(SIDES):
        label = changes[0].proposal.name.removeprefix("hparams.")
        low, high = (formatting.value(ends[side]) for side in SIDES)
        return f"Search {label} from {low} to {high}"
    return "; ".join(change.text for change in changes)


def _places(change: "Change", found: Sequence[Finding]) -> list[int]:
    """Returns the places of the findings that want a change."""
    return [
        i
        for i, f in enumerate(found)
        if f is change.finding or any(same(p, change.proposal) for p in f.proposals)
    ]


def same(one: Proposal, other: Proposal) -> bool:
    """Says whether two wishes are the same, however sure."""
    one, other = (dataclasses.replace(p, sure=True, first=False) for p in (one, other))
    return one == other


def _kind(proposal: Proposal) -> str:
    kinds = {EXTEND: WIDEN, NARROW: CUT, LEAVE_OUT: CUT, ADD: TUNE}
    if proposal.kind in kinds:
        return kinds[proposal.kind]
    if proposal.kind == ANSWER and isinstance(proposal.value, dict):
        return TUNE
    return REMOVE if _removes(proposal.name, proposal.value) else FIX


def worded(study: "Study", found: list[Finding]) -> list[Finding]:
    """Returns the findings, none of which asks for what was decided otherwise.

    Where a wish of a finding is not followed, its action is what is left of it, and its evidence says what
    was decided and why.
    """
    from playbook_jax.analysis.reports import next_draft

    spaces = study.specification.get("nuisance") or study.specification.get("scientific")
    if study.is_replicates or not spaces or not any(f.proposals for f in found):
        return found
    made = next_draft.draft(study, found)
    return [_worded(finding, made) for finding in found]


def _worded(finding: Finding, made: "Draft") -> Finding:
    refused = [c for c in made.refused if c.finding is finding]
    if not refused:
        return finding
    followed = [
        c
        for c in (*made.changes, *made.optional)
        if any(same(p, c.proposal) for p in finding.proposals)
    ]
    action = " ".join(f"{'' if c.proposal.sure else 'Perhaps: '}{c.text}." for c in followed)
    notes = [f"Not followed: {c.text}; {c.refused}" for c in refused]
    notes = [note if note.endswith(".”") else f"{note}." for note in notes]
    return dataclasses.replace(
        finding,
        action=action if finding.action else "",
        evidence=(*finding.evidence, *notes),
        open_question=finding.open_question if action else "",
    )
