"""How many trials are infeasible, and where do they lie?"""

import json
import math
import re

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import failed, formatting
from playbook_jax.analysis.data.hyperparameters import HIGH, LOW, Hyperparameter
from playbook_jax.analysis.data.proposals import LEAVE_OUT, NARROW, Proposal
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, Finding, Question, works
from playbook_jax.analysis.stats import feasible, infeasible_region, stability_fixes
from playbook_jax.analysis.stats.infeasible_region import Region
from playbook_jax.studies.space import conditions
from playbook_jax.studies.space.search_space import Range

ORDER = 20
OF_FAILURES = True  # of trials that learned nothing, too

LOOK_FRACTION = Threshold(
    "infeasible.look_fraction",
    0.4,
    0,
    1,
    'the playbook says "a very large fraction" and gives no number; in the space that its '
    "Figure 1 calls good, 38 % are infeasible",
)
ACT_FRACTION = Threshold(
    "infeasible.act_fraction",
    0.6,
    0,
    1,
    "more than half of the budget is lost, by more than the sampling error of 20 trials (11 "
    "points)",
)
FEWEST = Threshold(
    "infeasible.fewest",
    5,
    1,
    math.inf,
    "ended trials below which a fraction says nothing",
)

BEYOND = 1000.0  # how far the next study goes where all trials fail: three decades, as wide as a first space
_END, _BEYOND = {LOW: "smallest", HIGH: "largest"}, {LOW: "smaller", HIGH: "larger"}

QUESTION = "How many trials are infeasible?"
SECTION = "Extracting insight from experimental results"
PLAYBOOK = ("infeasible-fraction",)


def check(study: Study) -> list[Finding]:
    """Returns what fraction of the ended trials is infeasible, and where in the space they lie.

    The playbook's infeasible trials "diverge, get really bad loss values, or fail to run", so that those
    count, too, that are COMPLETE and learned nothing. Trials that FAILED (out of memory, out of time, an
    error) are left out.

    Source: playbook, "Extracting insight from experimental results": a very large fraction calls for
    another search space, and sometimes means a bug.
    """
    study = study.drawn
    failures = study.failures
    ended = len(failures) + len(study.learned)
    if not ended:
        return [_finding(study, CANNOT_TELL, "No trial has ended.")]
    fraction = len(failures) / ended
    answer = _answer(study, ended)
    if fraction == 1:
        side = HIGH if _stands_still(study) else LOW
        action = (
            f"Train one trial by hand with the {_END[side]} learning rate. If it fails too, suspect a bug "
            f"in the training code or the data; else search at {_BEYOND[side]} values."
        )
        return [_finding(study, ACT, answer, action, _elsewhere(study, side))]
    if ended < FEWEST.of(study):
        return [_finding(study, CANNOT_TELL, f"{answer} That is too few for a fraction.")]
    if fraction >= LOOK_FRACTION.of(study):
        verdict = ACT if fraction >= ACT_FRACTION.of(study) else LOOK
        return [_finding(study, verdict, answer, _mend(study), _proposals(study))]
    return [_finding(study, FINE, answer)]


def _stands_still(study: Study) -> bool:
    """Says whether no loss went anywhere, as under learning rates that are too small; else it rose."""
    known = [t for t in study.failures if "loss" in t.records.curves]
    diverged = study.of_state(trial_lib.INFEASIBLE)
    return bool(known) and not diverged and all(failed.stood_still(study, t) for t in known)


def _side_of_learned(study: Study) -> str:
    """Returns the side on which the few trials that learned lie, if their learning rates are its last."""
    rates = _rates(study)
    if len(rates) != 1 or len(study.learned) >= FEWEST.of(study):
        return ""
    learned, failed = (
        [rates[0].unit(t.parameters.get(rates[0].name)) for t in trials]
        for trials in (study.learned, study.failures)
    )
    if max(learned) < min(failed):
        return LOW
    return HIGH if min(learned) > max(failed) else ""


def _rates(study: Study) -> list[Hyperparameter]:
    """Returns the learning rates that are searched on a logarithmic scale."""
    return [
        h
        for h in study.varying(stability_fixes.RATE)
        if isinstance(h.space, Range) and h.space.scale == "log"
    ]


def _elsewhere(study: Study, side: str) -> tuple[Proposal, ...]:
    """Returns learning rates beyond one end of those of a study."""
    proposals = []
    for h in _rates(study):
        ends = (
            (h.space.low / BEYOND, h.space.low)
            if side == LOW
            else (h.space.high, BEYOND * h.space.high)
        )
        bounds = tuple(float(f"{end:.3g}") for end in ends)
        proposals.append(Proposal(NARROW, h.name, bounds))
    return tuple(proposals)


def _answer(study: Study, ended: int) -> str:
    failures = study.failures
    what = (
        "infeasible" if failed.word(failures) == "infeasible" else "infeasible or learned nothing"
    )
    if any(t.outlying for t in failures):
        what = "infeasible, learned nothing or ended far outside the others"
    if ended == 1:
        return f"The only trial that has ended {_one(study)}."
    share = formatting.share(len(failures), ended)
    answer = f"{share} trials that have ended {'is' if len(failures) < 2 else 'are'} {what}"
    if 0 < len(failures) < ended:
        answer += f" ({formatting.percent(len(failures) / ended)})"
    return formatting.sentence(answer)


