"""Any optimizer of optax can join those that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from playbook_jax import optimizers
from tests.test_optimizers import make_step, random_problem


@pytest.mark.playbook("any-optax-optimizer")
def test_any_optax_optimizer_joins_by_one_line(monkeypatch):
    monkeypatch.setitem(
        optimizers.OPTIMIZERS,
        "lion",
        lambda learning_rate, mask, *, beta1=0.9, beta2=0.99, weight_decay=0.0: optax.lion(
            learning_rate, beta1, beta2, weight_decay=weight_decay, mask=mask
        ),
    )
    assert optimizers.hyperparameters("lion") == {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0}
    params, gradients = random_problem(10, np.float32)
    hparams = {"beta1": np.float32(0.8), "weight_decay": np.float32(0.1), "rho": np.float32(3)}
    actual, _ = make_step("lion")(
        params,
        optimizers.make_optimizer("lion", {}, 0.0).init(params),
        gradients[0],
        hparams,
        np.float32(0.1),
    )
    lion = optax.lion(0.1, 0.8, 0.99, weight_decay=0.1, mask=optimizers.decay_matrices)
    updates, _ = lion.update(gradients[0], lion.init(params), params)
    expected = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6), actual, expected)


def test_a_plugged_in_state_may_hold_a_random_key(monkeypatch):
    noisy = lambda learning_rate, mask, *, eta=0.01: (  # noqa: E731
        optax.noisy_sgd(learning_rate, eta, key=jax.random.key(0))
    )
    monkeypatch.setitem(optimizers.OPTIMIZERS, "noisy_sgd", noisy)
    params = jnp.ones(3)
    optimizer = optimizers.make_optimizer("noisy_sgd", {"eta": 1.0}, 0.1)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert np.all(np.isfinite(updates))
