"""Which search spaces to give the remedies for instability: warmup, then clipping.

Source: playbook, "Potential fixes for common instability patterns" (warmup first, then clipping), "How to
apply learning rate warmup" and "Gradient clipping".
"""

import dataclasses
import math
import statistics

from playbook_jax.analysis.hyperparameters import HIGH, Hyperparameter
from playbook_jax.analysis.infeasible_region import Region
from playbook_jax.analysis.proposals import ADD, EXTEND, KEEP, NARROW, Proposal
from playbook_jax.analysis.study import Study
from playbook_jax.studies import conditions

RATE, WARMUP, CLIPPING = "hparams.learning_rate", "hparams.warmup_steps", "hparams.clip_norm"
# Warmup over two orders of magnitude up to a tenth of max_train_steps, the playbook's most.
WARMUP_PARTS = (0.001, 0.1)
# Clipping from the threshold that acts on half the steps, the playbook's most, to a little beyond the 90th
# percentile, where it says to begin.
CLIP_PERCENTILES, CLIP_BEYOND = (50, 90), 1.5
# What trains with a remedy is seen only if the search goes some way beyond the edge: at least half a decade,
# and at most the decade with which the playbook begins. Beyond, too many trials would still fail.
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
    rate = next(
        h
        for h in study.hyperparameters
        if h.name in region.direction.names and conditions.path(h.name) == RATE
    )
    added = _warmup(study) if "warmup_steps" not in on else None
    if added is None and "clip_norm" not in on:
        added = _clipping(study)
    return () if added is None else (_where(added, rate), _rate(rate, region))


def _where(added: Proposal, rate: Hyperparameter) -> Proposal:
    """Returns a proposal under the condition of the learning rate, if that has one."""
    condition = rate.space.to_dict().get("when")
    if not condition:
        return added
    name = conditions.key(added.name, condition)
    return dataclasses.replace(added, name=name, value={**added.value, "when": condition})


def _warmup(study: Study) -> Proposal | None:
    steps = study.base("max_train_steps")
    if not isinstance(steps, int):
        return None
    low, high = (max(1, round(part * steps)) for part in WARMUP_PARTS)
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
