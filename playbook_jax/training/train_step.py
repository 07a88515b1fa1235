"""The compiled step: loss, gradients, clipping, update, records, divergence.

A pure function of the state, the data and the traced hyperparameters. It uses collectives over
`parallel.AXIS` and knows nothing else about devices.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from playbook_jax import optimizers, schedules
from playbook_jax.runtime.parallel import AXIS
from playbook_jax.training import divergence, gradient_norms
from playbook_jax.training.parameter_rules import ParameterRules
from playbook_jax.trial import STEP_COLUMNS
from playbook_jax.workload import Workload

_NO_RULES = ParameterRules()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a run carries from step to step.

    Attributes:
      step: int32, the number of completed updates.
      params: the model's parameters.
      batch_stats: running statistics of batch norm, each device's own between evaluations.
      opt_state: the optimizer's state, of the parameters that are not frozen; holds no hyperparameter.
      key: the seed's key, the same on all devices; each step folds in its number and the device's.
      first_loss: float32, the loss of step 0, for the divergence rule.
      high_loss_steps: int32, for how many steps on end the loss has been too high.
      bad_step: int32, the first bad step, −1 while there is none. From it on nothing changes.
      polyak: `params` and `batch_stats`, each the sum of what they were after each step with weights
        that decay, and `weight`, the sum of the weights; empty without `hparams.polyak_decay`.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    key: Any
    first_loss: Any
    high_loss_steps: Any
    bad_step: Any
    polyak: Any


def cast_hparams(hparams: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Returns all hyperparameters as scalars of one type, so that no other type traces again."""
    dtype = jax.dtypes.canonicalize_dtype(np.float64)
    return {name: np.asarray(value, dtype) for name, value in sorted(hparams.items())}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Values:
    """What is traced and the same in every call of a run, and so lies on the devices.

    Attributes:
      hparams: what `cast_hparams` gives.
      max_train_steps: float32.
    """

    hparams: Mapping[str, Any]
    max_train_steps: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Call:
    """What is sent to the devices with each call.

    Attributes:
      feed: the input of the steps, first axis `steps_per_call`.
      numbers: int32 [3], one array because each has its price: the row of the records in which to go
        on; how many steps to make, at most `steps_per_call`; 1 where this host is asked to stop.
    """

    feed: Any
    numbers: Any


def values(config: ConfigDict) -> Values:
    """Returns those of a complete config, on the host."""
    return Values(cast_hparams(config.hparams), np.float32(config.max_train_steps))


def initial_state(
    workload: Workload,
    optimizer_name: str,
    seed: Any,
    polyak: bool = False,
    rules: ParameterRules = _NO_RULES,
    dropout_seed: Any = None,
) -> TrainState:
    """Returns the state before step 0, a function of the seeds alone (the same on every host).

    Args:
      workload: the model.
      optimizer_name: a key of `optimizers.OPTIMIZERS`.
      seed: uint32, may be traced.
      polyak: whether to keep a moving average of the parameters.
      rules: which parameters are frozen.
      dropout_seed: of what the steps draw, where it is not `seed` too.
    """
    init_key, key = jax.random.split(jax.random.key(seed))
    if dropout_seed is not None:
        key = jax.random.split(jax.random.key(dropout_seed))[1]
    variables = workload.init(init_key)
    params = variables["params"]
    # The optimizer's state does not depend on its hyperparameters, so any will do.
    optimizer = optimizers.make_optimizer(optimizer_name, {}, 0.0)
    averaged = {"params": params, "batch_stats": variables.get("batch_stats", {})}
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(rules.trained(params)),
        key=jax.random.key_data(key),
        first_loss=jnp.float32(0),
        high_loss_steps=jnp.int32(0),
        bad_step=jnp.int32(-1),
        polyak={**jax.tree.map(jnp.zeros_like, averaged), "weight": jnp.float32(0)}
        if polyak
        else {},
    )