def _one(study: Study) -> str:
    if not study.failures:
        return "is not infeasible"
    return "learned nothing" if study.failures[0].unlearned else "is infeasible"


def _mend(study: Study) -> str:
    region, side = infeasible_region.find(study), _side_of_learned(study)
    ends = [] if side else feasible.narrowing(study)
    if region is None and ends:
        return works.search([proposal for _, proposal in ends])
    if region is None and side:
        only = "trial that learned has" if len(study.learned) == 1 else "trials that learned have"
        return f"Search at {_BEYOND[side]} learning rates: the only {only} the {_END[side]} of all."
    if region is None:
        return (
            "Look at the reasons of these trials: they lie in no one part of the search space, as they "
            "would if a hyperparameter made them so, and may point to a bug."
        )
    if len(region.direction.names) > 1:
        return (
            f"Reparameterize the search space: sample {region.direction.label} itself in place of "
            f"learning_rate, and keep it below {region.direction.show(region.cut)}."
        )
    rates = [conditions.path(name) for name in region.direction.names]
    mended = region.side == HIGH and rates == [stability_fixes.RATE]
    return (
        f"Leave out {region.text}{', unless warmup or clipping makes it train' if mended else ''}."
    )


def _proposals(study: Study) -> tuple[Proposal, ...]:
    """Returns what would leave out the region in which these trials lie, if it is along one axis."""
    region, side = infeasible_region.find(study), _side_of_learned(study)
    ends = [] if side else feasible.narrowing(study)
    if region is None and side:
        return _elsewhere(study, side)
    if ends:
        return tuple(proposal for _, proposal in ends)
    if region is None or len(region.direction.names) > 1:
        return ()
    (name,) = region.direction.names
    axis = next(h for h in study.hyperparameters if h.name == name)
    sure = study.best not in region.learned
    if isinstance(axis.space, Range):
        bound = feasible.inward(axis, _inside(study, axis, region), region.side)
        return () if bound is None else (Proposal(NARROW, name, bound, region.side, sure),)
    there = {json.dumps(t.parameters[name]): t.parameters[name] for t in region.failures}
    return (Proposal(LEAVE_OUT, name, tuple(there.values()), "", sure),)


def _inside(study: Study, axis: Hyperparameter, region: Region) -> float:
    """Returns the place of the last trial that trained before a region begins: no bound lies beyond it."""
    places = [axis.unit(t.parameters.get(axis.name)) for t in study.learned]
    if region.side == HIGH:
        return max((p for p in places if p < region.cut), default=0.0)
    return min((p for p in places if p > region.cut), default=1.0)


def _finding(
    study: Study,
    verdict: str,
    answer: str,
    action: str = "",
    proposals: tuple[Proposal, ...] = (),
) -> Finding:
    failures, region = study.failures, infeasible_region.find(study)
    evidence = _reasons(failures)
    if region is not None:
        evidence.append(
            formatting.sentence(
                f"{formatting.share(len(region.failures), len(failures))} of these trials have "
                f"{region.text}, and {formatting.share(len(region.learned), len(study.learned))} "
                f"others {'have' if len(region.learned) > 1 else 'has'}"
            )
            + " As many trials drawn at random lie so far to that side with probability "
            f"{formatting.probability(region.chance)}."
        )
    elif feasible.find(study):
        evidence.append(
            "They lie on both sides of what trains, or beyond several hyperparameters together."
        )
    elif len(failures) >= infeasible_region.FEWEST and study.learned:
        evidence.append("They lie in no one part of the search space.")
    errors = study.of_state(trial_lib.FAILED)
    if errors:
        names = formatting.trials([t.number for t in errors])
        evidence.append(
            f"Not counted: {names} FAILED for another reason ({errors[0].reason or 'none given'})."
        )
    figures = [f"axis-{name}" for name in region.direction.names] if region else []
    trials = tuple(t.number for t in failures)
    return _QUESTION.finding(verdict, answer, evidence, action, trials, proposals, tuple(figures))


def _reasons(failures: list[Trial]) -> list[str]:
    """Returns the commonest reasons with their trials; the step at the end of one is left out."""
    groups: dict[str, list[int]] = {}
    for trial in failures:
        reason = re.sub(r"\s*\(step [\d,]+\)$", "", trial.reason) or "no reason given"
        groups.setdefault(reason, []).append(trial.number)
    ranked = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [
        formatting.sentence(f"{formatting.trials(trials)}: {reason}")
        for reason, trials in ranked[:4]
    ]


_QUESTION = Question(
    QUESTION,
    SECTION,
    advice=(
        "A trial is infeasible if it diverges, ends with a very bad loss or cannot run. Where a very "
        "large part of the trials is, change the search space so that fewer points are wasted, if need "
        "be by other parameters; many of them can also mean a bug in the training code."
    ),
    playbook=PLAYBOOK,
)
