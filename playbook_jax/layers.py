"""Layers for models with traced hyperparameters, which flax lacks."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# A rate is resolved to 1/65,536: one random word of 32 bits decides over two elements, which halves what
# dropout costs where random numbers are slow (a CPU).
_RESOLUTION = 65_536


class Dropout(nn.Module):
    """Sets a random part of its input to zero and scales the rest so that the mean stays.

    Like `nn.Dropout`, but the rate comes with the call and may be traced, so that changing it does not
    recompile. (`nn.Dropout` branches on its value.)

        x = Dropout(deterministic=not train)(x, rate)

    Source: https://www.jmlr.org/papers/v15/srivastava14a.html.

    Attributes:
      deterministic: return the input as it is; may be given with the call instead.
    """

    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x: Any, rate: Any, deterministic: bool | None = None) -> Any:
        """Returns an array like `x`; unless deterministic it needs the rng "dropout".

        Args:
          x: of any shape and floating type.
          rate: scalar in [0, 1], the probability that an element is set to zero; 0 gives `x`.
          deterministic: see the attribute.
        """
        if nn.merge_param("deterministic", self.deterministic, deterministic):
            return x
        key = self.make_rng("dropout")
        dropped = jnp.round(jnp.asarray(rate) * _RESOLUTION).astype(jnp.uint32)

        def draw() -> Any:
            return _keep(key, dropped, x.shape)

        def draw_unless_off() -> Any:
            return jax.lax.cond(dropped > 0, draw, lambda: jnp.ones(x.shape, bool))

        # On a CPU random bits cost a training step of an MLP half as much again, so a rate of zero skips
        # them. Elsewhere they are cheap, and a GPU would wait for the host at every branch.
        keep = jax.lax.platform_dependent(cpu=draw_unless_off, default=draw)
        # The scale of the rounded rate keeps the mean exactly. At rate 1 nothing is kept.
        kept = _RESOLUTION - dropped
        scale = jnp.where(kept > 0, _RESOLUTION / jnp.maximum(kept, 1), 0.0)
        return jnp.where(keep, (x * scale).astype(x.dtype), jnp.zeros((), x.dtype))


def _keep(key: Any, dropped: Any, shape: tuple[int, ...]) -> Any:
    """Returns bools of this shape, each false with probability `dropped` / _RESOLUTION."""
    size = math.prod(shape)
    words = jax.random.bits(key, ((size + 1) // 2,), jnp.uint32)
    halves = jnp.concatenate([words & (_RESOLUTION - 1), words >> 16])
    return (halves[:size] >= dropped).reshape(shape)
