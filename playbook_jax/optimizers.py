"""The playbook's update rules as optax transformations, built from traced hyperparameters.

`make_optimizer` is called inside the traced step, so a changed hyperparameter never recompiles:

    def step(params, opt_state, gradients, hparams):
        optimizer = make_optimizer("adam", hparams, hparams["learning_rate"])
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

The state holds no hyperparameter, and its structure follows from the optimizer's name alone.

Any optimizer of optax joins by one entry in `OPTIMIZERS`, made where the workload is defined: its file is
imported before names are looked up. Its keyword-only arguments are the names of its hyperparameters, with
their defaults:

    OPTIMIZERS["lion"] = lambda learning_rate, mask, *, beta1=0.9, beta2=0.99, weight_decay=0.0: (
        optax.lion(learning_rate, beta1, beta2, weight_decay=weight_decay, mask=mask)
    )

Source: playbook, "What are the update rules for all the popular optimization algorithms?". Where optax's
own rule differs from the printed one, the printed one holds.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import GradientTransformation, add_decayed_weights, chain, scale_by_learning_rate

from playbook_jax.errors import unknown

Scalar = Any  # a number or a traced scalar


def decay_matrices(params: optax.Params) -> Any:
    """Returns a tree of bools, true for the parameters of two or more dimensions.

    The others are biases and the scales of norms: shrinking them regularizes little and can hurt.
    """
    return jax.tree.map(lambda p: jnp.ndim(p) >= 2, params)


def scale_by_adam(
    beta1: Scalar, beta2: Scalar, epsilon: Scalar, *, nesterov: bool = False
) -> GradientTransformation:
    """Returns the playbook's Adam or NAdam without the learning rate.

    With k = t + 1 and b = √(1 − β₂ᵏ) / (1 − β₁ᵏ), it turns the gradient g into

        Adam   b m / (√v + ε)                   m ← β₁ m + (1 − β₁) g
        NAdam  b (β₁ m + (1 − β₁) g) / (√v + ε)   v ← β₂ v + (1 − β₂) g²

    `optax.scale_by_adam` corrects v before it adds ε, so that its ε is in effect smaller, √(1 − β₂ᵏ)
    times; ε is a hyperparameter to tune, so that difference matters. Its NAdam corrects m by 1 − β₁ᵏ⁺¹.
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        zeros = optax.tree.zeros_like(params)
        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=zeros, nu=zeros)

    def update(
        gradients: optax.Updates, state: optax.ScaleByAdamState, params: Any = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(gradients, state.mu, beta1, 1)
        nu = optax.tree.update_moment(gradients, state.nu, beta2, 2)
        ahead = optax.tree.update_moment(gradients, mu, beta1, 1) if nesterov else mu
        correction = jnp.sqrt(_one_minus_power(beta2, count)) / _one_minus_power(beta1, count)
        updates = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + epsilon), ahead, nu)
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return GradientTransformation(init, update)


def _one_minus_power(beta: Scalar, k: Any) -> Any:
    """Returns 1 − βᵏ for k ≥ 1.

    In float32 the plain difference has an error of 6e-8, a fourth of a per mille of 1 − β at β = 0.9998.
    """
    return -jnp.expm1(k * jnp.log1p(jnp.asarray(beta - 1.0, float)))


# The rules. Each is called with the learning rate as a schedule, the mask of weight decay, and the
# hyperparameters that it names; weight decay joins the gradient unless it is decoupled.


def _sgd(
    learning_rate: optax.Schedule, mask: Any, *, weight_decay: Scalar = 0.0
) -> GradientTransformation:
    """θ ← θ − η g."""
    return chain(add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))


def _momentum(
    learning_rate: optax.Schedule,
    mask: Any,
    *,
    momentum: Scalar = 0.9,
    weight_decay: Scalar = 0.0,
) -> GradientTransformation:
    """With v ← γ v + g: θ ← θ − η v."""
    return chain(add_decayed_weights(weight_decay, mask), optax.sgd(learning_rate, momentum))


def _nesterov(
    learning_rate: optax.Schedule,
    mask: Any,
    *,
    momentum: Scalar = 0.9,
    weight_decay: Scalar = 0.0,
) -> GradientTransformation:
    """With v ← γ v + g: θ ← θ − η (γ v + g)."""
    return chain(
        add_decayed_weights(weight_decay, mask),
        optax.sgd(learning_rate, momentum, nesterov=True),
    )


