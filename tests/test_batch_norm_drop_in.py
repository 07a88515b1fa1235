"""Batch norm in the place of flax's, over the cases that flax tests its own by, against NumPy in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from playbook_jax.batch_norm import BatchNorm
from playbook_jax.errors import UsageError
from playbook_jax.runtime import parallel
from playbook_jax.runtime.parallel import AXIS
from tests.test_batch_norm import (
    CHANNELS,
    DEVICES,
    EPSILON,
    EXAMPLES,
    random_input,
    regimes,
)


def ours_for(axis_name=None, use_fast_variance=True, examples=None, **arguments):
    """Our batch norm for the arguments of flax's; `examples` is how many the axis has together."""
    del use_fast_variance
    return BatchNorm(virtual_batch_size=examples if axis_name else None, **arguments)


def masked_reference(x, mask, axes):
    """Mean and variance by NumPy in float64 of what the mask admits."""
    x = x.astype(np.float64)
    mean = np.mean(x, axes, where=mask, keepdims=True)
    return mean, np.mean((x - mean) ** 2, axes, where=mask, keepdims=True)


SEQUENCE = np.random.default_rng(1).uniform(size=(4, 3, 1)) < 0.6
MASKS = {
    "none": None,
    "positions": SEQUENCE,
    "whole examples": np.array([True, False, True, True])[:, None, None],
    "fewer axes": np.array([[True], [True], [False]]),
    "each number": np.random.default_rng(2).uniform(size=(4, 3, 2)) < 0.7,
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("use_fast_variance", [False, True])
def test_masked_positions_are_as_in_flax(mask, use_fast_variance):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(4, 3, 2)) + np.array([1, -2])).astype(np.float32)
    weight = rng.normal(size=x.shape)
    admitted = np.broadcast_to(True if mask is None else mask, x.shape)
    arguments = {"momentum": 0.9, "use_running_average": False}
    theirs = nn.BatchNorm(**arguments, use_fast_variance=use_fast_variance)
    ours = ours_for(**arguments, use_fast_variance=use_fast_variance)
    results = []
    for module in (ours, theirs):
        y, variables = module.init_with_output(jax.random.key(0), x, mask=mask)
        shifted = variables["params"] | {"bias": jnp.array([0.5, 1.5])}

        def loss(params, x, module=module, variables=variables):
            variables = variables | {"params": params}
            y, new = module.apply(variables, x, mask=mask, mutable=["batch_stats"])
            return jnp.sum(weight * y**2), new

        gradient, new = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(shifted, x)
        results.append((y, gradient, new))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)

    y, _, new = results[0]
    mean, var = masked_reference(x, admitted, (0, 1))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + EPSILON), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * mean[0, 0], rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * var[0, 0], rtol=1e-5)


def test_what_is_masked_may_be_nan():
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    holed = np.where(SEQUENCE, x, np.nan)
    module = BatchNorm(use_running_average=False)
    variables = module.init(jax.random.key(0), x)
    run = [module.apply(variables, v, mask=SEQUENCE, mutable=["batch_stats"]) for v in (holed, x)]
    (y, new), (expected, expected_new) = run
    jax.tree.map(np.testing.assert_array_equal, new, expected_new)
    np.testing.assert_array_equal(np.where(SEQUENCE, y, 0), np.where(SEQUENCE, expected, 0))


