"""Batch norm whose statistics come from as many examples as one likes.

The playbook ("Batch normalization implementation details") wants that number apart from the batch size:
statistics of about 64 examples often work better than those of more (ghost batch norm,
https://arxiv.org/abs/1705.08741), and batch sizes can only be compared while it stays the same.

Each device keeps moving averages of its own. They are linear combinations of the statistics of the steps,
so it is enough to take their mean over the devices before they are used or saved, as the training run
does at each evaluation and scheduled checkpoint.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype

from playbook_jax.errors import UsageError
from playbook_jax.runtime.parallel import AXIS

# Indices along AXIS of the devices that share their statistics.
DeviceGroups = tuple[tuple[int, ...], ...]


def layout(size: int, batch_size: int, devices: int, *, subsample: bool = False) -> tuple[int, int]:
    """Returns into how many groups a device's batch is split, and how many devices make one group.

    At least one of the two is 1.

    Args:
      size: how many examples each statistic comes from.
      batch_size: the number of examples on a device.
      devices: how many devices there are on all hosts.
      subsample: whether the statistics come from the first examples of each device only.

    Raises:
      UsageError: the size does not fit; it is a `ValueError` and names those that do.
    """
    if subsample:
        fitting = range(1, batch_size + 1)
        groups = (1, 1)
    else:
        fitting = [n for n in range(1, batch_size + 1) if batch_size % n == 0]
        fitting += [n * batch_size for n in range(2, devices + 1) if devices % n == 0]
        groups = (max(1, batch_size // max(size, 1)), max(1, size // batch_size))
    if size in fitting:
        return groups
    sizes = f"1 to {batch_size}" if subsample else ", ".join(str(n) for n in fitting)
    raise UsageError(
        f"virtual_batch_size {size} fits neither the {batch_size} examples of a device nor groups of "
        f"{devices} device{'s' if devices > 1 else ''}; these sizes do: {sizes}"
        + _fitting_batch_sizes(size, batch_size, devices, subsample)
    )


def _fitting_batch_sizes(size: int, batch_size: int, devices: int, subsample: bool) -> str:
    """Returns a clause with the batch sizes, of all devices, that are nearest and fit `size`."""
    if size < 1:
        return ""
    if subsample:
        nearest = [size]
    else:
        parts = [size // n for n in range(1, devices + 1) if devices % n == 0 and size % n == 0]
        fitting = [*parts, batch_size // size * size, (batch_size // size + 1) * size]
        below = [max(b for b in fitting if 0 < b < batch_size)] if min(parts) < batch_size else []
        nearest = [*below, min(b for b in fitting if b > batch_size)]
    return f"; or batch_size {' or '.join(str(devices * b) for b in nearest)} with this one"


def _two_pass_moments(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    mean = jnp.mean(x, axes, keepdims=True)
    return mean, jnp.mean(jnp.square(x - mean), axes, keepdims=True)


def _shifted_moments(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    # Var = E[(x − c)²] − E[x − c]² with any c; there is nothing to cancel if c is some standard deviations
    # from the mean, as one of the elements is. With c = 0 the error would be 6e-8 · mean².
    c = x[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(x.ndim))]
    mean = jnp.mean(x - c, axes, keepdims=True)
    square = jnp.mean(jnp.square(x - c), axes, keepdims=True)
    return c + mean, jnp.maximum(square - jnp.square(mean), 0)


def _moments(
    x: Any, mask: Any, axes: tuple[int, ...], device_groups: DeviceGroups | None
) -> tuple[Any, Any, Any]:
    """Returns mean, biased variance and, under a mask, count over `axes` and groups of devices.

    The axes keep size 1. The count is None where there is no mask.
    """
    if mask is not None:
        return _masked_moments(x, mask, axes, device_groups)
    # A CPU reads x once for each of the two in any case. Elsewhere one reading is enough for both.
    mean, var = jax.lax.platform_dependent(
        x,
        cpu=functools.partial(_two_pass_moments, axes=axes),
        default=functools.partial(_shifted_moments, axes=axes),
    )
    if device_groups is None:
        return mean, var, None
    # In one collective. A mean of squares would cancel again, so each device's moments are gathered.
    means, variances = _gather([mean, var], device_groups)
    mean = jnp.mean(means, 0)
    return mean, jnp.mean(variances + jnp.square(means - mean), 0), None


def _masked_moments(
    x: Any, mask: Any, axes: tuple[int, ...], device_groups: DeviceGroups | None
) -> tuple[Any, Any, Any]:
    """Returns mean, biased variance and count of what the mask admits; 0, 0 and 0 where that is nothing."""

    def sums(values: Any) -> Any:
        # Not a product with the mask: what is masked may be NaN.
        return jnp.sum(jnp.where(mask, values, 0), axes, keepdims=True)

    count = sums(jnp.ones_like(x))
    mean = sums(x) / jnp.maximum(count, 1)
    var = sums(jnp.square(x - mean)) / jnp.maximum(count, 1)
    if device_groups is None:
        return mean, var, count
    means, variances, counts = _gather([mean, var, count], device_groups)
    count = jnp.sum(counts, 0)
    shares = counts / jnp.maximum(count, 1)
    mean = jnp.sum(shares * means, 0)
    return mean, jnp.sum(shares * (variances + jnp.square(means - mean)), 0), count


def _gather(arrays: list[Any], device_groups: DeviceGroups) -> Any:
    """Returns [array, device, …] of the devices that share their statistics."""
    groups = _index_groups(device_groups)
    return jax.lax.all_gather(jnp.stack(arrays), AXIS, axis=1, axis_index_groups=groups)


def _index_groups(device_groups: DeviceGroups) -> DeviceGroups | None:
    # Under vmap, jax has collectives over the whole axis only.
    return None if len(device_groups) == 1 else device_groups


def _mean(array: Any, mask: Any, count: Any, axes: tuple[int, ...]) -> Any:
    """Returns the mean over `axes`; under a mask, this device's part of that of what makes up `count`."""
    if mask is None:
        return jnp.mean(array, axes, keepdims=True)
    return jnp.sum(jnp.where(mask, array, 0) / jnp.maximum(count, 1), axes, keepdims=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6, 7))