def _rmsprop(
    learning_rate: optax.Schedule,
    mask: Any,
    *,
    rho: Scalar = 0.9,
    momentum: Scalar = 0.0,
    epsilon: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
) -> GradientTransformation:
    """With v ← ρ v + (1 − ρ) g² from v = 1: m ← γ m + η g / √(v + ε), θ ← θ − m."""
    rule = optax.rmsprop(  # optax's default is to start v at 0
        learning_rate, rho, epsilon, initial_scale=1.0, eps_in_sqrt=True, momentum=momentum
    )
    return chain(add_decayed_weights(weight_decay, mask), rule)


def _adam(
    learning_rate: optax.Schedule,
    mask: Any,
    *,
    beta1: Scalar = 0.9,
    beta2: Scalar = 0.999,
    epsilon: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
) -> GradientTransformation:
    """θ ← θ − α Adam(g + λθ)."""
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_adam(beta1, beta2, epsilon),
        scale_by_learning_rate(learning_rate),
    )


def _nadam(
    learning_rate: optax.Schedule,
    mask: Any,
    *,
    beta1: Scalar = 0.9,
    beta2: Scalar = 0.999,
    epsilon: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
) -> GradientTransformation:
    """θ ← θ − α NAdam(g + λθ)."""
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_adam(beta1, beta2, epsilon, nesterov=True),
        scale_by_learning_rate(learning_rate),
    )


def _adamw(
    learning_rate: optax.Schedule,
    mask: Any,
    *,
    beta1: Scalar = 0.9,
    beta2: Scalar = 0.999,
    epsilon: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
) -> GradientTransformation:
    """θ ← θ − α (Adam(g) + λθ), https://arxiv.org/abs/1711.05101."""
    return chain(
        scale_by_adam(beta1, beta2, epsilon),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def _nadamw(
    learning_rate: optax.Schedule,
    mask: Any,
    *,
    beta1: Scalar = 0.9,
    beta2: Scalar = 0.999,
    epsilon: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
) -> GradientTransformation:
    """θ ← θ − α (NAdam(g) + λθ)."""
    return chain(
        scale_by_adam(beta1, beta2, epsilon, nesterov=True),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


OPTIMIZERS: dict[str, Callable[..., GradientTransformation]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "nadam": _nadam,
    "adamw": _adamw,
    "nadamw": _nadamw,
}


def hyperparameters(name: str) -> dict[str, float]:
    """Returns the hyperparameters that an optimizer uses, the learning rate aside, and their defaults.

    Raises:
      UsageError: `OPTIMIZERS` has no such name.
    """
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    parameters = inspect.signature(OPTIMIZERS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


HYPERPARAMETERS: dict[str, dict[str, float]] = {name: hyperparameters(name) for name in OPTIMIZERS}


def _with_type_of(new: Any, old: Any) -> Any:
    # Not `optax.tree.cast_like`, which refuses the random keys that some of optax's states hold.
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def make_optimizer(
    name: str,
    hparams: Mapping[str, Scalar],
    learning_rate: Scalar | optax.Schedule,
    *,
    decay_mask: Any = None,
) -> GradientTransformation:
    """Returns the optimizer `name` with these hyperparameters, which may be traced.

    It neither clips (that comes before) nor applies the updates (`optax.apply_updates`). `update` needs
    the parameters. The state keeps its types and shapes, so it can be carried through a loop.

    Args:
      name: a key of `OPTIMIZERS`.
      hparams: scalars; those that are missing have their default (see `hyperparameters`), other
        keys are ignored.
      learning_rate: a scalar, or a function of the number of completed updates.
      decay_mask: which parameters weight decay acts on: a tree of bools like the parameters or a prefix
        of it, or a function from the parameters to one; by default `decay_matrices`.

    Raises:
      UsageError: `OPTIMIZERS` has no such name.
    """
    values = {key: hparams.get(key, default) for key, default in hyperparameters(name).items()}
    # A schedule in any case, so that the state does not depend on which of the two was given.
    schedule = learning_rate if callable(learning_rate) else lambda count: learning_rate
    mask = decay_matrices if decay_mask is None else decay_mask
    rule = OPTIMIZERS[name](schedule, mask, **values)

    def update(
        gradients: optax.Updates, state: optax.OptState, params: optax.Params
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, new_state = rule.update(gradients, state, params)
        # A traced hyperparameter has a type of its own, to which it promotes what it is mixed with.
        return updates, jax.tree.map(_with_type_of, new_state, state)

    return GradientTransformation(rule.init, update)