def make_update(
    workload: Workload,
    optimizer_name: str,
    schedule_name: str,
    rules: ParameterRules = _NO_RULES,
    record_group_norms: bool = False,
) -> Callable[[TrainState, Any, Mapping[str, Any], Any], tuple[TrainState, Any]]:
    """Returns the function of one step: (state, batch, hparams, max_train_steps) → (state, record).

    The record is a float32 row in the order of STEP_COLUMNS: the loss with label smoothing and
    without weight decay; the global norm of the gradient before clipping and weight decay; the norm
    of the change of the parameters; the learning rate; 1 where the gradient was clipped. Frozen
    parameters (see `ParameterRules`) take part in none of them. With `record_group_norms` the norms
    of `group_norms.norms` follow.
    """

    def update(
        state: TrainState, batch: Any, hparams: Mapping[str, Any], max_train_steps: Any
    ) -> tuple[TrainState, Any]:
        learning_rate = schedules.make_schedule(schedule_name, hparams, max_train_steps)(state.step)
        trained = rules.trained(state.params)
        mask = rules.decay_mask(state.params, workload.decay_mask(state.params))
        optimizer = optimizers.make_optimizer(
            optimizer_name, hparams, learning_rate, decay_mask=mask
        )
        numerator, denominator, gradients, batch_stats = _sums(
            workload, rules, state, batch, hparams
        )
        loss, norm = numerator / denominator, optax.tree.norm(gradients) / denominator
        groups = gradient_norms.norms(gradients) if record_group_norms else []
        # g' = λ g / |g| where |g| > λ (playbook, "Gradient clipping"); λ = 0 is off.
        clipped = (hparams["clip_norm"] > 0) & (norm > hparams["clip_norm"])
        # One factor for the mean and for clipping: one way through the parameters less.
        scale = jnp.where(clipped, hparams["clip_norm"] / norm, 1.0) / denominator
        gradients = jax.tree.map(lambda g: g * scale.astype(g.dtype), gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        updates = rules.scaled(updates, hparams)
        update_norm = optax.tree.norm(updates)
        record = [loss, norm, update_norm, learning_rate, clipped]
        record += [g / denominator for g in groups]
        advanced = dataclasses.replace(
            state,
            step=state.step + 1,
            params=rules.joined(optax.apply_updates(trained, updates), state.params),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if state.polyak:
            advanced = _with_polyak(advanced, hparams["polyak_decay"])
        state = divergence.unless_bad(
            state, advanced, loss, norm + update_norm, hparams["divergence_factor"]
        )
        return state, jnp.stack([jnp.asarray(x, jnp.float32) for x in record])

    return update


def _sums(
    workload: Workload,
    rules: ParameterRules,
    state: TrainState,
    batch: Any,
    hparams: Mapping[str, Any],
) -> tuple[Any, Any, Any, Any]:
    """Returns the loss's numerator and denominator, the numerator's gradients, the new batch statistics.

    All of the global batch; the gradients without those of frozen parameters.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    # Different on each device, unlike the initialization.
    device_key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
    rngs = {"dropout": device_key, "augment": jax.random.fold_in(device_key, 1)}

    def sum_of_losses(trained: Any) -> tuple[Any, Any]:
        params = rules.joined(trained, state.params)
        variables = {"params": params, "batch_stats": state.batch_stats}
        outputs, batch_stats = workload.apply(variables, batch, hparams, rngs, train=True)
        numerator, denominator = workload.loss(outputs, batch, hparams)
        return jnp.sum(numerator), (jnp.sum(denominator), batch_stats)

    (numerator, (denominator, batch_stats)), gradients = jax.value_and_grad(
        sum_of_losses, has_aux=True
    )(rules.trained(state.params))
    numerator, denominator, gradients = jax.lax.psum((numerator, denominator, gradients), AXIS)
    return numerator, denominator, gradients, batch_stats


def _with_polyak(state: TrainState, decay: Any) -> TrainState:
    """Returns the state with its parameters and batch statistics joined to their moving average."""
    new = {"params": state.params, "batch_stats": state.batch_stats, "weight": jnp.float32(1)}

    def joined(old: Any, x: Any) -> Any:
        return (decay * old + (1 - decay) * x).astype(old.dtype) if is_averaged(x) else x

    return dataclasses.replace(state, polyak=jax.tree.map(joined, state.polyak, new))


def is_averaged(x: Any) -> bool:
    """Whether a part of the state has a mean; of an integer, a bool or a key the newest counts."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


def polyak_average(polyak: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the averaged `params` and `batch_stats` of a state's `polyak`.

    A moving average that starts at zero, divided by the sum of its weights: so no step counts for
    more than it should, however short the run (the bias correction of
    https://arxiv.org/abs/1412.6980). The running statistics of batch norm are averaged like the
    parameters with which they were made.
    """
    weight = jnp.maximum(polyak["weight"], jnp.finfo(jnp.float32).tiny)
    averaged = {"params": polyak["params"], "batch_stats": polyak["batch_stats"]}
    return jax.tree.map(lambda x: (x / weight).astype(x.dtype) if is_averaged(x) else x, averaged)


def make_run_steps(
    workload: Workload,
    optimizer_name: str,
    schedule_name: str,
    gather: Callable[[Any, Any], Any],
    steps_per_call: int,
    rules: ParameterRules = _NO_RULES,
    record_group_norms: bool = False,
    rests: bool = False,
) -> Callable[..., tuple[TrainState, Any, Any]]:
    """Returns the function that runs up to `steps_per_call` updates in one call of the device.

    Its arguments: state; records, a float32 buffer [rows, columns]; resident, whatever of the data set
    lies on the device; a `Call`; the run's `Values`. All of them are traced, so any number of steps, say,
    costs no compilation and gives the same bits. It returns state, records, and int32 [2]: the state's
    `bad_step`, and how many devices' hosts are asked to stop (so all hosts learn it after the same step).

    Args:
      workload: the model.
      optimizer_name: a key of `optimizers.OPTIMIZERS`.
      schedule_name: a key of `schedules.SCHEDULES`.
      gather: makes the batch from `resident` and one row of `feed`.
      steps_per_call: 1 makes no loop: a convolution inside of one is over 20 times slower on CPU.
      rules: which parameters are frozen, learn slower, or decay.
      record_group_norms: see `make_update`.
      rests: whether there may be no steps to make, as for a trial that waits for those beside it; a
        loop allows that anyway.
    """
    update = make_update(workload, optimizer_name, schedule_name, rules, record_group_norms)

    def run_steps(
        state: TrainState, records: Any, resident: Any, call: Call, values: Values
    ) -> tuple[TrainState, Any, Any]:
        row, num_steps, stop = call.numbers

        def body(i: Any, carry: tuple[TrainState, Any]) -> tuple[TrainState, Any]:
            state, records = carry
            batch = gather(resident, jax.tree.map(lambda x: x[i], call.feed))
            state, record = update(state, batch, values.hparams, values.max_train_steps)
            records = jax.lax.dynamic_update_slice(records, record[None], (row + i, 0))
            return state, records

        if steps_per_call == 1:
            advanced = body(0, (state, records))
            if rests:
                stays = functools.partial(jnp.where, num_steps > 0)
                advanced = jax.tree.map(stays, advanced, (state, records))
            state, records = advanced
        else:
            state, records = jax.lax.fori_loop(0, num_steps, body, (state, records))
        return state, records, jnp.stack([state.bad_step, jax.lax.psum(stop, AXIS)])

    return run_steps


def new_records(rows: int, columns: int = len(STEP_COLUMNS)) -> np.ndarray:
    """Returns an empty buffer of per-step records."""
    return np.zeros((rows, columns), np.float32)
