"""Lanes: one trial in a program, or several trials beside each other in one.

What a trial does on one device is a pure function; here it is put on all devices, and with lanes under
`vmap`: whatever belongs to a trial then has a lane axis behind the device axis, and the trials
share the rest. A lane knows nothing of the others. Which bits it computes depends on how many there
are, though, so a place that has no trial is filled by another one's and rests.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from playbook_jax.runtime import parallel
from playbook_jax.training import train_step
from playbook_jax.training.train_step import TrainState

Variants = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Functions:
    """What one trial does on one device, before it is compiled.

    Attributes:
      init: see `train_step.initial_state`.
      run_steps: (rests) → the function of `train_step.make_run_steps`.
      evaluate: see `evaluation.make_evaluate`.
      predict: see `evaluation.make_predict`.
      mapping: a key of `parallel.MAPPINGS`.
    """

    init: Callable[..., TrainState]
    run_steps: Callable[[bool], Callable]
    evaluate: Callable[..., dict[str, Any]]
    predict: Callable[..., dict[str, Any]]
    mapping: str

    def compiled(self, lanes: int | None) -> dict[str, Callable]:
        """Returns those attributes of `Program` that run on the devices."""

        def on_devices(
            function: Callable,
            in_axes: tuple[int | None, ...],  # see `parallel.on_devices`
            of_a_trial: tuple[
                int, ...
            ],  # the arguments that have a lane axis where there are lanes
            donate: tuple[int, ...] = (),
        ) -> Callable:
            if lanes is not None:
                by_lane = tuple(0 if i in of_a_trial else None for i in range(len(in_axes)))
                function = jax.vmap(function, in_axes=by_lane)
            return parallel.on_devices(function, in_axes, donate, self.mapping)

        run_steps = self.run_steps(lanes is not None)
        # A lane's own averages are due at steps of its own.
        settle_axes = (0,) if lanes is None else (0, None)
        return {
            "init": _on_every_device(on_devices(self._init, (None, None, 0), (0, 1))),
            # Of state, records, resident, call and values all trials share only what is resident.
            "run_steps": on_devices(run_steps, (0,) * 5, (0, 1, 3, 4), donate=(0, 1)),
            "settle": on_devices(_settle, settle_axes, (0, 1), donate=(0,)),
            "evaluate": on_devices(self.evaluate, (0, 0, 0, None, 0, 0), (0, 1, 4, 5), donate=(5,)),
            "predict": on_devices(self.predict, (0, 0, None, 0), (0, 3)),
        }

    def _init(self, seed: Any, dropout_seed: Any, device: Any) -> TrainState:
        return self.init(seed=seed, dropout_seed=dropout_seed)


def join(lanes: int | None, parts: Mapping[int, Any], axis: int = 0) -> Any:
    """Returns one tree of those of the trials.

    Args:
      lanes: how many; None: there is one trial and no lane axis.
      parts: lane → tree of NumPy arrays, at least one; lanes that are missing get what another one
        has. Without lanes, {0: tree}.
      axis: where the lane axis is put.
    """
    if lanes is None:
        return parts[0]
    other = next(iter(parts.values()))
    trees = [parts.get(lane, other) for lane in range(lanes)]
    return jax.tree.map(lambda *x: np.stack(x, axis), *trees)


def numbers(lanes: int | None, steps: Mapping[int, tuple[int, int]], stop: bool) -> np.ndarray:
    """Returns the `numbers` of a `train_step.Call` for the devices; lanes that are missing rest.

    Args:
      lanes: as in `join`.
      steps: lane → the row of its records in which to go on, and how many steps to make.
      stop: whether this host is asked to stop.
    """
    each = np.zeros((lanes or 1, 3), np.int32)
    each[:, 2] = stop
    for lane, row_and_count in steps.items():
        each[lane, :2] = row_and_count
    one = each[0] if lanes is None else each
    return np.broadcast_to(one, (parallel.device_count(), *one.shape))


def part(lanes: int | None, tree: Any, lane: int, axis: int = 0) -> Any:
    """Returns one trial's part of a tree of NumPy arrays, as arrays of its own; undoes `join`."""
    if lanes is None:
        return tree
    return jax.tree.map(lambda x: np.array(np.take(x, lane, axis)), tree)


def _on_every_device(init: Callable[..., TrainState]) -> Callable[..., TrainState]:
    """Returns the function (seed, dropout_seed) → the same initial state on every device."""
    devices = np.zeros(parallel.device_count(), np.int8)

    def on_all(seed: Any, dropout_seed: Any = None) -> TrainState:
        dropout_seed = seed if dropout_seed is None else dropout_seed
        return init(np.asarray(seed, np.uint32), np.asarray(dropout_seed, np.uint32), devices)

    return on_all


def _settle(state: TrainState, due: Any = None) -> tuple[TrainState, TrainState, Variants]:
    own = statistics(state)
    averaged = jax.tree.map(_agreed, own)
    if due is not None:
        averaged = jax.tree.map(functools.partial(jnp.where, due), averaged, own)
    polyak = {**state.polyak, **averaged.get("polyak", {})}
    state = dataclasses.replace(state, batch_stats=averaged["batch_stats"], polyak=polyak)
    copy = jax.tree.map(jnp.copy, state)
    variants = {"": {"params": copy.params, "batch_stats": copy.batch_stats}}
    if state.polyak:
        variants["polyak/"] = train_step.polyak_average(copy.polyak)
    return state, copy, variants


def _agreed(x: Any) -> Any:
    """Returns the mean over the devices; of what has none, a counter or a key, that of the first one."""
    if train_step.is_averaged(x):
        return jax.lax.pmean(x, parallel.AXIS)
    return jax.lax.all_gather(x, parallel.AXIS)[0]


def statistics(state: TrainState) -> dict[str, Any]:
    """Returns what of a state differs from device to device between evaluations."""
    own: dict[str, Any] = {"batch_stats": state.batch_stats}
    if state.polyak:
        own["polyak"] = {"batch_stats": state.polyak["batch_stats"]}
    return own
