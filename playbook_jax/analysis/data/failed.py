"""Which trials failed to train: one meaning, wherever trials are counted, ranked, drawn or judged.

A trial failed to train if it is INFEASIBLE (it diverged, or its objective is not finite), if it is COMPLETE
and its training loss ended about where it began, or if it is COMPLETE and its objective is far outside
those of the others. Trials that FAILED for another reason (out of memory, an error) say nothing of
training.

Far outside means beyond a gap: the ordinary worse half of a wide study has no gap. The objectives are
compared on a logarithmic scale where they are positive (of rates to be maximized, the errors), their
scatter is that of the better half. Of 300 simulated studies of 20 and of 100 trials, bowls of one to six
dimensions, linear and log-normal ones, at most 7 % and 1 % had such a trial by this rule, mostly a single
one; of trials with 25 to 60 % error among others around 2 %, the rule finds all in 95 and 98 % of studies
where there is one, and in 75 and 60 % where a quarter are such.

Source: playbook, "Extracting insight from experimental results": infeasible trials "diverge, get really bad
loss values, or fail to run"; Figure 7a: "NaNs or uncharacteristically high values of the loss".
"""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.thresholds import Threshold

if TYPE_CHECKING:
    from playbook_jax.analysis.data.study import Study, Trial

DEVIATIONS = Threshold(
    "failed.deviations",
    4.0,
    1,
    1000,
    'the playbook: trials "many standard deviations worse" are uncharacteristically bad; so many from the '
    "median, of the scatter of the better half",
)
GAP = Threshold(
    "failed.gap",
    2.5,
    0,
    1000,
    "and beyond a gap of so many, which the tail of a wide study does not have",
)
UNLEARNED = Threshold(
    "failed.unlearned",
    0.9,
    0,
    1,
    "a training loss that ends above this part of where it began shows nothing learned, or all "
    "lost again: a result as bad as that of a trial that the contract calls infeasible",
)
MOST = Threshold(
    "failed.most",
    0.25,
    0,
    1,
    "what part of the trials that learned can be far outside: more of them are no exception but a level of "
    "their own, that of an optimizer, say, and what moves the objective explains it",
)
STILL = Threshold(
    "failed.still",
    1.1,
    1,
    100,
    "a training loss that is never above so many times the first one has not diverged: batches scatter",
)
FEWEST = 8  # trials that learned, of which one can be far outside the others
REASONS = {
    "unlearned": "the training loss ended about where it began",
    "outlying": "the objective is far outside those of the other trials",
}


def to_train(state: str, unlearned: bool, outlying: bool) -> bool:
    """Says whether a trial failed to train."""
    return state == trial_lib.INFEASIBLE or unlearned or outlying


def word(failures: Sequence["Trial"]) -> str:
    """Returns what trials that failed to train are called in a few letters."""
    alike = all(trial.state == trial_lib.INFEASIBLE for trial in failures)
    return "infeasible" if alike else "failed"


def stood_still(study: "Study", trial: "Trial") -> bool:
    """Says whether a trial's loss went nowhere, as under a learning rate that is too small; else it rose."""
    loss = trial.records.curves.get("loss")
    if trial.state == trial_lib.INFEASIBLE or loss is None:
        return False
    return bool(np.nanmax(loss) <= STILL.of(study) * loss[0])


def counts(trials: Sequence["Trial"]) -> dict[str, int]:
    """Returns how many trials there are of each state; all that failed to train count as INFEASIBLE."""
    names = [trial_lib.INFEASIBLE if trial.failed else trial.state for trial in trials]
    return dict(collections.Counter(names))


def unlearned(summary: Any, part: float = UNLEARNED.default) -> bool:
    """Says whether the training loss ended about where it began, as far as the summary tells."""
    try:
        first, last = summary["initial_loss"], summary["curves"]["loss"][-1]
        return bool(first > 0 and last >= part * first)
    except (LookupError, TypeError):
        return False


def outlying(
    metric: str, maximize: bool, objectives: Sequence[float], set_: Mapping[str, float]
) -> list[bool]:
    """Says of each of the trials that learned whether its objective is far outside those of the others.

    Args:
      metric: the objective's name.
      maximize: whether more of it is better.
      objectives: one a trial, all finite.
      set_: the thresholds that are not the default.
    """
    if len(objectives) < FEWEST:
        return [False] * len(objectives)
    deviations, gap, most = (set_.get(t.name, t.default) for t in (DEVIATIONS, GAP, MOST))
    costs = _scaled(metric, maximize, np.asarray(objectives, float))
    ordered = np.sort(costs)
    half = (len(ordered) + 1) // 2
    median = float(np.median(ordered))
    scatter = max(
        1.4826 * float(np.median(median - ordered[:half])),
        (median - float(np.quantile(ordered, 0.1))) / 1.2816,
    )
    gaps = np.diff(ordered)
    beyond = [
        value
        for value, before in zip(ordered[half:], gaps[half - 1 :], strict=True)
        if value > median + deviations * scatter and before >= max(gap * scatter, 1e-12)
    ]
    edge = min(beyond, default=math.inf)
    # Where the better half came to the same objective, no scatter says what is far.
    if scatter <= 0 or np.sum(ordered >= edge) > most * len(ordered):
        edge = math.inf
    return [bool(cost >= edge) for cost in costs]


def _scaled(metric: str, maximize: bool, values: np.ndarray) -> np.ndarray:
    """Returns costs on the scale on which they scatter alike, less being better."""
    rate = formatting.is_rate(metric) and bool(np.all((values >= 0) & (values <= 1)))
    costs = (1 - values if rate else -values) if maximize else values
    positive = costs[costs > 0]
    if len(positive) == 0 or np.any(costs < 0):
        return costs
    # A zero is as far below the least error as half of that.
    return np.log(np.where(costs > 0, costs, positive.min() / 2))


def mark(
    trials: Sequence["Trial"], metric: str, maximize: bool, set_: Mapping[str, float]
) -> list["Trial"]:
    """Returns the trials with those marked whose objectives are far outside, judged by those that learned."""
    learned = [t for t in trials if t.state == trial_lib.COMPLETE and not t.unlearned]
    far = outlying(metric, maximize, [t.objective for t in learned], set_)
    numbers = {t.number for t, is_far in zip(learned, far, strict=True) if is_far}
    return [
        dataclasses.replace(t, outlying=True, reason=t.reason or REASONS["outlying"])
        if t.number in numbers
        else t
        for t in trials
    ]


def numbers(
    directories: Mapping[int, epath.PathLike],
    statuses: Mapping[int, Mapping[str, Any]],
    objective: Mapping[str, str],
) -> set[int]:
    """Returns which trials failed to train, from their files: for a launcher, which has no `Study`.

    Args:
      directories: of the trials, by number.
      statuses: their contents of status.json, likewise.
      objective: `metric` and `mode`, as a study's specification has them.
    """
    states = {number: status["state"] for number, status in statuses.items()}
    failures = {number for number, state in states.items() if state == trial_lib.INFEASIBLE}
    learned = []
    for number, state in states.items():
        if state == trial_lib.COMPLETE:
            read = trial_lib.read_json(epath.Path(directories[number]) / "summary.json", {})
            (failures.add if unlearned(read) else learned.append)(number)
    objectives = [statuses[number]["objective"] for number in learned]
    far = outlying(objective["metric"], objective["mode"] == "max", objectives, {})
    return failures | {number for number, is_far in zip(learned, far, strict=True) if is_far}
