"""Divergence: what makes a run infeasible, in the compiled step and at the run's end.

A step is bad if its loss, gradient norm or update norm is not finite, or if the loss has stayed far above
where it began. From a bad step on the state stays as it was before it, so that nothing bad is ever saved
or ranked (playbook, "Extracting insight from experimental results": infeasible trials).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from playbook_jax.trial import STEP_COLUMNS

# A loss this many steps on end above `divergence_factor` times that of step 0 has diverged; good
# runs at high learning rates also spike, but come back sooner.
HIGH_LOSS_STEPS = 20
# The training loss must not end above where it began: the mean of the last LAST_STEPS steps above the loss
# of step 0, which is that of one batch. Beyond a tenth and so many standard errors of the difference, so that
# the noise of the batches condemns no run that merely learned nothing.
_LOSS_MARGIN, _STANDARD_ERRORS = 1.1, 4.0
# The mean absolute difference of two normal numbers, in their standard deviations.
_MEAN_DIFFERENCE = 2 / math.sqrt(math.pi)


def unless_bad(state: Any, advanced: Any, loss: Any, norms: Any, divergence_factor: Any) -> Any:
    """Returns `advanced` after a good step, and `state` with `bad_step` set after a bad one.

    Runs inside the compiled step.

    Args:
      state: a `train_step.TrainState` before the step.
      advanced: the same after it.
      loss: the step's loss.
      norms: the sum of the norms that must be finite too.
      divergence_factor: see HIGH_LOSS_STEPS; 0 is off.
    """
    first_loss = jnp.where(state.step == 0, loss, state.first_loss).astype(jnp.float32)
    # Losses that may be negative (log densities) have no meaningful multiple.
    watched = (divergence_factor > 0) & (first_loss > 0)
    high = watched & (loss > divergence_factor * first_loss)
    high_loss_steps = jnp.where(high, state.high_loss_steps + 1, 0)
    finite = jnp.isfinite(loss) & jnp.isfinite(norms)
    good = (state.bad_step < 0) & finite & (high_loss_steps < HIGH_LOSS_STEPS)
    kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), advanced, state)
    return dataclasses.replace(
        kept,
        first_loss=first_loss,
        high_loss_steps=high_loss_steps,
        bad_step=jnp.where(good | (state.bad_step >= 0), state.bad_step, state.step),
    )


def why_bad(record: np.ndarray, hparams: Mapping[str, Any]) -> str:
    """Returns the reason for which the compiled step called the step of this record bad."""
    for name, value in zip(STEP_COLUMNS[:3], record, strict=False):
        if not math.isfinite(value):
            return f"{name} is {value}".replace("_", " ")
    factor = float(hparams["divergence_factor"])
    return f"loss above {factor:g} times that of step 0 for {HIGH_LOSS_STEPS} steps on end"


def not_finite(state: Any) -> str:
    """Returns the path of an array of the model that is not finite, or "".

    The compiled step looks at loss and norms; running statistics, say, may overflow beside them. So
    this is asked, on the host, of each state that is to be saved. An optimizer's state is not asked:
    what is in it went through the norms, and some begin with an infinity (the best value so far).

    Args:
      state: a `train_step.TrainState` of NumPy arrays.
    """
    model = {name: getattr(state, name) for name in ("params", "batch_stats", "polyak")}
    for path, leaf in jax.tree.flatten_with_path(model)[0]:
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf).all():
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return ""


def ended_above_its_beginning(
    first: Sequence[float], last: Sequence[float], hparams: Mapping[str, Any]
) -> str:
    """Returns why a training loss that never was bad condemns its run after all, or "".

    How far the loss of step 0 may be off is told by how much successive losses differ, whether they fall
    or rise meanwhile. They differ more where the run has blown up, so the smaller spread counts, that at
    the beginning or that at the end.

    Args:
      first: the losses of the first `trial.LAST_STEPS` steps.
      last: the losses of the last `trial.LAST_STEPS` steps.
      hparams: with a `divergence_factor` of 0, nothing does.
    """
    # Losses that may be negative have no meaningful multiple.
    if len(last) < 2 or first[0] <= 0 or not hparams["divergence_factor"]:
        return ""
    batch = min(np.abs(np.diff(losses)).mean() for losses in (first, last)) / _MEAN_DIFFERENCE
    error = math.hypot(batch, np.std(last, ddof=1) / math.sqrt(len(last)))
    end, begin = float(np.mean(last)), first[0]
    if end > _LOSS_MARGIN * begin and end - begin > _STANDARD_ERRORS * error:
        return f"training loss ends at {end:.4g}, above the {begin:.4g} of step 0"
    return ""
