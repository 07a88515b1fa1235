"""Is the comparison of the studies of a group fair? What speaks against it, from the studies' own checks.

Source: playbook, "Extracting insight from experimental results" (the checklist before the question, for
each study of the group), "Creating a set of studies" ("as fair as possible") and "Detecting whether a change
is useful with isolation plots" (equally well tuned).
"""

import re
from collections.abc import Mapping
from typing import Any

from playbook_jax import config as config_lib
from playbook_jax.analysis.data import curves, formatting
from playbook_jax.analysis.data.groups import Group, Member
from playbook_jax.analysis.data.study_changes import BUDGET
from playbook_jax.analysis.findings import (
    ACT,
    CANNOT_TELL,
    FINE,
    LOOK,
    Finding,
    Question,
    boundary,
    end_of_training,
    enough_trials,
    infeasible,
    instability,
    overfitting,
)
from playbook_jax.analysis.stats import fairness, isolation
from playbook_jax.analysis.stats.fairness import Doubt
from playbook_jax.studies.space import conditions

Found = Mapping[str, list[Finding]]  # what the checks of each study found, by the member's name

# The checks that say of a study that its best trial is not what its value can do, and from which verdict on.
DECISIVE = {
    instability.QUESTION: (ACT,),
    infeasible.QUESTION: (ACT, LOOK),
    boundary.QUESTION: (ACT,),
    enough_trials.QUESTION: (ACT, LOOK),
    overfitting.QUESTION: (ACT,),
}
# What is as bad for one value as for the others leaves the comparison fair, if less sure.
ALIKE = (infeasible.QUESTION, enough_trials.QUESTION)
# Runs of lengths that differ by warmup alone, which is prepended, differ by a tenth at most.
LONGER = 1.1
SHOWN, MENDED = 4, 3  # settings that differ, and actions, that are named
_TRIAL = re.compile(r"\b([Tt])rials? (?=\d)")


def doubts(group: Group, found: Found) -> list[Doubt]:
    """Returns what makes the comparison unfair, the graver first; nothing where it seems fair."""
    return [
        *_absent(group),
        *_unfinished(group),
        *_budgets(group),
        *_settings(group),
        *_counts(group),
        *_own(group, found),
        *_improving(group),
    ]


def check(group: Group, found: Found, told: list[Doubt]) -> Finding:
    """Returns the verdict on fairness.

    Args:
      group: the group.
      found: what the checks of each study found.
      told: what `doubts` says.
    """
    study, h = group.arms
    parts = isolation.slices(study, h)
    evidence = [_tried(group, member) for _, member in group.read]
    if told:
        actions = list(dict.fromkeys(doubt.action for doubt in told if doubt.action))
        more = " Mend the rest, too." if len(actions) > MENDED else ""
        number = f", for {formatting.plural(len(told), 'reason')}" if len(told) > 1 else ""
        answer = f"The comparison is not fair yet{number}. {told[0].text}"
        others = [doubt.text for doubt in told[1:]]
        action = " ".join(actions[:MENDED]) + more
        return _finding(LOOK, answer, [*others, *evidence], action)
    if sum(bool(part.complete) for part in parts) < 2:
        return _finding(
            CANNOT_TELL, "There are not two values with a complete trial to compare.", evidence
        )
    few = fairness.untested(study, h, parts)
    if few:
        text = (
            "Nothing speaks against it, but whether the best trials crowd a bound cannot be told from so "
            f"few of {formatting.some(few, 5)}."
        )
        return _finding(CANNOT_TELL, text, evidence)
    text = (
        "The comparison is fair, as far as the checks see: as many trials of as many steps for each value, "
        "and no best one at a bound."
    )
    return _finding(FINE, text, evidence)


def _tried(group: Group, member: Member) -> str:
    study = member.study
    tuned = [h.label for h in study.hyperparameters]
    steps = study.base("max_train_steps")
    length = f" of {formatting.count(steps)} steps" if isinstance(steps, int) else ""
    return (
        f"{member.label}: {formatting.plural(len(study.trials), 'trial')}{length} for "
        f"{formatting.plural(len(tuned), 'hyperparameter')} ({formatting.some(tuned, 5)})."
    )


def _absent(group: Group) -> list[Doubt]:
    return [
        Doubt(f"{member.label} is not compared: {member.problem}.", "Restore it, or run it again.")
        for member in group.members
        if member.study is None
    ]


def _unfinished(group: Group) -> list[Doubt]:
    open_ = [(m, len(m.study.unfinished)) for _, m in group.read if m.study.unfinished]
    if not open_:
        return []
    text = formatting.join([f"{formatting.plural(n, 'trial')} of {m.label}" for m, n in open_])
    return [Doubt(f"The group is not over: {text} to go.", "Let the group go on.")]