def by_group(x, mask, size, subsample):
    """Output, and what a device's moving averages move to [device, channel], by NumPy in float64."""
    y = np.zeros(x.shape)
    moments = np.zeros((2, DEVICES, CHANNELS))
    weights = np.zeros((DEVICES, CHANNELS))
    flat, flat_mask = (v.reshape(-1, *v.shape[2:]) for v in (x.astype(np.float64), mask))
    out = y.reshape(flat.shape)
    size = size or EXAMPLES
    for first in range(0, len(flat), EXAMPLES if subsample else size):
        group = slice(first, first + (EXAMPLES if subsample else size))
        of = slice(first, first + size)
        mean, var = masked_reference(flat[of], flat_mask[of], (0, 1))
        out[group] = (flat[group] - mean) / np.sqrt(var + EPSILON)
        count = np.broadcast_to(flat_mask[of], flat[of].shape).sum((0, 1))
        for device in sorted({example // EXAMPLES for example in range(len(flat))[group]}):
            moments[:, device] += count * np.stack([mean, var])[:, 0, 0]
            weights[device] += count
    return y, moments / weights


@regimes
@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_a_mask_holds_for_every_group(size, subsample, mapping):
    x = random_input(mean=3)
    # Each device, and each half of one, admits another number of positions, and every group some.
    mask = np.random.default_rng(4).uniform(size=x.shape[:3]) < np.linspace(0.3, 0.8, 5)
    mask[:, :, 0] = True
    mask = mask[..., None]
    module = BatchNorm(size, subsample, use_running_average=False, momentum=0.0)
    variables = module.init(jax.random.key(0), x[0], mask=mask[0])

    def apply(x, mask):
        return module.apply(variables, x, mask=mask, mutable=["batch_stats"])

    y, new = parallel.on_devices(apply, (0, 0), mapping=mapping)(x, mask)
    expected, (mean, var) = by_group(x, mask, size, subsample)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(new["batch_stats"]["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], var, rtol=1e-4)


@regimes
def test_the_gradient_under_a_mask(size, subsample):
    rng = np.random.default_rng(5)
    x, weight, direction = rng.normal(size=(3, DEVICES, EXAMPLES, 2, CHANNELS))
    mask = rng.uniform(size=x.shape[:3]) < 0.5
    mask[:, :, 0] = True
    mask = mask[..., None]

    def loss(x):
        return np.sum(weight * by_group(x, mask, size, subsample)[0] ** 2)

    with jax.enable_x64(True):
        module = BatchNorm(size, subsample, use_running_average=False)
        variables = module.init(jax.random.key(0), x[0])

        def local_loss(x, weight, mask):
            y, _ = module.apply(variables, x, mask=mask, mutable=["batch_stats"])
            return jnp.sum(weight * y**2)

        gradient = parallel.on_devices(jax.grad(local_loss), (0, 0, 0))(x, weight, mask)
        slope = float(np.vdot(gradient, direction))
    step = 1e-6
    expected = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert slope == pytest.approx(expected, rel=1e-6)


def test_a_group_of_which_nothing_is_left_moves_no_average():
    x = random_input()[0]
    mask = np.ones((EXAMPLES, 1, 1), bool)
    mask[:4] = False
    module = BatchNorm(4, use_running_average=False, momentum=0.5)
    variables = module.init(jax.random.key(0), x)
    y, new = module.apply(variables, x, mask=mask, mutable=["batch_stats"])
    assert np.all(np.isfinite(y))
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.5 * x[4:].mean((0, 1)), rtol=1e-5)
    _, same = module.apply(variables, x, mask=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, same["batch_stats"], variables["batch_stats"])


def test_a_mask_that_admits_all_changes_nothing():
    x = random_input()[0]
    for size in (2, 8):
        module = BatchNorm(size, use_running_average=False)
        variables = module.init(jax.random.key(0), x)
        run = [module.apply(variables, x, mask=m, mutable=["batch_stats"]) for m in (None, True)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *run)


@pytest.mark.parametrize(
    ("dtype", "arguments"),
    [
        (np.complex64, {}),
        (np.float32, {"dtype": jnp.complex64}),
        (np.float32, {"param_dtype": jnp.complex64}),
    ],
)
def test_complex_numbers_are_refused_in_one_line(dtype, arguments):
    module = BatchNorm(use_running_average=False, **arguments)
    with pytest.raises(UsageError, match="real numbers, not complex64") as error:
        module.init(jax.random.key(0), np.ones((4, 2), dtype))
    assert "\n" not in error.value.args[0]


def test_a_mask_of_another_shape_is_refused_in_one_line():
    module = BatchNorm(use_running_average=False)
    with pytest.raises(UsageError, match=r"mask of shape \(4, 7\) .* \(4, 3, 2\)"):
        module.init(jax.random.key(0), np.ones((4, 3, 2)), mask=np.ones((4, 7)))


@pytest.mark.parametrize("shape", [(2, 4), (8, 3), (4, 3, 2), (6, 5, 4, 3)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int32"])
def test_shapes_and_types_are_those_of_flax(shape, dtype):
    x = (10 * np.random.default_rng(0).normal(size=shape)).astype(jnp.dtype(dtype))
    found = []
    for module in (BatchNorm, nn.BatchNorm):
        norm = module(use_running_average=False, momentum=0.9)
        y, variables = norm.init_with_output(jax.random.key(0), x)
        _, new = norm.apply(variables, x, mutable=["batch_stats"])
        evaluated = norm.clone(use_running_average=None)
        stored = evaluated.apply(variables | new, x, use_running_average=True)
        found.append((y, variables, new, stored))
    assert jax.tree.map(lambda v: v.dtype, found[0]) == jax.tree.map(lambda v: v.dtype, found[1])
    # Ours has not the error that flax's E[x²] − E[x]² has, and both round to 8 or 11 bits at the end.
    tolerance = {"float16": 2e-3, "bfloat16": 2e-2}.get(dtype, 1e-4)

    def close(actual, expected):
        actual, expected = (np.asarray(v, np.float64) for v in (actual, expected))
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)

    jax.tree.map(close, *found)
    mean, var = masked_reference(x, np.True_, tuple(range(x.ndim - 1)))
    expected = (x.astype(np.float64) - mean) / np.sqrt(var + EPSILON)
    np.testing.assert_allclose(
        np.asarray(found[0][0], np.float64), expected, rtol=tolerance, atol=1e-4
    )


class Twice(nn.Module):
    """One batch norm, called twice; `make` gets the axis's name and number of examples."""

    make: object
    examples: int

    @nn.compact
    def __call__(self, x):
        """Returns the output and that of a second call."""
        norm = self.make(
            axis_name=AXIS, examples=self.examples, use_running_average=False, momentum=0.9
        )
        return norm(x), norm(x)


def flax_norm(examples, **arguments):
    del examples
    return nn.BatchNorm(**arguments)


@pytest.mark.parametrize("make", [ours_for, flax_norm])
def test_initialization_needs_no_axis_and_may_call_twice(make):
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    (first, second), variables = Twice(make, 8).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(first, second)
    (stats,) = variables["batch_stats"].values()
    np.testing.assert_array_equal(stats["mean"], np.zeros(4))


class Layer(nn.Module):
    """A dense layer and a batch norm, ours or flax's."""

    make: object
    axis_name: str | None = None
    examples: int | None = None

    @nn.compact
    def __call__(self, x):
        """Returns an array like `x`, and nothing for scan to stack."""
        x = nn.Dense(x.shape[-1], name="dense")(x)
        norm = self.make(
            axis_name=self.axis_name,
            examples=self.examples,
            use_running_average=False,
            momentum=0.9,
            name="norm",
        )
        return norm(x), None


NESTED = {
    "plain": lambda make: Layer(make),
    "remat": lambda make: nn.remat(Layer)(make),
    "jit": lambda make: nn.jit(Layer)(make),
    "scan": lambda make: nn.scan(
        Layer,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=3,
    )(make),
    "vmap": lambda make: nn.vmap(
        Layer,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
    )(make),
    "vmap over the axis": lambda make: nn.vmap(
        Layer,
        variable_axes={"params": None, "batch_stats": None},
        split_rngs={"params": False},
        axis_name=AXIS,
    )(make, axis_name=AXIS, examples=20),
}


@pytest.mark.parametrize("nested", NESTED.values(), ids=NESTED)
def test_nested_in_flaxs_transformations(nested):
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    results = []
    for make in (ours_for, flax_norm):
        module = nested(make)
        variables = module.init(jax.random.key(0), x)

        def loss(params, x, module=module, variables=variables):
            variables = variables | {"params": params}
            (y, _), new = module.apply(variables, x, mutable=["batch_stats"])
            return jnp.sum(y**3), (y, new)

        results.append(jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables["params"], x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *results)


def test_the_averages_forget_faster_than_flaxs_unless_told():
    assert (BatchNorm().momentum, nn.BatchNorm().momentum) == (0.9, 0.99)
    text = " ".join(BatchNorm.__doc__.split())
    assert "`momentum` is 0.9 unless given, there 0.99" in text
    assert "mean of the variances within the groups" in text
