"""Are there gradients far above the usual, and what does the loss do there?"""

import dataclasses
import math

import numpy as np

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.proposals import Proposal
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, Finding, Question, clipping
from playbook_jax.analysis.stats import stability_fixes

ORDER = 14

FAR = Threshold(
    "gradient_outliers.far",
    5.0,
    1,
    math.inf,
    '"far above the 90th percentile" of the steps around: so many times; log-normal norms '
    "whose logarithms have a standard deviation of 0.4 are so large once in 100 million steps",
)
DEVIATIONS = Threshold(
    "gradient_outliers.deviations",
    6.0,
    0,
    1000,
    "and so many standard deviations of the logarithm (measured by quartiles): where norms "
    "vary wildly all the time, large ones are no outliers",
)
BLOCKS = 20  # of a run, in each of which norms are compared with one another
FEWEST = 50  # steps of a block
AROUND = 10  # steps before and after, in which the loss is compared
LOSS_DEVIATIONS = Threshold(
    "gradient_outliers.loss_deviations",
    5.0,
    0,
    1000,
    "the loss has risen with a gradient if it is so many standard deviations of its scatter "
    "above before",
)
SETTLING = Threshold(
    "gradient_outliers.settling",
    0.02,
    0,
    1,
    "a part of the run that does not count: that the first gradients are large is no instability",
)

QUESTION = "Are there outlier gradients?"
SECTION = "Identifying unstable workloads"
PLAYBOOK = ("gradient-spikes-by-step", "gradient-norm-outliers")
FIGURES = ("gradient-norms",)


@dataclasses.dataclass(frozen=True)
class Spike:
    """A gradient far above the usual.

    Attributes:
      step: at which it is largest.
      norm: its norm.
      times: how many times the 90th percentile of the steps around it is.
      before: the mean loss of the steps before.
      after: the largest loss of the steps after.
      hurts: whether that is above the scatter of before.
    """

    step: int
    norm: float
    times: float
    before: float
    after: float
    hurts: bool


def check(study: Study) -> list[Finding]:
    """Returns whether the best trials have outlier gradients, with their steps and the loss around.

    Source: playbook, "Identifying unstable workloads": outlier values of the gradient norm can result in
    instability in the middle of training, and say how to clip.
    """
    trials = [t for t in study.contenders if len(t.records.every.get("loss", ())) >= FEWEST]
    if not trials:
        text = "No trial is complete."
        if study.ranked:
            text = f"The best trials have no records of {FEWEST} steps or more."
        return [_finding(CANNOT_TELL, text)]
    found = {t.number: find(study, t) for t in trials}
    spikes = {number: value for number, value in found.items() if value}
    if not spikes:
        text = (
            f"In the best trials, no gradient is {formatting.number(FAR.of(study))} times the 90th "
            "percentile of those around it."
        )
        return [_finding(FINE, text, trials=tuple(found))]
    evidence = [_told(number, value) for number, value in spikes.items()]
    hurt = {number: [s for s in value if s.hurts] for number, value in spikes.items()}
    worst = [number for number, value in hurt.items() if value]
    if worst:
        first = [formatting.count(s.step) for s in hurt[worst[0]]]
        steps = f"step{'s' * (len(first) > 1)} {formatting.some(first, 4)}"
        text = (
            f"Training is shaken by outlier gradients: {formatting.trials(worst)}"
            f" ({'in the first ' if len(worst) > 1 else ''}at {steps})."
        )
        proposals = _proposals(study, trials[0])
        return [_finding(ACT, text, evidence, _mend(study, trials[0]), tuple(worst), proposals)]
    text = f"Some gradients are far above the usual ({formatting.trials(list(spikes))}), harmless so far."
    # Harmless so far, so that it is for the reader to decide.
    unsure = [dataclasses.replace(p, sure=False) for p in _proposals(study, trials[0])]
    return [_finding(LOOK, text, evidence, _mend(study, trials[0]), tuple(spikes), unsure)]


