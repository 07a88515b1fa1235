"""Where in the run does retrospective checkpoint selection find the best step?"""

import math
from collections.abc import Sequence

import numpy as np

from playbook_jax.analysis.data import failed, formatting
from playbook_jax.analysis.data.proposals import SET, Proposal
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import (
    ACT,
    CANNOT_TELL,
    FINE,
    LOOK,
    Finding,
    Question,
    boundary,
    training_fit,
    works,
)
from playbook_jax.analysis.stats import stability_fixes
from playbook_jax.studies.space import conditions

ORDER = 40

EARLY = Threshold(
    "best_step.early",
    0.1,
    0,
    1,
    'the playbook: "always during the first 10% of training" is far too many steps',
)
LATE = Threshold(
    "best_step.late",
    0.75,
    0,
    1,
    'the playbook: "consistently in the last 25% of training", longer might be better',
)
CONSISTENT = Threshold(
    "best_step.consistent",
    0.75,
    0,
    1,
    'what part of the trials is "consistently": were the best step anywhere with the same '
    "probability, 5 of 6 or more would be late in 1 of 200 studies",
)
BETTER = Threshold(
    "best_step.better",
    0.5,
    0,
    1,
    "judged is the better part of the trials: where one that hardly learns has its best step "
    "is chance",
)
FEWEST = Threshold(
    "best_step.fewest",
    3,
    1,
    math.inf,
    'complete trials; of fewer, nothing is "always" or "consistently"',
)
DECAYING = ("linear", "cosine")  # schedules that go down to end_factor
DECAYED = Threshold(
    "best_step.decayed",
    0.1,
    0,
    1,
    "end_factor up to which a schedule counts as decaying to nearly zero",
)
NOISES = Threshold(
    "best_step.noises",
    2.0,
    0,
    100,
    "a gain within so many standard deviations from one evaluation to the next is no gain",
)

QUESTION = "Is the number of training steps right?"
SECTION = "Deciding how long to train when training is not compute-bound"
PLAYBOOK = ("best-step-early-or-late",)
FIGURES = ("best-steps", "training-curves")


def check(study: Study) -> list[Finding]:
    """Returns whether the best steps are all early, mostly late, or neither.

    Source: playbook, "Deciding how long to train when training is *not* compute-bound".
    """
    complete = [trial for trial in study.learned or study.ranked if trial.step > 0]
    if len(complete) < FEWEST.of(study):
        text = f"{formatting.plural(len(complete), 'complete trial')}: too few to call it a habit."
        return [_finding(study, CANNOT_TELL, text if complete else "No trial is complete.")]
    trials = complete[: max(FEWEST.of(study), math.ceil(BETTER.of(study) * len(complete)))]
    places = np.array([trial.best_step / trial.step for trial in trials])
    evidence = [_distribution(study, places, len(complete))]
    if np.all(places <= EARLY.of(study)):
        steps = round_up(2 * max(trial.best_step for trial in trials))
        text = "The best step is always in the first tenth of the run: far too many steps."
        action = f"Set max_train_steps to {formatting.count(steps)} or so, and run the study again."
        return [_finding(study, ACT, text, evidence, action, propose(study, steps))]
    if np.mean(places <= EARLY.of(study)) >= CONSISTENT.of(study):
        steps = round_up(2 * max(trial.best_step for trial in trials))
        text = "Most best steps are in the first tenth of the run: perhaps too many steps."
        action = f"If the curves of the others agree, set max_train_steps to {formatting.count(steps)} or so."
        return [_finding(study, LOOK, text, evidence, action, propose(study, steps, sure=False))]
    if np.mean(places >= LATE.of(study)) >= CONSISTENT.of(study):
        return [_late(study, trials, evidence)]
    text = "The best steps are neither all early nor mostly late."
    return [_finding(study, FINE, text, evidence + _first_evaluation(study, trials))]