def _normalize(
    x: Any,
    scale: Any,
    bias: Any,
    mask: Any,
    axes: tuple[int, ...],
    epsilon: float,
    examples: int,
    device_groups: DeviceGroups | None,
) -> tuple[Any, Any, Any, Any]:
    """Returns `x` normalized over `axes`, then scaled and shifted, and the moments used.

    These are those of the first `examples` along the first axis, without what is masked: see `_moments`.
    """
    mean, var, count = _moments(x[:examples], _first(mask, examples), axes, device_groups)
    return (x - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias, mean, var, count


def _first(mask: Any, examples: int) -> Any:
    return None if mask is None else mask[:examples]


@_normalize.defjvp
def _normalize_jvp(
    axes: tuple[int, ...],
    epsilon: float,
    examples: int,
    device_groups: DeviceGroups | None,
    primals: Any,
    tangents: Any,
) -> tuple[Any, Any]:
    # Written so that its transpose, the gradient, takes two sums over the batch (and one collective);
    # differentiating `_normalize` would give three.
    x, scale, bias, mask = primals
    x_dot, scale_dot, bias_dot, _ = tangents
    mask = _first(mask, examples)
    mean, var, count = _moments(x[:examples], mask, axes, device_groups)
    centered = x - mean
    root = jax.lax.rsqrt(var + epsilon)
    slope = root * scale
    mean_dot = _mean(x_dot[:examples], mask, count, axes)
    half_var_dot = _mean((centered * x_dot)[:examples], mask, count, axes)
    if device_groups is not None:
        reduce = jax.lax.pmean if mask is None else jax.lax.psum
        both = jnp.stack([mean_dot, half_var_dot])
        mean_dot, half_var_dot = reduce(both, AXIS, axis_index_groups=_index_groups(device_groups))
    slope_dot = root * scale_dot - slope * jnp.square(root) * half_var_dot
    y_dot = x_dot * slope + centered * slope_dot + (bias_dot - slope * mean_dot)
    count_dot = None if count is None else jnp.zeros_like(count)
    moments_dot = (mean_dot, 2 * half_var_dot, count_dot)
    return (centered * slope + bias, mean, var, count), (y_dot, *moments_dot)


def _device_groups(devices: int) -> DeviceGroups | None:
    """Returns groups of that many consecutive devices; None for one."""
    if devices == 1:
        return None
    starts = range(0, _device_count(), devices)
    return tuple(tuple(range(start, start + devices)) for start in starts)


def _device_count() -> int:
    """Returns the size of AXIS, or 1 outside of it."""
    try:
        return jax.lax.axis_size(AXIS)
    except NameError:
        return 1


def _check_real(*dtypes: Any) -> None:
    for dtype in dtypes:
        if dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
            raise UsageError(
                f"batch norm is of real numbers, not {jnp.dtype(dtype).name}; "
                "give it real and imaginary parts as features of their own"
            )


def _broadcast(mask: Any, shape: tuple[int, ...]) -> Any:
    mask = jnp.asarray(mask, bool)
    try:
        return jnp.broadcast_to(mask, shape)
    except ValueError as error:
        raise UsageError(
            f"a mask of shape {mask.shape} does not broadcast to the input's {shape}"
        ) from error


class BatchNorm(nn.Module):
    """Batch normalization (https://arxiv.org/abs/1502.03167), in the place of `nn.BatchNorm`.

        x = BatchNorm(virtual_batch_size=64, use_running_average=not train)(x)

    The first axis holds the examples. With b of them on each of D devices of the axis `AXIS`, each
    statistic comes from `virtual_batch_size` examples:

        smaller than b        a part of the device's batch: groups of consecutive examples, or, with
                              `subsample`, only the first ones, whose statistics serve the whole batch
        b, or None            the device's batch
        larger than b         the batches of consecutive devices, up to D · b, also across hosts

    The parameters are `scale` and `bias`. The collection `batch_stats` has the moving averages `mean` and
    `var` (of the biased variance), float32 whatever the type of the input. A step makes them
    momentum · old + (1 − momentum) · (mean over the device's groups, each weighed by what a mask leaves
    of it). So `var` is the mean of the variances within the groups, by which training normalized, and not
    the variance of all examples pooled (as init2winit has it), which also holds what the groups' means
    differ by. During initialization, and outside of `AXIS`, there is one device.

    What differs from `nn.BatchNorm`: `momentum` is 0.9 unless given, there 0.99, so the averages forget
    ten times as fast; the arguments have another order; `virtual_batch_size` stands for `axis_name` and
    `axis_index_groups`; `use_fast_variance` is not needed, since the variance never cancels; numbers are
    real.

    Attributes:
      virtual_batch_size: must divide b, or be a multiple n b where n divides D; with `subsample` at most b.
      subsample: see above.
      use_running_average: normalize by the moving averages and leave them alone, as evaluation does; may
        be given with the call instead.
      axis: that of the features, or several; not the first.
      momentum: of the moving averages; a number, or a traced scalar.
      epsilon: is added to the variance.
      dtype: of the result; None: that of input and parameters together.
      param_dtype: of the parameters.
      use_bias: whether to add one.
      use_scale: whether to multiply by one.
      bias_init: initializer.
      scale_init: initializer.
    """

    virtual_batch_size: int | None = None
    subsample: bool = False
    use_running_average: bool | None = None
    axis: int | tuple[int, ...] = -1
    momentum: Any = 0.9
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Callable[..., Any] = nn.initializers.zeros
    scale_init: Callable[..., Any] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Any, use_running_average: bool | None = None, *, mask: Any = None) -> Any:
        """Returns `x` normalized.

        Args:
          x: [examples, …] with the features along `axis`; real.
          use_running_average: see the attribute.
          mask: of a shape that broadcasts to that of `x`: where it is false, as in the padding of a
            sequence, a number is normalized like the others but does not enter the statistics. A group
            of which nothing is left does not enter the moving averages.

        Raises:
          UsageError: a `ValueError`: the virtual batch size does not fit (the message names those that
            do), `axis` is the first, a type is complex, or `mask` has another shape.
        """
        stored = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        feature_axes = sorted(axis % x.ndim for axis in axes)
        if 0 in feature_axes:
            raise UsageError(
                f"axis {self.axis} of shape {x.shape} holds the examples, not the features"
            )
        _check_real(x.dtype, self.dtype, self.param_dtype)
        if mask is not None:
            mask = _broadcast(mask, x.shape)
        # Of the statistics and parameters as they meet x, and as they are stored.
        shape = [n if axis in feature_axes else 1 for axis, n in enumerate(x.shape)]
        features = [x.shape[axis] for axis in feature_axes]
        averages = (
            self.variable("batch_stats", "mean", jnp.zeros, features, jnp.float32),
            self.variable("batch_stats", "var", jnp.ones, features, jnp.float32),
        )
        scale = bias = None
        if self.use_scale:
            scale = self.param("scale", self.scale_init, features, self.param_dtype)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, features, self.param_dtype)
        factor = jnp.ones(shape) if scale is None else scale.reshape(shape)
        summand = jnp.zeros(shape) if bias is None else bias.reshape(shape)

        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if stored:
            mean, var = (average.value.reshape(shape) for average in averages)
            y = (wide - mean) * (jax.lax.rsqrt(var + self.epsilon) * factor) + summand
        else:
            y, *moments = self._by_batch(wide, factor, summand, mask, feature_axes)
            if not self.is_initializing():
                self._move(averages, *moments, features)
        return y.astype(canonicalize_dtype(x, scale, bias, dtype=self.dtype))

    def _move(
        self, averages: tuple[Any, Any], mean: Any, var: Any, count: Any, features: list[int]
    ) -> None:
        """Moves the averages towards the mean over the groups, which a mask weighs by `count`."""
        for average, new in zip(averages, (mean, var), strict=True):
            new, old = new.reshape(-1, *features), average.value
            if count is None:
                new = jnp.mean(new, 0)
            else:
                counts = count.reshape(-1, *features)
                total = jnp.sum(counts, 0)
                new = jnp.sum(counts * new, 0) / jnp.maximum(total, 1)
                new = jnp.where(total > 0, new, old)
            new = self.momentum * old + (1 - self.momentum) * new
            average.value = new.astype(jnp.float32)

    def _by_batch(
        self, x: Any, scale: Any, bias: Any, mask: Any, feature_axes: list[int]
    ) -> tuple[Any, Any, Any, Any]:
        """Returns `x` normalized by its own statistics, and these: [groups, …] or like `scale`."""
        groups, devices, examples = 1, 1, x.shape[0]
        if self.virtual_batch_size is not None and not self.is_initializing():
            size, subsample = self.virtual_batch_size, self.subsample
            groups, devices = layout(size, examples, _device_count(), subsample=subsample)
            examples = size if subsample else examples
        axes = tuple(axis for axis in range(x.ndim) if axis not in feature_axes)
        statics = (self.epsilon, examples, _device_groups(devices))
        if groups == 1:
            # A leading axis of size 1 would make the sums several times slower on a CPU.
            return _normalize(x, scale, bias, mask, axes, *statics)
        shape = (groups, -1, *x.shape[1:])
        mask = None if mask is None else mask.reshape(shape)
        axes = tuple(axis + 1 for axis in axes)
        y, *moments = _normalize(x.reshape(shape), scale[None], bias[None], mask, axes, *statics)
        return y.reshape(x.shape), *moments
