"""Whether to adopt a configuration: what fresh replicates of it and of the baseline say.

    candidate/  baseline/   studies of replicates, see procedures/replicates.py
    replicates.json         where the two sides come from
    adoption.json           written here

Reads files only. Source: playbook, "Determining whether to adopt a training pipeline change or
hyperparameter configuration".
"""

import dataclasses
import math
from typing import Any

import numpy as np
from etils import epath

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.stats import replicates as statistics
from playbook_jax.analysis.stats.replicates import Spread
from playbook_jax.errors import UsageError

ADOPT, DO_NOT, CANNOT_TELL = VERDICTS = ("adopt", "do not adopt", "cannot tell yet")
CANDIDATE, BASELINE = SIDES = ("candidate", "baseline")
SEED, NOTHING = "seed", "nothing"
# Of a float32 metric that is a count over a number of examples, times that number.
_WHOLE = 0.02


@dataclasses.dataclass(frozen=True)
class Side:
    """The replicates of one configuration.

    Attributes:
      source: where the configuration comes from, in words.
      config: the configuration, nested.
      objectives: of the replicates that are COMPLETE, in their order.
      infeasible: how many diverged.
      failed: how many FAILED, or left files that cannot be read: these say nothing of training.
      unfinished: how many have still to come to their end.
      examples: how many validation examples the objective counts, or None where that is not known.
      chosen: the study that it was chosen from, or None for a plain config.
      seconds_per_step: of each replicate where it was measured, evaluations included.
      directory: of the study of replicates, or None.
    """

    source: str
    config: dict[str, Any]
    objectives: np.ndarray
    infeasible: int = 0
    failed: int = 0
    unfinished: int = 0
    examples: int | None = None
    chosen: "Chosen | None" = None
    seconds_per_step: np.ndarray = dataclasses.field(default_factory=lambda: np.array([]))
    directory: epath.Path | None = None

    @property
    def ended(self) -> int:
        """How many replicates trained to their end, or diverged."""
        return len(self.objectives) + self.infeasible

    @property
    def spread(self) -> Spread | None:
        """The trial variance, as a standard deviation."""
        return statistics.spread(self.objectives)

    @property
    def sampling_error(self) -> float | None:
        """The standard error of one run's objective for the choice of validation examples, if it is known."""
        if not self.examples or not len(self.objectives):
            return None
        return statistics.sampling_error(float(np.mean(self.objectives)), self.examples)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The study that a configuration was chosen from.

    Attributes:
      trial: the number of the trial.
      objective: its objective there.
      objectives: of all complete trials.
      failures: how many gave no result.
    """

    trial: int
    objective: float
    objectives: np.ndarray
    failures: int = 0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Replicates of a candidate, and of the baseline where there is one.

    Attributes:
      metric: the objective, "validation/error_rate".
      maximize: whether more is better.
      vary: what the replicates differ in: "seed", "nothing", or one of the seeds.
      candidate: the configuration that may be adopted.
      baseline: the one that it would replace, or None.
      worth: the smallest improvement that is worth having, or None for the trial standard deviation.
    """

    metric: str
    maximize: bool
    vary: str
    candidate: Side
    baseline: Side | None
    worth: float | None = None

    @property
    def sides(self) -> dict[str, Side]:
        """The sides that there are, by name."""
        pairs = zip(SIDES, (self.candidate, self.baseline), strict=True)
        return {name: side for name, side in pairs if side is not None}

    def costs(self, side: Side) -> np.ndarray:
        """Returns a side's objectives, turned so that less is better."""
        return (-1 if self.maximize else 1) * side.objectives


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much better the candidate is than the baseline; negative where it is worse.

    Attributes:
      mean: of the means.
      interval: its 90 % interval, by permutation; None for an end that nothing bounds.
      median: of the medians.
      median_interval: its 90 % interval, by bootstrap.
      wins: the part of pairs of runs in which the candidate's is better.
      p_no_better: how often so much would be seen, were it no better.
      p_no_worse: how often so little would be seen, were it no worse.
      p_worthwhile: how often so little would be seen, were it better by `worth`.
      worth: the smallest improvement that is worth having.
      p_much_worse: how often so much would be seen, were it worse by `worth`.
    """

    mean: float
    interval: tuple[float | None, float | None]
    median: float
    median_interval: tuple[float, float]
    wins: float
    p_no_better: float
    p_no_worse: float
    p_worthwhile: float
    worth: float
    p_much_worse: float = 1.0


@dataclasses.dataclass(frozen=True)
class Decision:
    """The answer.

    Attributes:
      verdict: one of VERDICTS.
      reason: why, in a sentence.
      difference: the numbers behind it, where each side has two replicates.
      more: about how many more replicates of each side would tell; None where nothing says so.
    """

    verdict: str
    reason: str
    difference: Difference | None = None
    more: int | None = None


def load(directory: epath.PathLike, worth: float | None = None) -> Comparison:
    """Returns what `scripts/replicate.py` has left in its workdir so far.

    Args:
      directory: the workdir.
      worth: the smallest improvement that is worth having, where it is not the one that is stored.

    Raises:
      UsageError: that is not there, or is damaged.
    """
    directory = epath.Path(directory)
    stored = trial_lib.read_json(directory / "replicates.json")
    if not isinstance(stored, dict):
        raise UsageError(
            f"{directory} holds no replicates; give the --workdir of scripts/replicate.py"
        )
    try:
        objective = stored["objective"]
        sides = {
            name: _side(
                stored[name], epath.Path(stored[name].get("replicates") or directory / name)
            )
            for name in SIDES
            if stored.get(name)
        }
        return Comparison(
            objective["metric"],
            objective["mode"] == "max",
            stored["vary"],
            sides[CANDIDATE],
            sides.get(BASELINE),
            worth or stored.get("worth"),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{directory / 'replicates.json'} is damaged ({type(error).__name__}: {error}); "
            "run scripts/replicate.py in another --workdir"
        ) from error


def _chosen(stored: dict[str, Any] | None) -> Chosen | None:
    if stored is None:
        return None
    objectives = np.array(stored["objectives"], float)
    return Chosen(stored["trial"], stored["objective"], objectives, stored["failures"])


def _side(stored: dict[str, Any], directory: epath.Path) -> Side:
    trials: tuple[study_lib.Trial, ...] = ()
    if (directory / "study.json").exists():
        trials = study_lib.load(directory).trials
    states = [trial.state for trial in trials]
    rates = [trial.timing["steps_per_second"] for trial in trials if trial.timing]
    objectives = np.array([t.objective for t in trials if t.state == trial_lib.COMPLETE], float)
    waiting = (trial_lib.PENDING, trial_lib.RUNNING, trial_lib.INTERRUPTED)
    lost = (trial_lib.FAILED, study_lib.MISSING, study_lib.UNREADABLE)
    return Side(
        source=stored["source"],
        config=stored["config"],
        objectives=objectives,
        infeasible=states.count(trial_lib.INFEASIBLE),
        failed=sum(state in lost for state in states),
        unfinished=sum(state in waiting for state in states),
        examples=_counted(stored["validation_examples"], objectives),
        chosen=_chosen(stored["chosen"]),
        seconds_per_step=1 / np.array([rate for rate in rates if rate > 0]),
        directory=directory,
    )


def _counted(examples: int | None, rates: np.ndarray) -> int | None:
    """Returns the number of examples if the rates are counts over it; of words, say, they are not."""
    counts = (examples or 0) * rates
    return examples if examples and np.all(np.abs(counts - np.round(counts)) < _WHOLE) else None


def decide(comparison: Comparison) -> Decision:
    """Returns whether to adopt the candidate, as far as the replicates tell.

    "If a new hyperparameter point gets a better result than the baseline (taking into account the retrain
    variance of both the new point and the baseline as best we can), then we probably should adopt it", and
    complete certainty is not asked for: a better result is one that two equal sides would show in fewer
    than 5 % of cases. "Do not adopt" means the same of an improvement worth having.
    """
    candidate, baseline = comparison.candidate, comparison.baseline
    if comparison.vary == NOTHING:
        return Decision(CANNOT_TELL, "replicates with the same seed measure arithmetic only")
    if baseline is None:
        return Decision(CANNOT_TELL, "there is no baseline to compare with (--baseline)")
    unstable = _unstable(candidate, baseline)
    if min(len(candidate.objectives), len(baseline.objectives)) < 2:
        if unstable:
            return Decision(DO_NOT, unstable)
        reason = "each side needs three or more replicates that come to their end"
        return Decision(CANNOT_TELL, reason, more=_missing(candidate, baseline))
    difference, can_tell = _difference(comparison)
    if unstable:
        return Decision(DO_NOT, unstable, difference)
    if not can_tell:
        reason = "so few replicates cannot tell, whatever they are"
        return Decision(CANNOT_TELL, reason, difference, _missing(candidate, baseline))
    return _weigh(difference, comparison)


def _missing(candidate: Side, baseline: Side) -> int:
    return max(1, 3 - min(len(candidate.objectives), len(baseline.objectives)))


def _unstable(candidate: Side, baseline: Side) -> str:
    """Says that the candidate diverges more often than the baseline, if it does."""
    if not candidate.infeasible:
        return ""
    rates = [side.infeasible / max(side.ended, 1) for side in (candidate, baseline)]
    if rates[0] <= rates[1]:
        return ""
    return (
        f"{candidate.infeasible} of its {candidate.ended} replicates diverge, and {baseline.infeasible} "
        f"of {baseline.ended} of the baseline; make it stable first, by warmup or gradient clipping"
    )


def _difference(comparison: Comparison) -> tuple[Difference, bool]:
    """Returns the difference, and whether so many replicates can tell anything at all."""
    a, b = (comparison.costs(side) for side in (comparison.candidate, comparison.baseline))
    test = statistics.PermutationTest(a, b)
    worth = comparison.worth
    if worth is None:
        deviations = [statistics.spread(costs).sd for costs in (a, b)]
        worth = math.hypot(*deviations) / math.sqrt(2)
    low, high = (end if math.isfinite(end) else None for end in test.interval())
    no_better, no_worse = test.p_values()
    difference = Difference(
        mean=statistics.mean(b) - statistics.mean(a),
        interval=(low, high),
        median=float(np.median(b) - np.median(a)),
        median_interval=statistics.median_interval(a, b),
        wins=statistics.wins(a, b),
        p_no_better=no_better,
        p_no_worse=no_worse,
        p_worthwhile=test.p_values(worth)[1],
        worth=worth,
        p_much_worse=test.p_values(-worth)[0],
    )
    return difference, test.can_tell


def _weigh(difference: Difference, comparison: Comparison) -> Decision:
    if difference.p_no_better <= statistics.LEVEL:
        reason = "it is better than the baseline by more than the noise of both sides explains"
        if difference.mean < difference.worth:
            reason += f", though by less than {_worth(comparison)}"
        return Decision(ADOPT, reason, difference)
    if difference.p_no_worse <= statistics.LEVEL:
        return Decision(
            DO_NOT,
            "it is worse than the baseline by more than the noise of both sides explains",
            difference,
        )
    if difference.p_worthwhile <= statistics.LEVEL:
        reason = f"if it is better at all, then by less than {_worth(comparison)}"
        return Decision(DO_NOT, reason, difference)
    reason = "the difference is within the noise of the two sides"
    return Decision(CANNOT_TELL, reason, difference, more_replicates(difference, comparison))


def _worth(comparison: Comparison) -> str:
    return "one trial standard deviation" if comparison.worth is None else "is worth having"


def more_replicates(difference: Difference, comparison: Comparison) -> int | None:
    """Returns about how many more replicates of each side would tell, if the difference is as it looks.

    So many that in four of five cases they show an improvement as large as the present one, or that it is
    less than what is worth having, whichever takes fewer. None where neither side scatters.
    """
    deviations = [side.spread.sd for side in (comparison.candidate, comparison.baseline)]
    # What must be told from zero, and from `worth`.
    effects = [difference.mean, difference.worth - difference.mean]
    needed = [
        statistics.replicates_needed(effect, *deviations)
        for effect in effects
        if effect > 1e-3 * max(deviations)
    ]
    if not needed:
        return None
    have = min(len(side.objectives) for side in (comparison.candidate, comparison.baseline))
    return max(1, min(needed) - have)
