"""Layers that flax lacks: for traced hyperparameters, and for architecture by config values."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from playbook_jax.batch_norm import BatchNorm
from playbook_jax.errors import UsageError, unknown

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


def from_config(module: type[nn.Module], values: Mapping[str, Any]) -> nn.Module:
    """Returns a module whose attributes are the values of a part of a config.

    Raises:
      UsageError: a key that the module has no attribute for, or an attribute without a value.
    """
    fields = {
        field.name: field.default is dataclasses.MISSING
        for field in dataclasses.fields(module)
        if field.name not in ("parent", "name")
    }
    for key in values:
        if key not in fields:
            raise unknown(f"key of the model {module.__name__}", key, fields)
    for key, required in fields.items():
        if required and key not in values:
            raise UsageError(f"the config lacks 'model.{key}', which {module.__name__} needs")
    return module(**values)


# The types that a model may compute in; its parameters, statistics and loss are float32 in any case.
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def dtype(name: str) -> Any:
    """Returns the type of computation that a config names, to be given to layers as `dtype`.

    Raises:
      UsageError: there is none of this name.
    """
    if name not in DTYPES:
        raise unknown("model.dtype", name, DTYPES)
    return DTYPES[name]


# What a model may take between its layers.
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "tanh": nn.tanh,
}


def activation(name: str) -> Callable[[Any], Any]:
    """Returns the activation that a config names.

    Raises:
      UsageError: there is none of this name.
    """
    if name not in ACTIVATIONS:
        raise unknown("model.activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def make_norm(
    kind: str, *, train: bool, virtual_batch_size: int | None = None, dtype: Any = None
) -> Callable[[Any], Any]:
    """Returns a new normalization layer of the module that calls this, by one config value.

        x = make_norm(self.norm, train=train, virtual_batch_size=64)(x)

    LayerNorm often does as well as batch norm, whose examples depend on each other (playbook, "Batch
    normalization implementation details").

    Args:
      kind: a key of `NORMS`.
      train: whether batch norm takes its statistics from the batch.
      virtual_batch_size: see `BatchNorm`; the others need none.
      dtype: of the result; the statistics are float32.

    Raises:
      UsageError: there is no such kind.
    """
    if kind not in NORMS:
        raise unknown("norm", kind, NORMS)
    return NORMS[kind](train, virtual_batch_size, dtype)


NORMS: dict[str, Callable[..., Callable[[Any], Any]]] = {
    "batch": lambda train, size, dtype: BatchNorm(size, use_running_average=not train, dtype=dtype),
    "layer": lambda train, size, dtype: nn.LayerNorm(dtype=dtype),
    "none": lambda train, size, dtype: lambda x: x,
}

# Where the norm is in a residual block: its names, and what the block computes.
PLACEMENTS: dict[str, Callable[..., Any]] = {
    "pre": lambda x, branch, norm, scale: x + scale(branch(norm(x))),
    "res_post": lambda x, branch, norm, scale: x + scale(norm(branch(x))),
    "post": lambda x, branch, norm, scale: norm(x + scale(branch(x))),
}


class Residual(nn.Module):
    """A residual connection with the norm in one of three places.

        x = Residual(norm, "pre")(x, lambda y: nn.Dense(width)(nn.relu(y)))

    The playbook ("Potential fixes for common instability patterns") wants the norm inside:

        pre       x + f(Norm(x))    https://arxiv.org/abs/2002.04745
        res_post  x + Norm(f(x))    https://arxiv.org/abs/2111.09883
        post      Norm(x + f(x))    the first Transformer's, and known to cause issues

    After the last block the first two want one more norm, which `post` already has.

    Attributes:
      norm: makes the norm, without arguments; see `make_norm`.
      placement: a key of `PLACEMENTS`.
      zero_init: multiply the branch by a parameter that begins at zero (ReZero,
        https://arxiv.org/abs/2003.04887), so that the block begins as the identity, or as Norm(x).
    """

    norm: Callable[[], Callable[[Any], Any]]
    placement: str = "pre"
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: Any, branch: Callable[[Any], Any]) -> Any:
        """Returns an array like `x`.

        Args:
          x: [batch, …, features].
          branch: f, a module or a function that may make some; keeps shape and type.

        Raises:
          UsageError: there is no such placement.
        """
        if self.placement not in PLACEMENTS:
            raise unknown("norm_placement", self.placement, PLACEMENTS)
        return PLACEMENTS[self.placement](x, branch, self.norm(), self._scale)

    def _scale(self, y: Any) -> Any:
        if not self.zero_init:
            return y
        return self.param("residual_scale", nn.initializers.zeros, ()).astype(y.dtype) * y
