"""Update rules, against the playbook's formulas evaluated by NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from playbook_jax import optimizers, schedules
from playbook_jax.errors import UsageError

NAMES = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "nadam", "adamw", "nadamw")
STEPS = 12


def reference(name, hparams, rates, params, gradients, decayed):
    """Returns the parameters after every step: a list of lists of arrays.

    Args:
      name, hparams: the rule; every hyperparameter is given.
      rates: the learning rate of each step.
      params: a list of arrays.
      gradients: a list of arrays for each step.
      decayed: a bool for each parameter.
    """
    p, decay = dict(hparams), hparams["weight_decay"]
    decoupled = name in ("adamw", "nadamw")
    theta = [x.astype(np.float64) for x in params]
    m = [np.zeros_like(x) for x in theta]
    v = [np.ones_like(x) if name == "rmsprop" else np.zeros_like(x) for x in theta]
    history = []
    for t, (rate, gradient) in enumerate(zip(rates, gradients, strict=True)):
        for i, g in enumerate(gradient):
            if decayed[i] and not decoupled:
                g = g + decay * theta[i]
            if name == "sgd":
                step = rate * g
            elif name == "momentum":
                v[i] = p["momentum"] * v[i] + g
                step = rate * v[i]
            elif name == "nesterov":
                v[i] = p["momentum"] * v[i] + g
                step = rate * (p["momentum"] * v[i] + g)
            elif name == "rmsprop":
                v[i] = p["rho"] * v[i] + (1 - p["rho"]) * g**2
                m[i] = p["momentum"] * m[i] + rate / np.sqrt(v[i] + p["epsilon"]) * g
                step = m[i]
            else:
                beta1, beta2 = p["beta1"], p["beta2"]
                m[i] = beta1 * m[i] + (1 - beta1) * g
                v[i] = beta2 * v[i] + (1 - beta2) * g**2
                b = np.sqrt(1 - beta2 ** (t + 1)) / (1 - beta1 ** (t + 1))
                ahead = beta1 * m[i] + (1 - beta1) * g if name.startswith("nadam") else m[i]
                step = rate * ahead / (np.sqrt(v[i]) + p["epsilon"]) * b
            if decayed[i] and decoupled:
                step = step + rate * decay * theta[i]
            theta[i] = theta[i] - step
        history.append(list(theta))
    return history


def random_problem(seed, dtype=np.float64):
    """Returns parameters (a nested tree, of 0 to 4 dimensions) and a tree of gradients for each step."""
    rng = np.random.default_rng(seed)
    shapes = {"scalar": (), "layer": {"bias": (5,), "kernel": (3, 5)}, "conv": (2, 2, 3, 4)}
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731

    def draw(shape):
        # Gradients over many orders of magnitude, zeros among them, tell an epsilon from another.
        size = 10.0 ** rng.uniform(-5, 2, shape)
        return np.asarray(rng.normal(size=shape) * size * (rng.random(shape) > 0.1), dtype)

    params = jax.tree.map(lambda s: np.asarray(rng.normal(size=s), dtype), shapes, is_leaf=is_shape)
    gradients = [jax.tree.map(draw, shapes, is_leaf=is_shape) for _ in range(STEPS)]
    return params, gradients


def random_hparams(rng, **given):
    return {
        "momentum": 1 - 10.0 ** rng.uniform(-3, 0),
        "beta1": 1 - 10.0 ** rng.uniform(-2, 0),
        "beta2": 1 - 10.0 ** rng.uniform(-4, 0),
        "rho": 1 - 10.0 ** rng.uniform(-3, 0),
        "epsilon": 10.0 ** rng.uniform(-10, 0),
        "weight_decay": 10.0 ** rng.uniform(-5, 0),
        "clip_norm": float("nan"),  # of no optimizer: must be ignored
    } | given


def make_step(name, decay_mask=None):
    """Returns the compiled (params, state, gradients, hparams, rate) → (params, state)."""

    @jax.jit
    def step(params, state, gradients, hparams, rate):
        optimizer = optimizers.make_optimizer(name, hparams, rate, decay_mask=decay_mask)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return step


def check(name, hparams, seed, rtol=1e-10, dtype=np.float64, decay_mask=None, decayed=None):
    """Runs STEPS steps of the rule, all hyperparameters traced, beside the reference."""
    params, gradients = random_problem(seed, dtype)
    rates = 10.0 ** np.random.default_rng(seed).uniform(-4, 0, STEPS)
    leaves = jax.tree.leaves
    if decayed is None:
        decayed = [x.ndim >= 2 for x in leaves(params)]
    traced = {key: np.asarray(value, dtype) for key, value in hparams.items()}
    expected = reference(
        name, hparams, rates, leaves(params), [leaves(g) for g in gradients], decayed
    )
    step = make_step(name, decay_mask)
    state = optimizers.make_optimizer(name, {}, 0.0).init(params)
    for i in range(STEPS):
        params, state = step(params, state, gradients[i], traced, np.asarray(rates[i], dtype))
        for actual, wanted in zip(leaves(params), expected[i], strict=True):
            # Rounding is relative to the largest number on the way, which the parameter may be smaller than.
            np.testing.assert_allclose(
                actual, wanted, rtol=rtol, atol=rtol * np.max(np.abs(wanted))
            )


@pytest.mark.playbook(
    "sgd-rule",
    "momentum-rule",
    "nesterov-rule",
    "rmsprop-rule",
    "adam-rule",
    "nadam-rule",
    "favourite-optimizers",
)
@pytest.mark.parametrize("name", NAMES)
def test_rule_in_float64(name):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for seed in range(3):
            check(name, random_hparams(rng), seed)


@pytest.mark.playbook("adam-has-four")
@pytest.mark.parametrize("epsilon", [1e-8, 1e-3, 0.1])
@pytest.mark.parametrize("name", ["rmsprop", "adam", "nadam", "adamw", "nadamw"])
def test_epsilon_is_where_the_playbook_has_it(name, epsilon):
    hparams = random_hparams(
        np.random.default_rng(1), epsilon=epsilon, beta1=0.9, beta2=0.999, rho=0.99, momentum=0.9
    )
    with jax.enable_x64(True):
        check(name, hparams, seed=3)


def test_adam_is_not_that_of_optax():
    # |g| = 1e-4 and ε = 1e-3: the playbook's first update is α · b · m / (√v + ε) with b = √0.001 / 0.1.
    gradient = np.full(3, 1e-4)
    playbook = np.sqrt(0.001) / 0.1 * 1e-5 / (np.sqrt(0.001) * 1e-4 + 1e-3)
    with jax.enable_x64(True):
        ours = optimizers.make_optimizer("adam", {"epsilon": 1e-3}, 1.0)
        update, _ = ours.update(gradient, ours.init(gradient), gradient)
        theirs = optax.adam(1.0, eps=1e-3)
        other, _ = theirs.update(gradient, theirs.init(gradient), gradient)
    np.testing.assert_allclose(update, -playbook, rtol=1e-12)
    np.testing.assert_allclose(other / update, 28.8, rtol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_rule_in_float32(name):
    # Bias corrections are where float32 goes wrong: 1 − β₂ᵏ taken as a difference is off by 6e-4 here.
    # The betas themselves are numbers of float32, so that their own rounding is not what is measured.
    beta = {"beta1": float(np.float32(0.9)), "beta2": float(np.float32(0.9999))}
    hparams = random_hparams(np.random.default_rng(2), **beta, momentum=0.5, rho=0.5)
    check(name, hparams, seed=4, rtol=1e-5, dtype=np.float32)


@pytest.mark.parametrize("name", ["adam", "nadam"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.99999])
def test_bias_correction_at_the_ends(name, beta):
    # A constant gradient: m / (1 − β₁ᵏ) = g and √v / √(1 − β₂ᵏ) = |g| whatever the betas and k.
    step = make_step(name)
    params = np.zeros(4, np.float32)
    gradient = np.array([1e-3, -1.0, 10.0, -1e5], np.float32)
    hparams = {"beta1": np.float32(beta), "beta2": np.float32(beta), "epsilon": np.float32(0)}
    state = optimizers.make_optimizer(name, {}, 0.0).init(params)
    count = (state[1].count, *state[2])  # Adam's own, and the schedule's
    assert all(int(x) == 0 for x in jax.tree.leaves(count))
    for k in range(1, 4):
        before = params
        params, state = step(params, state, gradient, hparams, np.float32(1))
        # NAdam looks one step ahead with this m: (1 − β₁ᵏ⁺¹) / (1 − β₁ᵏ) times as far.
        ahead = (1 - beta ** (k + 1)) / (1 - beta**k) if name == "nadam" else 1
        np.testing.assert_allclose(params - before, -np.sign(gradient) * ahead, rtol=2e-5)


@pytest.mark.playbook("weight-decay")
@pytest.mark.parametrize("name", ["momentum", "rmsprop", "nadam", "adamw"])
def test_weight_decay_mask(name):
    hparams = random_hparams(np.random.default_rng(3), weight_decay=0.5, epsilon=0.1)
    mask = {"scalar": True, "layer": {"bias": True, "kernel": False}, "conv": True}
    decayed = jax.tree.leaves(mask)
    with jax.enable_x64(True):
        check(name, hparams, seed=5, decay_mask=mask, decayed=decayed)
        check(name, hparams, seed=5, decay_mask=lambda params: mask, decayed=decayed)
        prefix = {"scalar": False, "layer": False, "conv": True}
        check(name, hparams, seed=5, decay_mask=prefix, decayed=[True, False, False, False])


@pytest.mark.playbook("weight-decay")
@pytest.mark.parametrize("name", ["sgd", "nesterov", "rmsprop", "adam", "nadamw"])
def test_weight_decay_leaves_vectors_alone(name):
    params = {"bias": jnp.ones(3), "scalar": jnp.ones(()), "kernel": jnp.ones((2, 3))}
    optimizer = optimizers.make_optimizer(name, {"weight_decay": 0.1}, 0.5)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    assert not np.any(updates["bias"])
    assert not np.any(updates["scalar"])
    assert np.all(updates["kernel"] < 0)
    if name in ("sgd", "momentum", "adamw", "nadamw"):
        # Decoupled decay takes α λ θ from the parameter, whatever the rule does to gradients.
        np.testing.assert_allclose(updates["kernel"], -0.5 * 0.1, rtol=1e-6)


@pytest.mark.parametrize("name", ["nesterov", "rmsprop", "nadamw"])
def test_learning_rate_may_be_a_schedule(name):
    params, gradients = random_problem(6, np.float32)
    hparams = {"learning_rate": 0.1, "warmup_steps": 3, "epsilon": 0.1}
    schedule = schedules.make_schedule("cosine", hparams, 10)
    by_schedule = optimizers.make_optimizer(name, hparams, schedule)
    a = b = params
    state_a, state_b = by_schedule.init(a), optimizers.make_optimizer(name, {}, 0.0).init(b)
    assert jax.tree.structure(state_a) == jax.tree.structure(state_b)
    for t in range(5):
        updates, state_a = by_schedule.update(gradients[t], state_a, a)
        a = optax.apply_updates(a, updates)
        by_scalar = optimizers.make_optimizer(name, hparams, schedule(t))
        updates, state_b = by_scalar.update(gradients[t], state_b, b)
        b = optax.apply_updates(b, updates)
    jax.tree.map(np.testing.assert_array_equal, (a, state_a), (b, state_b))


@pytest.mark.playbook("traced-hyperparameters")
@pytest.mark.parametrize("name", NAMES)
def test_changed_hyperparameters_do_not_compile_again(name):
    traces = []

    @jax.jit
    def run(params, state, gradients, hparams):
        """Runs two steps in a loop, as the training step does: the state must keep its types."""
        traces.append(name)
        schedule = schedules.make_schedule("linear", hparams, 10)

        def body(_, carry):
            params, state = carry
            optimizer = optimizers.make_optimizer(name, hparams, schedule)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, 2, body, (params, state))

    params, gradients = random_problem(7, np.float32)
    state = optimizers.make_optimizer(name, {}, 0.0).init(params)
    rng = np.random.default_rng(4)
    results = []
    for learning_rate in (0.1, 0.2, 0.3):
        hparams = random_hparams(rng, learning_rate=learning_rate, warmup_steps=0, epsilon=0.1)
        hparams = {key: np.float32(value) for key, value in hparams.items()}
        results.append(run(params, state, gradients[0], hparams)[0])
    assert len(traces) == 1
    assert np.any(results[0]["conv"] != results[1]["conv"])


@pytest.mark.parametrize("name", NAMES)
def test_state_keeps_its_types(name):
    # float32 hyperparameters would otherwise turn the state of bfloat16 parameters into float32.
    params = {"w": jnp.ones((2, 2), jnp.bfloat16)}
    hparams = {key: jnp.float32(0.5) for key in optimizers.hyperparameters(name)}
    optimizer = optimizers.make_optimizer(name, hparams, jnp.float32(0.1))
    state = optimizer.init(params)
    _, new_state = optimizer.update(params, state, params)
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert types(new_state) == types(state)


@pytest.mark.parametrize("name", NAMES)
def test_under_pmap(name):
    params, gradients = random_problem(8, np.float32)
    devices = jax.local_device_count()
    hparams = {key: np.float32(0.1) for key in optimizers.hyperparameters(name)}

    def step(params, gradients, hparams, rate):
        # Each device has its own gradient; the mean of 1·g, 3·g, … over d devices is d·g.
        gradients = jax.lax.pmean(gradients, "batch")
        optimizer = optimizers.make_optimizer(name, hparams, rate)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    share = 2 * np.arange(devices, dtype=np.float32) + 1
    sharded = jax.tree.map(lambda g: np.multiply.outer(share / devices, g), gradients[0])
    pmapped = jax.pmap(step, axis_name="batch", in_axes=(None, 0, None, None))
    actual = pmapped(params, sharded, hparams, np.float32(0.1))
    hparams = {key: float(value) for key, value in hparams.items()}
    expected = reference(
        name,
        {"weight_decay": 0.1} | hparams,
        [0.1],
        jax.tree.leaves(params),
        [jax.tree.leaves(gradients[0])],
        [x.ndim >= 2 for x in jax.tree.leaves(params)],
    )[-1]
    for a, e in zip(jax.tree.leaves(actual), expected, strict=True):
        np.testing.assert_allclose(a, np.broadcast_to(e, a.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["rmsprop", "adamw"])
def test_several_trials_in_one_program(name):
    params, gradients = random_problem(9, np.float32)
    names = optimizers.hyperparameters(name)
    hparams = {key: np.array([0.1, 0.5], np.float32) for key in names}

    def update(hparams):
        optimizer = optimizers.make_optimizer(name, hparams, 0.1)
        return optimizer.update(gradients[0], optimizer.init(params), params)[0]

    packed = jax.vmap(update)(hparams)
    for i in range(2):
        alone = update({key: value[i] for key, value in hparams.items()})
        jax.tree.map(
            lambda p, a, i=i: np.testing.assert_allclose(p[i], a, rtol=1e-5, atol=1e-7),
            packed,
            alone,
        )


def test_hyperparameters_are_those_of_the_contract():
    adam = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}
    momentum = {"momentum": 0.9, "weight_decay": 0.0}
    rmsprop = {"rho": 0.9, "momentum": 0.0, "epsilon": 1e-8, "weight_decay": 0.0}
    expected = {
        "sgd": {"weight_decay": 0.0},
        "momentum": momentum,
        "nesterov": momentum,
        "rmsprop": rmsprop,
        "adam": adam,
        "nadam": adam,
        "adamw": adam,
        "nadamw": adam,
    }
    actual = optimizers.HYPERPARAMETERS
    assert actual == expected


@pytest.mark.parametrize("name", ["rmsprop", "nadam"])
def test_missing_hyperparameters_have_their_defaults(name):
    hparams = optimizers.hyperparameters(name)
    params, gradients = random_problem(11, np.float32)

    def update(hparams):
        optimizer = optimizers.make_optimizer(name, hparams, 0.1)
        return optimizer.update(gradients[0], optimizer.init(params), params)[0]

    jax.tree.map(np.testing.assert_array_equal, update({}), update(hparams))


def test_unknown_optimizer_names_the_nearest():
    with pytest.raises(
        UsageError, match=r"unknown optimizer 'adma'; did you mean 'adam'\?.*nesterov"
    ):
        optimizers.make_optimizer("adma", {}, 0.1)
