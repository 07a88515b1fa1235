"""What flax lacks for traced hyperparameters."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
    """Dropout with a rate given at call time, which may be traced (flax's must be static).

    Zeroes each element with probability `rate` and scales the others by 1 / (1 − rate)
    (https://jmlr.org/papers/v15/srivastava14a.html). Needs the random stream "dropout".
    """

    deterministic: bool

    @nn.compact
    def __call__(self, x: Any, rate: Any) -> Any:
        """Returns `x` with elements dropped, or as it is if deterministic or `rate` is 0.

        Args:
          x: an array of any shape.
          rate: a scalar, at least 0 and below 1.
        """
        if self.deterministic:
            return x
        key = self.make_rng("dropout")

        def drop(x: Any) -> Any:
            keep = jax.random.bernoulli(key, 1 - rate, x.shape)
            return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)

        # Drawing the bits costs more than a small layer does.
        return jax.lax.cond(rate > 0, drop, lambda x: x, x)