def _late(study: Study, trials: list[Trial], evidence: list[str]) -> Finding:
    """Judges best steps that are late: a decaying schedule puts them there whatever the length."""
    gains = [(trial, *_late_gain(study, trial)) for trial in trials[: len(study.contenders)]]
    gains = [(trial, gain, noise) for trial, gain, noise in gains if np.isfinite(gain + noise)]
    if gains:
        told = [
            f"trial {trial.number} {formatting.metric(study.metric, gain)} (evaluations scatter by "
            f"{formatting.metric(study.metric, noise)})"
            for trial, gain, noise in gains
        ]
        evidence = [*evidence, f"In the last quarter the best gained: {formatting.join(told)}."]
        if all(gain <= NOISES.of(study) * noise for _, gain, noise in gains):
            text = "The best steps are late, but the last quarter gains no more than evaluations scatter."
            return _finding(study, FINE, text, evidence)
    more = round_up(2 * max(trial.step for trial in trials))
    steps = formatting.count(more)
    if all(decays_to_zero(study, trial) for trial in trials):
        short = _too_short(study, trials)
        if short and _rates_are_off(study):
            text = (
                "The best steps are late, and the training set is far from fit; but the best learning rates "
                "crowd a bound, and where all rates are too small or too large any run seems too short."
            )
            action = "Widen the search space of the learning rate before more steps are tried."
            return _finding(study, CANNOT_TELL, text, [*evidence, short], action)
        if short:
            text = (
                "The best steps are late, and the training set is far from fit where validation is hardly "
                "harder: training is too short, or the model too small."
            )
            action = (
                f"Try {steps} training steps, the decay stretched to that length{_once(study)}."
            )
            return _finding(study, LOOK, text, [*evidence, short], action, longer(study, more))
        text = (
            "The best steps are late, as they are under a schedule that decays to zero, whatever the "
            "length: this alone does not show that longer training helps."
        )
        action = (
            f"To know, train the best few with {steps} steps, the decay stretched to that length."
        )
        return _finding(study, CANNOT_TELL, text, evidence, action)
    text = "The best step is consistently in the last quarter of the run."
    action = (
        f"Try {steps} training steps, and tune the decay of the learning rate anew{_once(study)}."
    )
    return _finding(study, LOOK, text, evidence, action, longer(study, more))


def _once(study: Study) -> str:
    """Returns from when on to train longer, where it is too early."""
    why = untuned(study)
    return f", but not before the learning rate is tuned: {why}" if why else ""


def _too_short(study: Study, trials: list[Trial]) -> str:
    """Returns the errors of the best few if there is much to learn and no gap; empty otherwise.

    A decay puts the best step at the end of any run. But where training itself has far to go and its
    error is that of validation, the run has ended before its time.
    """
    gaps = [gap for t in trials[: len(study.contenders)] if (gap := training_fit.measure(study, t))]
    if not gaps or sum(gap.closed(study) for gap in gaps) <= len(gaps) / 2:
        return ""
    told = [
        f"{formatting.percent(gap.train / gap.validation)} in trial {gap.trial}"
        for gap in gaps
        if gap.validation
    ]
    return f"At the end training has, of the error in validation: {formatting.join(told)}."


def _rates_are_off(study: Study) -> bool:
    """Says whether the best trials crowd a bound of a learning rate.

    Source: playbook, "Algorithm for picking an initial candidate for max_train_steps": bad search spaces make
    self-deception possible.
    """
    crowded = [f for f in boundary.check(study) if f.verdict in (ACT, LOOK)]
    return any(
        conditions.path(p.name) == stability_fixes.RATE for f in crowded for p in f.proposals
    )


def untuned(study: Study) -> str:
    """Returns why it is too early to train longer, as a clause; empty once the learning rate is tuned.

    That is where most trials train and the best crowd no bound of a learning rate: longer runs cost twice as
    much, and what a bad learning rate spoils they do not mend. A trial whose loss stood still does not count
    against it: that is what too few steps do as well.
    """
    ended = len(study.learned) + sum(
        not failed.stood_still(study, trial) for trial in study.failures
    )
    if len(study.learned) < works.LEAST.of(study) * ended:
        return f"only {formatting.share(len(study.learned), ended)} trials train"
    return "the best trials crowd a bound of the learning rate" if _rates_are_off(study) else ""


