"""Remedies that are in force: what is never said to be able to go while the trouble it is against is seen.

Clipping and warmup while trials fail or training is unstable; regularization while trials overfit; the
average of the parameters while late evaluations scatter. Not standing out among the trials that train says
nothing of what a remedy does for those that would fail without it.
"""

from collections.abc import Callable, Sequence

from playbook_jax.analysis.data import features
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.findings import (
    ACT,
    LOOK,
    Finding,
    early_instability,
    gradient_outliers,
    instability,
    late_variance,
    overfitting,
)
from playbook_jax.studies.space import conditions

STABILIZERS = ("clip_norm", "warmup_steps", "post_warmup_steps")
AVERAGES = ("polyak_decay",)


def why(study: Study, name: str) -> str:
    """Returns against which trouble a hyperparameter is in force, "trials fail"; empty for none."""
    last = conditions.path(name).rsplit(".", 1)[-1]
    if last in STABILIZERS:
        if study.failures:
            return "trials fail to train"
        checks = (instability.check, early_instability.check, gradient_outliers.check)
        return "training is unstable" if _seen(study, checks) else ""
    if last in AVERAGES:
        seen = _seen(study, (late_variance.check,))
        return "evaluations scatter late in training" if seen else ""
    if any(part in last for part in features.REGULARIZERS):
        return "trials overfit" if _seen(study, (overfitting.check,)) else ""
    return ""


def _seen(study: Study, checks: Sequence[Callable[[Study], list[Finding]]]) -> bool:
    return any(found.verdict in (ACT, LOOK) for check in checks for found in check(study))
