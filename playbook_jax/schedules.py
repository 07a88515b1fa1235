"""Learning rate schedules: a simple decay, with warmup prepended.

A run lasts W + P + N steps, W = `warmup_steps`, P = `post_warmup_steps`, N = `max_train_steps`:

    step t     0 … W − 1    W … W + P − 1    W + P … W + P + N
    rate       B · t / W    B                B · decay(t − W − P)

The playbook ("How to apply learning rate warmup") prepends warmup onto an existing schedule: it makes
the run longer and leaves the N steps of the schedule behind it as they were. So warmup can be tuned
without touching the decay, unlike with `optax.warmup_cosine_decay_schedule`, whose warmup eats into it.

There are no piecewise schedules, and none is planned. Published ones are often the trace of somebody
watching one run's validation error and lowering the rate by hand; they depend on every other
hyperparameter of that run and cannot be repeated ("Why do some papers have complicated learning rate
schedules?"). Linear and cosine decay are the playbook's defaults ("Which learning rate decay should I
use as a default?"); `constant` is for the first experiments on a new project.

Another decay joins by one entry in `SCHEDULES`, made where the workload is defined: its file is imported
before names are looked up.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from playbook_jax.config import HPARAM_DEFAULTS
from playbook_jax.errors import UsageError, unknown

Schedule = Callable[[Any], Any]

# Each is called with s, the number of steps since the decay began (0 ≤ s ≤ N), with N, and with the
# hparams. s and N are whole numbers. The results are fractions of B, 1 at s = 0. N − s is taken in
# whole numbers because 1 − s/N would leave few correct digits near the end of a long run.
Decay = Callable[[Any, Any, Mapping[str, Any]], Any]


def _constant(s: Any, n: Any, hparams: Mapping[str, Any]) -> Any:
    del s, n, hparams
    return 1.0


def _linear(s: Any, n: Any, hparams: Mapping[str, Any]) -> Any:
    return (n - s) / n + hparams["end_factor"] * (s / n)


def _cosine(s: Any, n: Any, hparams: Mapping[str, Any]) -> Any:
    # (1 + cos(π s/N)) / 2 = sin²(π/2 · (N − s)/N), without the cancellation near the end.
    fraction = jnp.sin(jnp.pi / 2 * ((n - s) / n)) ** 2
    return fraction + hparams["end_factor"] * (1 - fraction)


def _rsqrt(s: Any, n: Any, hparams: Mapping[str, Any]) -> Any:
    del n
    return jnp.sqrt(hparams["rsqrt_timescale"] / (hparams["rsqrt_timescale"] + s))


SCHEDULES: dict[str, Decay] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "rsqrt": _rsqrt,
}


def make_schedule(name: str, hparams: Mapping[str, Any], max_train_steps: Any) -> Schedule:
    """Returns the learning rate as a function of the step t = 0, 1, …, t of any shape.

    With B = `learning_rate`, e = `end_factor` and τ = `rsqrt_timescale`, the rate at s steps behind the
    warmup, s clamped to [0, N], is

        constant   B
        linear     B (1 − (1 − e) s/N)
        cosine     B (e + (1 − e)(1 + cos(π s/N))/2)
        rsqrt      B √(τ/(τ + s))

    Steps are counted in whole numbers, so no step is lost to rounding in float32.

    Args:
      name: a key of `SCHEDULES`.
      hparams: scalars, traced or not: `learning_rate`, and those of `warmup_steps`,
        `post_warmup_steps`, `end_factor` and `rsqrt_timescale` that are not to have their default. An
        entry of your own in `SCHEDULES` gets them all.
      max_train_steps: N, at least 1, without the warmup; traced or not.

    Raises:
      UsageError: there is no schedule of this name, or hparams has no `learning_rate`.
    """
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    if "learning_rate" not in hparams:
        raise UsageError("hparams lacks 'learning_rate', the base of every schedule")
    names = ("warmup_steps", "post_warmup_steps", "end_factor", "rsqrt_timescale")
    defaults = {key: HPARAM_DEFAULTS[key] for key in names if key not in hparams}
    # Not a copy where there is nothing to add: contract.py notes what is read.
    values = {**hparams, **defaults} if defaults else hparams
    decay = SCHEDULES[name]

    def schedule(t: Any) -> Any:
        peak = jnp.asarray(hparams["learning_rate"], float)
        warmup, post_warmup, n = (
            jnp.asarray(x).astype(int)
            for x in (values["warmup_steps"], values["post_warmup_steps"], max_train_steps)
        )
        s = jnp.clip(t - warmup - post_warmup, 0, n)
        # The divisor is 1 where there is no warmup: the branch not taken must not divide by zero.
        ramp = jnp.where(t < warmup, t / jnp.maximum(warmup, 1), 1.0)
        return peak * ramp * decay(s, n, values)

    return schedule
