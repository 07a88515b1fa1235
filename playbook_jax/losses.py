"""Losses and metrics that workloads share, each as per-example pairs (numerator, denominator)."""

from typing import Any

import jax
import jax.numpy as jnp

from playbook_jax.workload import PerExample


def cross_entropy(logits: Any, labels: Any, label_smoothing: Any = 0.0) -> PerExample:
    """Returns the softmax cross-entropy of each example, in nats, and ones.

    Args:
      logits: [batch, …, classes].
      labels: integers, [batch, …].
      label_smoothing: the share of the target that is spread evenly over all classes
        (https://arxiv.org/abs/1512.00567); may be traced.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    true = jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    loss = -(1 - label_smoothing) * true - label_smoothing * jnp.mean(log_p, axis=-1)
    return loss, jnp.ones_like(loss)


def error_rate(logits: Any, labels: Any) -> PerExample:
    """Returns 1 for each example whose largest logit is not its label's, else 0; and ones."""
    wrong = (jnp.argmax(logits, axis=-1) != labels).astype(jnp.float32)
    return wrong, jnp.ones_like(wrong)
