"""Which search spaces to give the remedies for instability: warmup, then clipping; and what clipping to undo.

Source: playbook, "Potential fixes for common instability patterns" (warmup first, then clipping), "How to
apply learning rate warmup" and "Gradient clipping".
"""

import dataclasses
import math
import statistics

from playbook_jax.analysis.data.hyperparameters import HIGH, LOW, Hyperparameter
from playbook_jax.analysis.data.proposals import ADD, EXTEND, KEEP, NARROW, SET, Proposal
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.stats.infeasible_region import Region
from playbook_jax.studies.space import conditions
from playbook_jax.studies.space.search_space import Range

RATE, WARMUP, CLIPPING = "hparams.learning_rate", "hparams.warmup_steps", "hparams.clip_norm"
# Warmup over two orders of magnitude up to a tenth of max_train_steps, the playbook's most.
WARMUP_PARTS = (0.001, 0.1)
# Clipping from the threshold that acts on half the steps, the playbook's most, to a little beyond the 90th
# percentile, where it says to begin.
CLIP_PERCENTILES, CLIP_BEYOND = (50, 90), 1.5
# What trains with a remedy is seen only if the search goes some way beyond the edge: at least half a decade,
# and at most the decade with which the playbook begins. Beyond, too many trials would still fail.
# Rates that clipping made smaller are looked for below the low bound only if the best few lie in its half
# of the axis, and the lowest tenth of the trials trains.
LOW_HALF, LOWEST = 0.5, 10
BEYOND_EDGE = (math.sqrt(10), 10.0)


def propose(study: Study, region: Region, on: set[str]) -> tuple[Proposal, ...]:
    """Returns the first remedy that a study does not have, and a learning rate that may use it.

    Args:
      study: the study.
      region: where training fails.
      on: which remedies it has already, of "warmup_steps" and "clip_norm".

    Returns:
      Nothing where both are there: how to go on is then up to the reader.
    """
    rate = next(h for h in study.varying(RATE) if h.name in region.direction.names)
    added = _warmup(study) if "warmup_steps" not in on else None
    if added is None and "clip_norm" not in on:
        added = _clipping(study)
    return () if added is None else (_where(added, rate), _rate(rate, region))


def early(study: Study) -> tuple[Proposal, ...]:
    """Returns warmup, longer warmup, or clipping where training is unstable in its first steps."""
    longest = _longest_warmup(study)
    varying = study.varying(WARMUP)
    if varying:
        proposals = [
            Proposal(EXTEND, h.name, longest, HIGH)
            for h in varying
            if isinstance(h.space, Range) and longest is not None and longest > h.space.high
        ]
        if proposals:
            return tuple(proposals)
    else:
        now = study.base(WARMUP, 0)
        added = _warmup(study)
        if now and added is not None and longest > now:
            added = dataclasses.replace(added, value={**added.value, "low": now})
        if added is not None and longest > now:
            return (added,)
    clips = study.varying(CLIPPING) or study.base(CLIPPING)
    added = None if clips else _clipping(study)
    return () if added is None else (added,)


def clip_outliers(study: Study) -> tuple[Proposal, ...]:
    """Returns thresholds around the 90th percentile of the gradient norms, where they are not there yet."""
    added = _clipping(study)
    if added is None:
        return ()
    varying = study.varying(CLIPPING)
    if not varying:
        return (added,)
    low = added.value["low"]
    return tuple(
        Proposal(EXTEND, h.name, low, LOW)
        for h in varying
        if isinstance(h.space, Range) and low < h.space.low
    )


def clip_less(study: Study, trial: Trial) -> tuple[Proposal, ...]:
    """Returns thresholds that act on fewer updates than a trial's, and the smaller rates that it acted as.

    Source: playbook, "Gradient clipping": extremely aggressive clipping is a strange way of reducing the
    learning rate, which is better done by itself.
    """
    added = _clipping(study)
    threshold = study.value(trial, CLIPPING, 0.0)
    if added is None or not threshold:
        return ()
    low, high = added.value["low"], added.value["high"]
    varying = [h for h in study.varying(CLIPPING) if h.name in trial.parameters]
    proposals = [] if varying else [Proposal(SET, CLIPPING, float(f"{high / CLIP_BEYOND:.2g}"))]
    for h in varying:
        if isinstance(h.space, Range):
            if high > h.space.high:
                proposals.append(Proposal(EXTEND, h.name, high, HIGH))
            if low > h.space.low:
                proposals.append(Proposal(NARROW, h.name, low, LOW))
    smaller = min(1.0, float(threshold) / low)
    for h in study.varying(RATE):
        if (
            isinstance(h.space, Range)
            and h.space.scale == "log"
            and smaller < 1
            and _trains(study, h)
        ):
            proposals.append(Proposal(EXTEND, h.name, float(f"{h.space.low * smaller:.2g}"), LOW))
    return tuple(proposals)


def _trains(study: Study, h: Hyperparameter) -> bool:
    """Says whether the best few lie near the low bound, and the lowest values train: then lower ones may.

    Else lower ones would be looked for where nothing learns.
    """
    lowest = sorted(
        (u, t.failed)
        for t in (*study.learned, *study.failures)
        if not math.isnan(u := h.unit(t.parameters.get(h.name)))
    )[: max(3, len(study.trials) // LOWEST)]
    places = [h.unit(t.parameters.get(h.name)) for t in study.contenders if h.name in t.parameters]
    near = bool(places) and statistics.median(places) <= LOW_HALF
    return near and not any(failed for _, failed in lowest)


def _where(added: Proposal, rate: Hyperparameter) -> Proposal:
    """Returns a proposal under the condition of the learning rate, if that has one."""
    condition = rate.space.to_dict().get("when")
    if not condition:
        return added
    name = conditions.key(added.name, condition)
    return dataclasses.replace(added, name=name, value={**added.value, "when": condition})


def _longest_warmup(study: Study) -> int | None:
    steps = study.base("max_train_steps")
    return max(1, round(WARMUP_PARTS[1] * steps)) if isinstance(steps, int) else None


def _warmup(study: Study) -> Proposal | None:
    high = _longest_warmup(study)
    if high is None:
        return None
    low = max(1, round(WARMUP_PARTS[0] * study.base("max_train_steps")))
    if low >= high:
        return None
    return Proposal(ADD, WARMUP, {"scale": "log", "low": low, "high": high, "type": "int"})


def _clipping(study: Study) -> Proposal | None:
    """Returns thresholds from the gradient norms of the best few trials."""
    ends = []
    for percent in CLIP_PERCENTILES:
        norms = [t.records.percentiles.get(percent) for t in study.leaders]
        norms = [norm for norm in norms if norm is not None and math.isfinite(norm) and norm > 0]
        if not norms:
            return None
        ends.append(statistics.median(norms))
    low, high = float(f"{ends[0]:.2g}"), float(f"{CLIP_BEYOND * ends[1]:.2g}")
    if low >= high:
        return None
    return Proposal(ADD, CLIPPING, {"scale": "log", "low": low, "high": high})


def _rate(axis: Hyperparameter, region: Region) -> Proposal:
    """Returns the learning rate's high bound: some way beyond the edge, whatever other findings say."""
    bound = axis.bound(HIGH)
    if region.direction.names == (axis.name,) and region.direction.decades:
        least, most = (float(f"{axis.value(region.cut) * far:.2g}") for far in BEYOND_EDGE)
        if least > bound:
            return Proposal(EXTEND, axis.name, least, HIGH)
        if most < bound:
            return Proposal(NARROW, axis.name, most, HIGH)
    return Proposal(KEEP, axis.name, None, HIGH)
