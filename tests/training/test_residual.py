"""The three places of normalization, and residual branches that begin at zero."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from playbook_jax import config as config_lib, layers
from playbook_jax.errors import UsageError
from playbook_jax.layers import Residual, make_norm
from tests import small
from workloads import digits, stdlib_lm

WIDTH = 8
PLACEMENTS = ("pre", "res_post", "post")


class Block(nn.Module):
    norm: str = "layer"
    placement: str = "pre"
    zero_init: bool = False
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, train=True):
        norm = functools.partial(make_norm, self.norm, train=train, dtype=self.dtype)
        dense = functools.partial(nn.Dense, WIDTH, dtype=self.dtype)

        def branch(y):
            y = nn.tanh(dense(name="first")(y))
            return dense(name="second")(y)

        return Residual(norm, self.placement, self.zero_init)(x, branch)


def inputs(dtype=np.float32):
    return jnp.asarray(np.random.default_rng(0).normal(1, 2, size=(16, WIDTH)), dtype)


def normalized(x, axis):
    # flax's LayerNorm adds 1e-6 to the variance, batch norm 1e-5.
    epsilon = 1e-6 if axis == 1 else 1e-5
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + epsilon)


@pytest.mark.playbook("residual-and-norm", "norm-inside-the-residual")
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(("kind", "axis"), [("layer", 1), ("batch", 0), ("none", None)])
def test_each_placement_is_its_formula(placement, kind, axis):
    block, x = Block(kind, placement), inputs()
    variables = block.init(jax.random.key(1), x)
    first, second = (
        jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"]["Residual_0"][name])
        for name in ("first", "second")
    )

    def f(y):
        hidden = np.tanh(y @ first["kernel"] + first["bias"])
        return hidden @ second["kernel"] + second["bias"]

    def norm(y):
        return y if kind == "none" else normalized(y, axis)

    wide = np.asarray(x, np.float64)
    expected = {
        "pre": wide + f(norm(wide)),
        "res_post": wide + norm(f(wide)),
        "post": norm(wide + f(wide)),
    }[placement]
    actual, _ = block.apply(variables, x, mutable=["batch_stats"])
    # float32 against float64 for values of about 5.
    np.testing.assert_allclose(actual, expected, atol=3e-6)


@pytest.mark.playbook("zero-residual-branches")
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", ["layer", "batch", "none"])
def test_a_branch_that_begins_at_zero_adds_nothing_but_can_be_learned(placement, kind):
    block, x = Block(kind, placement, zero_init=True), inputs()
    variables = block.init(jax.random.key(1), x)

    def output(params):
        return block.apply(variables | {"params": params}, x, mutable=["batch_stats"])[0]

    expected = np.asarray(x, np.float64)
    if placement == "post" and kind != "none":
        expected = normalized(expected, 1 if kind == "layer" else 0)
    # Exactly, unless there is a norm in between.
    atol = 3e-6 if placement == "post" else 0
    np.testing.assert_allclose(output(variables["params"]), expected, rtol=0, atol=atol)
    gradient = jax.grad(lambda params: jnp.sum(output(params)[:, 0] ** 2))(variables["params"])
    assert 0 < abs(gradient["Residual_0"]["residual_scale"]) < np.inf


@pytest.mark.playbook("norm-outside-the-residual")
def test_the_playbooks_worry_about_norms_outside_of_the_residual():
    """Norm(x + f(x)): the last block's gradient at initialization does not shrink with the depth.

    With x + f(Norm(x)) it does, as 1/√depth, which makes up for the many blocks
    (https://arxiv.org/abs/2002.04745, theorem 1).
    """
    width, depth = 64, 8

    class Deep(nn.Module):
        placement: str

        @nn.compact
        def __call__(self, x):
            norm = functools.partial(make_norm, "layer", train=True)
            dense = functools.partial(nn.Dense, width, kernel_init=nn.initializers.he_normal())
            for _ in range(depth):
                x = Residual(norm, self.placement)(x, nn.Sequential([dense(), nn.relu, dense()]))
            return x if self.placement == "post" else norm()(x)

    def gradient_norm(placement, seed):
        model = Deep(placement)
        key, *keys = jax.random.split(jax.random.key(seed), 3)
        x, target = (jax.random.normal(key, (32, width)) for key in keys)
        params = model.init(key, x)
        gradient = jax.grad(lambda p: jnp.mean(model.apply(p, x) * target))(params)
        return jnp.linalg.norm(gradient["params"][f"Dense_{2 * depth - 1}"]["kernel"])

    def ratio(seed):
        return gradient_norm("pre", seed) / gradient_norm("post", seed)

    ratios = jax.jit(jax.vmap(ratio))(np.arange(16))
    # He's initialization makes the branch's variance twice its normalized input's, so the last norm
    # divides by the root of 1 + 2 depth against 1 + 2. A draw is off by 15 %, the mean of 16 by 4 %.
    assert np.mean(ratios) == pytest.approx(np.sqrt(3 / (1 + 2 * depth)), rel=0.1)


@pytest.mark.parametrize("kind", ["layer", "batch", "none"])
def test_computation_in_bfloat16_keeps_parameters_and_statistics_in_float32(kind):
    block, x = Block(kind, zero_init=True, dtype=jnp.bfloat16), inputs(jnp.bfloat16)
    variables = block.init(jax.random.key(1), x)
    y, updated = block.apply(variables, x, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}


def test_batch_norm_moves_its_averages_in_training_only():
    block, x = Block("batch"), inputs()
    variables = block.init(jax.random.key(1), x, train=False)
    _, trained = block.apply(variables, x, train=True, mutable=["batch_stats"])
    _, evaluated = block.apply(variables, x, train=False, mutable=["batch_stats"])
    mean = trained["batch_stats"]["Residual_0"]["BatchNorm_0"]["mean"]
    # 0.1 of the batch's mean, and 0.9 of zero.
    np.testing.assert_allclose(mean, 0.1 * np.mean(x, 0), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, evaluated["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Block("bach"), "unknown norm 'bach'; did you mean 'batch'"),
        (Block(placement="pots"), "unknown norm_placement 'pots'; did you mean 'post'"),
    ],
)
def test_a_misspelt_name_is_told(block, message):
    with pytest.raises(UsageError, match=message):
        block.init(jax.random.key(0), inputs())


def test_types_of_computation_by_name():
    assert layers.dtype("bfloat16") == jnp.bfloat16
    with pytest.raises(UsageError, match=r"unknown model.dtype 'bfloat'; did you mean 'bfloat16'"):
        layers.dtype("bfloat")


@pytest.mark.playbook("norm-inside-the-residual")
def test_the_norm_is_inside_unless_the_config_says_otherwise():
    x = inputs()
    norm = functools.partial(make_norm, "layer", train=True)

    class Unsaid(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Residual(norm)(x, lambda y: 3 * y)

    wide = np.asarray(x, np.float64)
    actual, _ = Unsaid().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(actual, wide + 3 * normalized(wide, 1), atol=3e-6)
    assert digits.CNN(channels=(4,)).norm_placement == "pre"
    assert stdlib_lm.Transformer(1, 16, 2, 32).norm_placement == "pre"
    for name in ("digits_cnn", "digits_tfds", "stdlib_lm"):
        config = config_lib.load(small.ROOT / "configs" / f"{name}.py")
        assert config.model.norm_placement in ("pre", "res_post")
