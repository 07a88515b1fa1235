"""Batch norm in every regime, against NumPy in float64, on four devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from playbook_jax.batch_norm import BatchNorm, _shifted_moments, _two_pass_moments
from playbook_jax.runtime import parallel

DEVICES, EXAMPLES, CHANNELS = 4, 8, 3
EPSILON = 1e-5
# (virtual_batch_size, subsample): ghost, the device's own, groups of devices, all devices, subsampled.
REGIMES = [
    (1, False),
    (2, False),
    (4, False),
    (8, False),
    (None, False),
    (16, False),
    (32, False),
    (3, True),
    (8, True),
]
regimes = pytest.mark.parametrize(("size", "subsample"), REGIMES)


def statistics(x, size, subsample):
    """Returns mean and variance for each example, and those of each group, by NumPy in float64.

    Args:
      x: [devices, examples, positions, channels].
      size, subsample: the regime; groups are consecutive examples of all devices' laid end to end.
    """
    x = x.astype(np.float64)
    devices, examples, positions, channels = x.shape
    if subsample:
        groups, repeats = x[:, :size], examples
    else:
        size = size or examples
        groups, repeats = x.reshape(-1, size, positions, channels), size
    mean, var = groups.mean((1, 2)), groups.var((1, 2))
    each = [np.repeat(s, repeats, 0).reshape(devices, examples, 1, channels) for s in (mean, var)]
    return each, (mean, var)


def reference(x, scale, bias, size, subsample):
    (mean, var), _ = statistics(x, size, subsample)
    return (x.astype(np.float64) - mean) / np.sqrt(var + EPSILON) * scale + bias


def on_each_device(module, x, mapping="pmap"):
    """Returns outputs and new batch statistics, both with a leading device axis."""
    variables = module.init(jax.random.key(0), x[0])

    def apply(variables, x):
        return module.apply(variables, x, mutable=["batch_stats"])

    return parallel.on_devices(apply, (None, 0), mapping=mapping)(variables, x)


def random_input(seed=0, mean=0.5, dtype=np.float32):
    rng = np.random.default_rng(seed)
    means = mean * (1 + np.arange(CHANNELS)) * (-1) ** np.arange(CHANNELS)
    x = rng.normal(size=(DEVICES, EXAMPLES, 5, CHANNELS))
    # Every device and example has a distribution of its own, so that a wrong group shows.
    x += rng.normal(size=(DEVICES, 1, 1, CHANNELS)) + rng.normal(size=(1, EXAMPLES, 1, CHANNELS))
    return (x * [0.5, 1, 2] + means).astype(dtype)


@pytest.mark.playbook("ghost-batch-norm", "synchronized-batch-norm", "batch-norm-has-its-own-batch")
@regimes
@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_forward_and_gradient(size, subsample, mapping):
    rng = np.random.default_rng(1)
    x = random_input(dtype=np.float64)[:, :, :2]
    scale, bias = rng.normal(size=(2, CHANNELS))
    weight = rng.normal(size=x.shape)

    def loss(x, scale, bias):
        y = reference(x, scale, bias, size, subsample)
        return np.sum(weight * (y + y**2))

    def numeric_gradient(argument):
        """Central differences; their error, from third derivatives, is below 1e-6 of the largest."""
        arguments, step = [x, scale, bias], 1e-5
        gradient = np.zeros_like(arguments[argument])
        for index in np.ndindex(*gradient.shape):
            values = []
            for sign in (1, -1):
                moved = arguments[argument].copy()
                moved[index] += sign * step
                values.append(loss(*[*arguments[:argument], moved, *arguments[argument + 1 :]]))
            gradient[index] = (values[0] - values[1]) / (2 * step)
        return gradient

    with jax.enable_x64(True):
        module = BatchNorm(size, subsample, use_running_average=False)
        variables = module.init(jax.random.key(0), x[0])

        def local_loss(params, x, weight):
            updated = {"params": params, "batch_stats": variables["batch_stats"]}
            y, _ = module.apply(updated, x, mutable=["batch_stats"])
            return jnp.sum(weight * (y + y**2)), y

        # As in the training step: the gradient of a sum over devices, each taking that of its own part.
        gradient = jax.grad(local_loss, argnums=(0, 1), has_aux=True)
        mapped = parallel.on_devices(gradient, (None, 0, 0), mapping=mapping)
        (by_params, by_x), y = mapped({"scale": scale, "bias": bias}, x, weight)
    np.testing.assert_allclose(y, reference(x, scale, bias, size, subsample), rtol=0, atol=1e-12)
    for actual, argument in (
        (by_x, 0),
        (np.asarray(by_params["scale"]).sum(0), 1),
        (np.asarray(by_params["bias"]).sum(0), 2),
    ):
        expected = numeric_gradient(argument)
        np.testing.assert_allclose(actual, expected, atol=1e-6 * np.max(np.abs(expected)))


@regimes
def test_moving_averages(size, subsample):
    # After some steps, the mean over devices is the linear combination of the statistics of every group.
    module = BatchNorm(size, subsample, use_running_average=False, momentum=0.7)
    batches = [random_input(seed) for seed in range(3)]
    variables = module.init(jax.random.key(0), batches[0][0])

    def step(stats, x):
        updated = {"params": variables["params"], "batch_stats": stats}
        return module.apply(updated, x, mutable=["batch_stats"])[1]["batch_stats"]

    mapped = parallel.on_devices(step, (0, 0))
    stats = parallel.replicate(variables["batch_stats"])
    expected = {"mean": np.zeros((DEVICES, CHANNELS)), "var": np.ones((DEVICES, CHANNELS))}
    of_groups = {"mean": np.zeros(CHANNELS), "var": np.ones(CHANNELS)}
    for x in batches:
        stats = mapped(stats, x)
        each, groups = statistics(x, size, subsample)
        for name, example, group in zip(("mean", "var"), each, groups, strict=True):
            own = example.reshape(DEVICES, -1, CHANNELS).mean(1)
            expected[name] = 0.7 * expected[name] + 0.3 * own
            of_groups[name] = 0.7 * of_groups[name] + 0.3 * group.mean(0)
    for name, values in stats.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.mean(values, 0), of_groups[name], rtol=1e-5, atol=1e-6)


@regimes
def test_large_means_do_not_cancel(size, subsample):
    x = random_input(mean=1e4)
    y, new = on_each_device(BatchNorm(size, subsample, use_running_average=False, momentum=0.0), x)
    (mean, var), _ = statistics(x, size, subsample)
    # A sum of float32 leaves some roundings of 6e-8 in the mean. In the output they weigh in proportion to
    # mean / standard deviation (at most 1e5 here), and so they do in a variance between devices. With
    # E[x²] − E[x]² they would weigh with its square, and nothing of the variance would be left.
    roundings = 2e-7 * np.abs(mean) / np.sqrt(var + EPSILON)
    error = np.abs(y - reference(x, 1.0, 0.0, size, subsample))
    assert np.all(error <= 1e-5 + roundings * (1 + np.abs(y)))
    own = [s.reshape(DEVICES, -1, CHANNELS).mean(1) for s in (mean, var, var * roundings)]
    np.testing.assert_allclose(new["batch_stats"]["mean"], own[0], rtol=2e-7)
    assert np.all(np.abs(new["batch_stats"]["var"] - own[1]) <= 1e-5 * own[1] + own[2])


@pytest.mark.parametrize("moments", [_two_pass_moments, _shifted_moments])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_moments_of_many_numbers(moments, mean):
    # The CPU's way and that of other devices, which none of the other tests reaches.
    x = (np.random.default_rng(0).normal(size=(20_000, 3)) + mean).astype(np.float32)
    actual = jax.jit(lambda x: moments(x, (0,)))(x)
    x = x.astype(np.float64)
    np.testing.assert_allclose(actual[0][0], x.mean(0), rtol=1.2e-7, atol=1e-6)
    np.testing.assert_allclose(actual[1][0], x.var(0), rtol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(moments(x, (0,))[1] * np.array([1.0, 2, 3])))
    with jax.enable_x64(True):
        expected = 2 * (x - x.mean(0)) / len(x) * [1, 2, 3]
        np.testing.assert_allclose(gradient(x), expected, rtol=1e-6, atol=1e-11)


@regimes
def test_bfloat16_has_float32_statistics(size, subsample):
    x = random_input(mean=10, dtype=jnp.bfloat16)
    module = BatchNorm(size, subsample, use_running_average=False, momentum=0.0, dtype=jnp.bfloat16)
    y, new = on_each_device(module, x)
    assert y.dtype == jnp.bfloat16
    (mean, var), _ = statistics(x, size, subsample)
    for name, value in (("mean", mean), ("var", var)):
        own = value.reshape(DEVICES, -1, CHANNELS).mean(1)
        assert new["batch_stats"][name].dtype == np.float32
        np.testing.assert_allclose(new["batch_stats"][name], own, rtol=1e-5, atol=1e-6)
    # One rounding to the 8 bits of a bfloat16, at the end.
    expected = reference(x, 1.0, 0.0, size, subsample)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"axis": 1},
        {"axis": (1, -1)},
        {"use_bias": False, "epsilon": 1e-3},
        {"use_scale": False},
        {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16},
    ],
)
@pytest.mark.parametrize("use_running_average", [False, True])
def test_is_a_drop_in_for_that_of_flax(arguments, use_running_average):
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(16, 4, 6)) + 1).astype(np.float32)
    weight = rng.normal(size=x.shape)
    arguments = {"momentum": 0.9, "use_running_average": use_running_average} | arguments
    ours, theirs = BatchNorm(**arguments), nn.BatchNorm(**arguments, use_fast_variance=False)
    variables = jax.jit(theirs.init)(jax.random.key(0), x)
    shapes = jax.tree.map(lambda v: (v.shape, v.dtype), variables)
    own = jax.jit(ours.init)(jax.random.key(0), x)
    assert shapes == jax.tree.map(lambda v: (v.shape, v.dtype), own)
    leaves, structure = jax.tree.flatten(variables)
    leaves = [jnp.asarray(rng.uniform(0.5, 2, v.shape), v.dtype) for v in leaves]
    variables = jax.tree.unflatten(structure, leaves)

    def run(module):
        def loss(params, x):
            updated = variables | ({"params": params} if params else {})
            y, new = module.apply(updated, x, mutable=["batch_stats"])
            return jnp.sum(weight * y.astype(jnp.float32)), (y, new)

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables.get("params", {}), x)

    def close(actual, expected):
        assert actual.dtype == expected.dtype
        # Order of the sums; in bfloat16, one rounding of the output and its gradient.
        tolerance = 1e-5 if arguments.get("dtype") is None else 2**-6
        actual, expected = (np.asarray(v, np.float64) for v in (actual, expected))
        scale = np.max(np.abs(expected), initial=0)
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * scale)

    jax.tree.map(close, run(ours), run(theirs))


def test_evaluation_needs_neither_axis_nor_fitting_batch():
    x = random_input()[0]
    module = BatchNorm(virtual_batch_size=64)
    variables = module.init(jax.random.key(0), x, use_running_average=False)
    stats = {"mean": np.full(CHANNELS, 2.0), "var": np.full(CHANNELS, 4.0)}
    variables = {"params": variables["params"], "batch_stats": stats}
    y = module.apply(variables, x[:7], use_running_average=True)
    np.testing.assert_allclose(y, (x[:7] - 2) / np.sqrt(4 + EPSILON), rtol=1e-5, atol=1e-6)


def test_initialization_leaves_the_averages_alone():
    for size in (3, 8, 64):
        module = BatchNorm(virtual_batch_size=size, use_running_average=False)
        variables = module.init(jax.random.key(0), jnp.full((1, CHANNELS), 7.0))
        np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(CHANNELS))
        np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(CHANNELS))


@pytest.mark.playbook("subsampled-batch-norm")
def test_subsample_sees_only_the_first_examples():
    x = random_input()
    changed = x.copy()
    changed[:, 3:] *= 100
    module = BatchNorm(3, subsample=True, use_running_average=False)
    y, new = on_each_device(module, x)
    other_y, other = on_each_device(module, changed)
    jax.tree.map(np.testing.assert_array_equal, new, other)
    np.testing.assert_array_equal(y[:, :3], other_y[:, :3])


@pytest.mark.parametrize("size", [4, 8])
def test_second_derivatives(size):
    # Forward over reverse, of our rule, against reverse over reverse through plain operations.
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        x, weight, direction = rng.normal(size=(3, EXAMPLES, CHANNELS)) + 1
        module = BatchNorm(size, use_running_average=False)
        variables = module.init(jax.random.key(0), x)

        def loss(x):
            return jnp.sum(weight * module.apply(variables, x, mutable=["batch_stats"])[0] ** 3)

        def plain_loss(x):
            groups = x.reshape(-1, size, CHANNELS)
            var = jnp.var(groups, 1, keepdims=True)
            y = (groups - jnp.mean(groups, 1, keepdims=True)) / jnp.sqrt(var + EPSILON)
            return jnp.sum(weight * y.reshape(x.shape) ** 3)

        actual = jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (direction,)))(x)
        plain_gradient = jax.grad(plain_loss)
        product = jax.grad(lambda x: jnp.vdot(plain_gradient(x), direction))
        expected = jax.jit(lambda x: (plain_gradient(x), product(x)))(x)
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-8, atol=1e-8 * np.max(np.abs(e)))


def test_momentum_may_be_traced():
    traces = []

    @jax.jit
    def new_mean(x, momentum):
        traces.append(momentum)
        module = BatchNorm(use_running_average=False, momentum=momentum)
        variables = module.init(jax.random.key(0), x)
        return module.apply(variables, x, mutable=["batch_stats"])[1]["batch_stats"]["mean"]

    x = random_input()[0]
    for momentum in (0.5, 0.9):
        actual = new_mean(x, momentum)
        np.testing.assert_allclose(actual, (1 - momentum) * x.mean((0, 1)), rtol=1e-5)
    assert len(traces) == 1


def test_several_trials_in_one_program():
    x = random_input()
    module = BatchNorm(4, use_running_average=False)
    variables = module.init(jax.random.key(0), x[0])

    def apply(x):
        return module.apply(variables, x, mutable=["batch_stats"])

    y, new = jax.vmap(apply)(x)
    np.testing.assert_allclose(y, reference(x, 1.0, 0.0, 4, False), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["mean"][1], apply(x[1])[1]["batch_stats"]["mean"])