def _budgets(group: Group) -> list[Doubt]:
    asked, told = {h.name for h in group.scientific}, []
    for path in BUDGET:
        values = {m.label: m.study.base(path) for _, m in group.read}
        if path not in asked and len(set(map(str, values.values()))) > 1:
            each = formatting.some([f"{formatting.value(v)} for {n}" for n, v in values.items()], 5)
            told.append(Doubt(f"{path} is not the same: {each}.", f"Give all the same {path}."))
    if told or BUDGET[0] in asked:
        return told
    bests = [(m, m.study.best.step) for _, m in group.read if m.study.best is not None]
    if not bests:
        return []
    least, most = (choose(bests, key=lambda pair: pair[1]) for choose in (min, max))
    if most[1] <= LONGER * least[1]:
        return []
    text = (
        f"The best trial of {most[0].label} made {formatting.count(most[1])} steps, that of "
        f"{least[0].label} {formatting.count(least[1])}."
    )
    return [Doubt(text, "Give all the same number of steps.")]


def _settings(group: Group) -> list[Doubt]:
    """Returns a doubt for what differs between studies and is neither asked about, nor tuned, nor set."""
    studies = [member.study for _, member in group.read]
    bases = [_base(study.specification) for study in studies]
    known = {h.name for h in group.scientific} | set(BUDGET)
    for study in studies:
        names = [*(h.name for h in study.hyperparameters), *study.specification.get("fixed", {})]
        known |= {conditions.path(name) for name in names}
    paths = {path for base in bases for path in base} - known
    others = [p for p in sorted(paths) if len({repr(base.get(p)) for base in bases}) > 1]
    told = []
    if others:
        text = f"The studies differ in what is not asked about: {formatting.some(others, SHOWN)}."
        told.append(Doubt(text, "Run all studies from the same base config."))
    algorithms = {str(study.specification.get("algorithm")) for study in studies}
    if len(algorithms) > 1:
        text = f"Their points are of different kinds: {formatting.join(sorted(algorithms))}."
        told.append(Doubt(text, "Choose the points of all studies in the same way."))
    return told


def _base(specification: Mapping[str, Any]) -> dict[str, Any]:
    base = specification.get("base_config")
    return config_lib.flatten(base) if isinstance(base, Mapping) else {}


def _counts(group: Group) -> list[Doubt]:
    parts = isolation.slices(*group.arms)
    told = fairness.counts(group.joined, parts) if parts else []
    lost = [
        f"{formatting.plural(n, 'trial')} of {m.label}"
        for _, m in group.read
        if (n := _lost(m)) > 0
    ]
    if lost:
        text = f"Nothing is known of {formatting.join(lost)}: failed, or gone."
        told.append(Doubt(text, "Launch the group again, which runs such trials once more."))
    return told


def _lost(member: Member) -> int:
    """Returns how many trials came to an end that says nothing of training."""
    study = member.study
    return len(study.trials) - len(study.ended) - len(study.unfinished)


def _own(group: Group, found: Found) -> list[Doubt]:
    """Returns a doubt for each finding of a study that puts its best trial into question."""
    told = []
    for question, verdicts in DECISIVE.items():
        asking = [
            (member, finding)
            for _, member in group.read
            for finding in found[member.name]
            if finding.question == question and finding.verdict in verdicts
        ]
        if question in ALIKE and len({member.name for member, _ in asking}) == len(group.read):
            continue
        told += [
            Doubt(
                f"{member.label}: {unnumbered(finding.answer)}",
                f"{member.label}: {unnumbered(finding.action)}" if finding.action else "",
                finding.proposals,
            )
            for member, finding in asking
        ]
    return told


def _improving(group: Group) -> list[Doubt]:
    """Returns a doubt where the best trials of some values still improve at the end, and of others not."""
    ends = {}
    for _, member in group.read:
        measured = [end_of_training.measure(member.study, t) for t in curves.compared(member.study)]
        known = [end.improving for end in measured if end is not None]
        if known:
            ends[member.label] = sum(known) >= end_of_training.MOST.of(member.study) * len(known)
    going = [label for label, improves in ends.items() if improves]
    if not going or len(going) == len(ends):
        return []
    still = "still improves" if len(going) == 1 else "still improve"
    text = (
        f"{formatting.some(going, 5)} {still} at the end, and the others do not: more steps would change the "
        "comparison."
    )
    return [Doubt(text, "Compare them at more steps, too.")]


def unnumbered(text: str) -> str:
    """Returns a text of one study in which its trials have a "no. 3": others have a trial 3 as well."""
    return _TRIAL.sub(lambda found: f"{'N' if found[1] == 'T' else 'n'}o. ", text)


_finding = Question(
    "Is the comparison fair?",
    "Extracting insight from experimental results",
    advice=(
        "Each value is to be judged by the best that it can do, so each must be equally well tuned: as many "
        "trials of the same length in a space wide enough. Mend what speaks against it and run the group "
        "again before judging the values."
    ),
    figures=("isolation-plots",),
    playbook=("fair-comparison",),
).finding