def find(study: Study, trial: Trial) -> list[Spike]:
    """Returns the outlier gradients of a trial whose every step is known, in their order."""
    norms, losses = trial.records.every["gradient_norm"], trial.records.every["loss"]
    high, far = _limits(study, norms)
    outliers = np.flatnonzero(np.isfinite(norms) & (norms > far))
    outliers = outliers[outliers >= SETTLING.of(study) * len(norms)]
    spikes: list[Spike] = []
    end = -1
    for step in outliers:
        if step <= end:
            continue
        end = step + AROUND  # one spike may last for some steps
        around = norms[step : end + 1]
        at = step + int(np.nanargmax(around))
        before, after = losses[max(0, step - AROUND) : step], losses[step : end + 1]
        before, after = before[np.isfinite(before)], after[np.isfinite(after)]
        if len(before) < 3 or not len(after):
            continue
        level = float(before.mean()) + LOSS_DEVIATIONS.of(study) * _scatter(before)
        spikes.append(
            Spike(
                int(at),
                float(norms[at]),
                float(norms[at] / high[at]),
                float(before.mean()),
                float(after.max()),
                bool(np.median(after[: AROUND // 2]) > level or after[-3:].mean() > level),
            )
        )
    return spikes


def _limits(study: Study, norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each step the 90th percentile around it, and from where on a norm is far above."""
    size = max(FEWEST, -(-len(norms) // BLOCKS))
    high, far = np.full(len(norms), np.inf), np.full(len(norms), np.inf)
    for start in range(0, len(norms), size):
        # The last block takes steps of the one before, so that each is whole.
        block = norms[max(0, min(start, len(norms) - size)) : start + size]
        block = block[np.isfinite(block) & (block > 0)]
        if len(block) < FEWEST // 2:
            continue
        quarter, median, three, ninety = np.percentile(block, [25, 50, 75, clipping.PERCENTILE])
        deviation = np.log(three / quarter) / 1.349
        high[start : start + size] = ninety
        far[start : start + size] = max(
            FAR.of(study) * ninety, median * np.exp(DEVIATIONS.of(study) * deviation)
        )
    return high, far


def _scatter(values: np.ndarray) -> float:
    """Returns the standard deviation from step to step, whatever the trend."""
    return float(np.sqrt(np.mean(np.diff(values) ** 2) / 2))


def _told(number: int, spikes: list[Spike]) -> str:
    largest = sorted(spikes, key=lambda s: -s.times)[:3]
    told = [
        f"step {formatting.count(s.step)}, {formatting.number(s.times, 2)} times the 90th percentile around "
        f"it, the loss {formatting.number(s.before)} before and up to {formatting.number(s.after)} after"
        for s in largest
    ]
    rest = f" ({len(spikes)} in all)" if len(spikes) > len(largest) else ""
    return formatting.sentence(f"Trial {number}: {'; '.join(told)}{rest}")


def _proposals(study: Study, best: Trial) -> tuple[Proposal, ...]:
    """Returns what `_mend` says, where clipping, or clipping harder, is what may help."""
    at, threshold = (
        best.records.percentiles.get(clipping.PERCENTILE),
        clipping.threshold(study, best),
    )
    harder = at is not None and not 0 < threshold <= at
    return stability_fixes.clip_outliers(study) if harder else stability_fixes.early(study)


def _mend(study: Study, best: Trial) -> str:
    at = best.records.percentiles.get(clipping.PERCENTILE)
    where = f", {formatting.number(at, 2)}" if at else ""
    threshold = clipping.threshold(study, best)
    if at and threshold > at:
        return f"Clip harder: lower clip_norm to the 90th percentile of the norms{where}."
    if threshold > 0:
        return (
            "Gradients are clipped below the 90th percentile of their norms already: try longer warmup, or "
            "another optimizer."
        )
    return f"Clip gradients at the 90th percentile of their norms{where} (hparams.clip_norm)."


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "Outliers of the gradient norm can make training unstable of a sudden, in the middle of a run. "
        "Clipping helps against those; so does warmup, where they come early."
    ),
    figures=FIGURES,
    playbook=PLAYBOOK,
).finding
