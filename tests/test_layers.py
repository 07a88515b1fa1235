"""Dropout with a traced rate, and modules from configs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from playbook_jax import layers
from playbook_jax.errors import UsageError
from playbook_jax.layers import Dropout, _keep


def dropout(x, rate, seed=0):
    return Dropout(deterministic=False).apply({}, x, rate, rngs={"dropout": jax.random.key(seed)})


@pytest.mark.playbook("traced-dropout")
def test_changing_the_rate_does_not_compile_again():
    traces = []

    @jax.jit
    def compiled(x, rate):
        traces.append(rate)
        return dropout(x, rate)

    x = np.ones((64, 64), np.float32)
    for rate in (0.0, 0.1, 0.5, 0.9):
        zeros = np.mean(np.asarray(compiled(x, rate)) == 0)
        # Five standard deviations of a binomial fraction with n = 4,096 are at most 0.04.
        assert abs(zeros - rate) < 0.04
    assert len(traces) == 1


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 5, 7)])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_kept_elements_are_scaled_and_types_kept(shape, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape) + 3, dtype)
    y = dropout(x, np.float32(0.25))
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    expected = np.where(y == 0, 0, np.asarray(x, np.float32) / 0.75).astype(dtype)
    # The scale is rounded once in float32 before the product is.
    np.testing.assert_allclose(
        np.asarray(y, np.float32), np.asarray(expected, np.float32), rtol=2e-7
    )


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.37, 0.5, 0.9])
def test_mean_is_preserved(rate):
    y = np.asarray(jax.jit(dropout)(np.ones((1000, 1000), np.float32), rate), np.float64)
    # The variance of one element is rate / (1 − rate); five standard deviations of a mean over 10⁶.
    assert abs(np.mean(y) - 1) < 5 * np.sqrt(rate / (1 - rate) / 1e6)
    # What one random word decides, an element of the first half and one of the second, is independent.
    first, second = np.split(y.ravel() == 0, 2)
    bound = 5 * np.sqrt(1 / 5e5)
    assert abs(np.corrcoef(first, second)[0, 1]) < bound
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < bound


@pytest.mark.parametrize("rate", [0, 0.0, np.float32(0), 1e-9])
def test_zero_rate_is_the_identity(rate):
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    for function in (dropout, jax.jit(dropout)):
        np.testing.assert_array_equal(function(x, rate), x)
    # On other devices than CPUs the bits are drawn whatever the rate.
    assert np.all(_keep(jax.random.key(0), jnp.uint32(0), (5, 7)))


def test_rate_one_gives_zeros_and_no_nan():
    x = np.ones((5, 7), np.float32)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(dropout(x, 1.0)))(x)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(x))


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_gradient_has_the_mask_of_the_value(rate):
    x = np.random.default_rng(1).normal(size=(8, 9)).astype(np.float32)
    weight = np.random.default_rng(2).normal(size=(8, 9)).astype(np.float32)

    @jax.jit
    def both(x, rate):
        function = lambda x: (jnp.sum(weight * dropout(x, rate)), dropout(x, rate))  # noqa: E731
        return jax.value_and_grad(function, has_aux=True)(x)

    (_, y), gradient = both(x, rate)
    expected = np.where(np.asarray(y) == 0, 0, weight / (1 - rate))
    # The rate is rounded to 1/65,536.
    np.testing.assert_allclose(gradient, expected, rtol=2e-5)


def test_is_a_function_of_the_key():
    x = np.ones((100,), np.float32)
    np.testing.assert_array_equal(dropout(x, 0.5, seed=3), dropout(x, 0.5, seed=3))
    assert np.any(dropout(x, 0.5, seed=3) != dropout(x, 0.5, seed=4))

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return [Dropout(deterministic=False)(x, 0.5) for _ in range(2)]

    first, second = Two().apply({}, x, rngs={"dropout": jax.random.key(0)})
    assert np.any(first != second)


def test_in_a_loop_and_packed():
    x = np.ones((50, 40), np.float32)

    def mean_zeros(rate):
        def body(i, total):
            return total + jnp.mean(dropout(x, rate, seed=i) == 0)

        return jax.lax.fori_loop(0, 10, body, 0.0) / 10

    rates = np.array([0.0, 0.2, 0.8], np.float32)
    # Five standard deviations of a fraction of 20,000.
    np.testing.assert_allclose(jax.jit(jax.vmap(mean_zeros))(rates), rates, atol=0.018)


def test_deterministic_needs_no_key():
    x = np.ones((3,), np.float32)
    assert Dropout(deterministic=True).apply({}, x, 0.5) is x
    assert Dropout().apply({}, x, 0.5, deterministic=True) is x
    with pytest.raises(Exception, match="dropout"):
        Dropout().apply({}, x, 0.5, deterministic=False)


class Layer(nn.Module):
    width: int
    dtype: str = "float32"


def test_a_module_from_a_config():
    assert layers.from_config(Layer, ConfigDict({"width": 3})) == Layer(3)
    with pytest.raises(
        UsageError, match="unknown key of the model Layer 'widht'; did you mean 'width'"
    ):
        layers.from_config(Layer, {"widht": 3})
    with pytest.raises(UsageError, match=r"the config lacks 'model\.width', which Layer needs"):
        layers.from_config(Layer, {"dtype": "bfloat16"})
