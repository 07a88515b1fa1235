"""Does training wait for its input?"""

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, Finding, Question
from playbook_jax.tracking import clock

ORDER = 90
OF_FAILURES = True  # of trials that learned nothing, too

ACT_PART = Threshold(
    "input_bound.act_part",
    0.3,
    0,
    1,
    "of the time that devices wait: a study that takes 1.4 times as long as it might",
)

QUESTION = "Does training wait for its input?"
SECTION = "Optimizing the input pipeline"
PLAYBOOK = ("input-bound",)


def check(study: Study) -> list[Finding]:
    """Returns whether the devices were idle for want of input, by the trials' own measurements.

    Source: playbook, "Optimizing the input pipeline"; see `clock.Clock`.
    """
    waits = {t.number: t.timing["input_wait"] for t in study.trials if "input_wait" in t.timing}
    if not waits:
        return [_finding(CANNOT_TELL, "No trial has measured how long it waited.")]
    values = np.array(list(waits.values()))
    middle = float(np.median(values))
    rate = float(np.median([t.timing["examples_per_second"] for t in study.trials if t.timing]))
    evidence = [
        f"The devices of {formatting.plural(len(waits), 'trial')} idled for want of input in "
        f"{formatting.percent(middle)} of the time (median; from {formatting.percent(values.min())} to "
        f"{formatting.percent(values.max())}), at {formatting.count(round(rate))} examples a second."
    ]
    if middle <= clock.INPUT_BOUND:
        above = [n for n, wait in waits.items() if wait > clock.INPUT_BOUND]
        if above:
            told = "waits" if len(above) == 1 else "wait"
            evidence.append(
                f"Only {formatting.trials(above)} {told} for more than "
                f"{formatting.percent(clock.INPUT_BOUND)}."
            )
        text = "Training does not wait for its input."
        return [_finding(FINE, text, evidence, trials=tuple(above))]
    text = f"Training is input-bound: it waits for {formatting.percent(middle)} of the time."
    action = (
        "Find out what is slow with --profile, then prefetch, preprocess once and for all, drop features "
        "that are not used, or let more processes make examples (docs/input.md)."
    )
    verdict = ACT if middle >= ACT_PART.of(study) else LOOK
    trials = tuple(n for n, wait in waits.items() if wait > clock.INPUT_BOUND)
    return [_finding(verdict, text, evidence, action, trials)]


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "The usual causes are data far from the machine, costly preprocessing as training goes on, and "
        "hidden synchronization that keeps prefetching from working."
    ),
    playbook=PLAYBOOK,
).finding
