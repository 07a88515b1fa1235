"""Is a difference between two best trials more than what training them again would change?

The bootstrap tells how far the best would be another one had other points been tried. That a run with another
seed comes out elsewhere is noise of its own, which replicates measure, see `retrain_noise`. Source: playbook,
"Determining whether to adopt a training pipeline change or hyperparameter configuration" (retrain variance).
"""

import dataclasses
import math
from statistics import NormalDist

from playbook_jax.analysis import isolation, numerals, replicate_statistics
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, Finding
from playbook_jax.analysis.hyperparameters import Hyperparameter
from playbook_jax.analysis.study import Study

# So many standard deviations of the difference of two runs are seldom reached by noise, in one direction.
DEVIATIONS = NormalDist().inv_cdf(1 - replicate_statistics.LEVEL)


def weigh(study: Study, h: Hyperparameter, found: Finding) -> Finding:
    """Returns a finding on which value is best with the retrain noise weighed, if that is known.

    A difference that is told apart by the trials, and lies within what training both again would change, is
    not told.

    Args:
      study: all that was compared.
      h: what was compared.
      found: what the trials alone say.
    """
    parts = sorted(
        (part for part in isolation.slices(study, h) if part.complete), key=lambda p: p.costs[0]
    )
    if study.retrain is None or len(parts) < 2:
        return found
    gains = {part.label: float(part.costs[0] - parts[0].costs[0]) for part in parts[1:]}
    noise = math.sqrt(2) * study.retrain.sd
    scatter = numerals.metric(study.metric, study.retrain.sd)
    within = [label for label, gain in gains.items() if gain < DEVIATIONS * noise]
    told = (
        f"Trained again with other seeds, {study.retrain.name} scatters by {scatter} (standard deviation of "
        f"{len(study.retrain.objectives)} runs), so two runs that are alike differ by "
        f"{numerals.metric(study.metric, noise)} or so."
    )
    if within:
        told += f" No further behind {parts[0].label} than that may explain: {numerals.some(within, 5)}."
    found = dataclasses.replace(found, evidence=(*found.evidence, told))
    if len(within) < len(gains) or not max(gains.values()):
        return found
    return dataclasses.replace(
        found,
        verdict=CANNOT_TELL if found.verdict == FINE else found.verdict,
        answer=f"{found.answer} It is within what training them again may change.",
        action=found.action or _more(study, max(gains.values())),
    )


def _more(study: Study, gain: float) -> str:
    sd = study.retrain.sd
    number = numerals.count(replicate_statistics.replicates_needed(gain, sd, sd))
    return (
        f"Train the best trial of each again with other seeds, {number} times or so each, or treat them as "
        "equal and take the cheaper or simpler one."
    )