def longer(study: Study, steps: int) -> tuple[Proposal, ...]:
    """Returns more steps: done without asking once the learning rate is tuned, see `untuned`."""
    return propose(study, steps, sure=not untuned(study))


def propose(study: Study, steps: int, sure: bool = True) -> tuple[Proposal, ...]:
    """Returns another number of steps, and evaluations as many times in a run as now."""
    now, every = study.base("max_train_steps"), study.base("eval_every_steps")
    proposals = [Proposal(SET, "max_train_steps", steps, sure=sure)]
    if isinstance(now, int) and isinstance(every, int) and now > 0:
        every = max(1, round(every * steps / now))
        proposals.append(Proposal(SET, "eval_every_steps", every, sure=sure))
    return tuple(proposals)


def decays_to_zero(study: Study, trial: Trial) -> bool:
    """Says whether a trial's learning rate ends at nearly zero."""
    end_factor = study.value(trial, "hparams.end_factor", 0.0)
    return study.value(trial, "schedule") in DECAYING and end_factor <= DECAYED.of(study)


def _late_gain(study: Study, trial: Trial) -> tuple[float, float]:
    """Returns what the last quarter added to the objective, and how evaluations scatter there."""
    values = trial.evaluations.get(study.metric)
    if values is None:
        return np.nan, np.nan
    there = np.isfinite(values)
    steps, values = trial.evaluations["step"][there], values[there]
    values = -values if study.maximize else values
    late = steps >= LATE.of(study) * trial.step
    if late.all() or late.sum() < 3:
        return np.nan, np.nan
    # A value against the mean of its neighbours: a trend cancels, independent scatter σ gives σ √1.5.
    off = values[1:-1] - (values[:-2] + values[2:]) / 2
    noise = float(np.std(off[late[1:-1]]) / np.sqrt(1.5)) if late[1:-1].any() else np.nan
    return float(values[~late].min() - values.min()), noise


def _distribution(study: Study, places: np.ndarray, complete: int) -> str:
    early, late = int(np.sum(places <= EARLY.of(study))), int(np.sum(places >= LATE.of(study)))
    lowest, median, highest = (formatting.percent(np.quantile(places, q)) for q in (0, 0.5, 1))
    return (
        f"Of the better {len(places)} of {complete} complete trials, {early} had the best step in the first "
        f"tenth of the run and {late} in the last quarter; the median is at {median} of the run, the "
        f"range from {lowest} to {highest}."
    )


def _first_evaluation(study: Study, trials: list[Trial]) -> list[str]:
    firsts = [t.evaluations["step"][0] / t.step for t in trials if "step" in t.evaluations]
    if firsts and min(firsts) > EARLY.of(study):
        return [
            f"The first evaluation is at {formatting.percent(min(firsts))} of the run: earlier best "
            "steps would not be seen (eval_every_steps)."
        ]
    return []


def round_up(steps: int) -> int:
    """Returns the number of steps with two digits, rounded up."""
    unit = 10 ** max(0, len(str(steps)) - 2)
    return -(-steps // unit) * unit


def _finding(
    study: Study,
    verdict: str,
    answer: str,
    evidence: Sequence[str] = (),
    action: str = "",
    proposals: tuple[Proposal, ...] = (),
) -> Finding:
    trials = tuple(trial.number for trial in study.contenders)
    return _QUESTION.finding(verdict, answer, evidence, action, trials, proposals)


_QUESTION = Question(
    QUESTION,
    SECTION,
    advice=(
        "max_train_steps is never tuned in a study: it is set once, and the best steps of its "
        "trials tell whether to change it. All in the first tenth: far too many. Consistently in "
        "the last quarter: longer training with the decay tuned again might help. In doubt, train "
        "longer."
    ),
    figures=FIGURES,
    playbook=PLAYBOOK,
)
