"""Devices: the one place that knows how many there are.

The train and evaluation steps are pure functions that use `jax.lax` collectives over the axis
`AXIS`; this module runs them on every device of this host. State carries a leading device axis and
is replicated; batches are split over it. Sharding one model over several devices would go here too;
it is not done.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

AXIS = "batch"


def device_count() -> int:
    """Returns how many devices this host has."""
    return jax.local_device_count()


def all_devices_count() -> int:
    """Returns over how many devices, those of all hosts, a batch is split."""
    return jax.device_count()


def host_index() -> int:
    """Returns which host this is; host 0 writes logs and checkpoints."""
    return jax.process_index()


def host_count() -> int:
    """Returns how many hosts share the work."""
    return jax.process_count()


def host_part(size: int) -> range:
    """Returns which of `size` equal pieces of work are this host's; the hosts divide `size`."""
    part = size // host_count()
    return range(host_index() * part, (host_index() + 1) * part)


def agree(value: int) -> list[int]:
    """Returns every host's `value`, in the hosts' order; waits until all of them have come here."""
    if host_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    return np.ravel(multihost_utils.process_allgather(np.int32(value))).tolist()


def on_devices(
    function: Callable,
    in_axes: Sequence[int | None],
    donate: tuple[int, ...] = (),
    mapping: str = "pmap",
) -> Callable:
    """Returns `function` run on every device at once, its results with a leading device axis.

    Args:
      function: may use collectives over `AXIS`.
      in_axes: for each argument, 0 where it has a leading device axis, None where all devices get
        the whole of it.
      donate: positions of the arguments whose buffers the results may take over.
      mapping: a key of `MAPPINGS`.
    """
    return MAPPINGS[mapping](function, tuple(in_axes), donate)


def _pmap(function: Callable, in_axes: tuple[int | None, ...], donate: tuple[int, ...]) -> Callable:
    return jax.pmap(function, axis_name=AXIS, in_axes=in_axes, donate_argnums=donate)


def _shard_map(
    function: Callable,
    in_axes: tuple[int | None, ...],
    donate: tuple[int, ...],
    mesh: Mesh | AbstractMesh | None = None,
) -> Callable:
    def on_one_device(*arguments: Any) -> Any:
        local = [
            jax.tree.map(lambda x: x[0], argument) if axis == 0 else argument
            for argument, axis in zip(arguments, in_axes, strict=True)
        ]
        return jax.tree.map(lambda x: x[None], function(*local))

    specs = tuple(PartitionSpec(AXIS) if axis == 0 else PartitionSpec() for axis in in_axes)
    mapped = jax.shard_map(
        on_one_device,
        mesh=mesh or Mesh(np.array(jax.local_devices()), (AXIS,)),
        in_specs=specs,
        out_specs=PartitionSpec(AXIS),
        # The default refuses groups of devices and sums gradients that are to be averaged.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=donate)


def check_shapes(function: Callable, in_axes: Sequence[int | None], *arguments: Any) -> None:
    """Lets `function` see the shapes it will see on the devices of all hosts; nothing is computed.

    Args:
      function: as in `on_devices`; may raise.
      in_axes: as in `on_devices`.
      *arguments: arrays or `jax.ShapeDtypeStruct`s, with a leading axis of all devices where
        `in_axes` says so.
    """
    # Not by pmap, which knows of the other hosts' devices only when it compiles.
    everywhere = AbstractMesh((all_devices_count(),), (AXIS,))
    jax.eval_shape(_shard_map(function, tuple(in_axes), (), everywhere), *arguments)


MAPPINGS = {"pmap": _pmap, "shard_map": _shard_map}

_place = jax.pmap(lambda x: x, axis_name=AXIS)
_replicate = jax.pmap(lambda tree, _: tree, axis_name=AXIS, in_axes=(None, 0))


def replicate(tree: Any) -> Any:
    """Returns `tree` on every device, placed just as the results of `on_devices` are.

    The same placement matters: with another one, the second call of a step would compile again.
    """
    if not jax.tree.leaves(tree):
        return tree  # which pmap refuses on several hosts
    return _replicate(tree, np.zeros(device_count(), np.int8))


def place(split: np.ndarray) -> Any:
    """Returns an array of shape [devices, …] with each part on its device."""
    return _place(split)


def send(tree: Any) -> Any:
    """Returns arrays of shape [devices, …] on their way to the devices, as `place` would put them.

    It only copies and runs nothing, so that it may be called on a thread of its own: on several hosts
    what runs on the devices must come in the same order on all of them.
    """
    return jax.tree.map(
        functools.partial(jax.make_array_from_process_local_data, _sharding()), tree
    )


@functools.cache
def _sharding() -> jax.sharding.Sharding:
    return _place(np.zeros(device_count(), np.int8)).sharding


def of_all_devices(tree: Any) -> Any:
    """Returns the parts of all devices on all hosts, NumPy arrays [all devices, …]."""
    local = jax.tree.map(
        lambda x: np.concatenate([np.asarray(shard.data) for shard in x.addressable_shards]), tree
    )
    if host_count() == 1:
        return local
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(local, tiled=True)


def first(tree: Any) -> Any:
    """Returns the first device's part of a replicated tree, as NumPy arrays of its own."""
    # A copy: on CPU the array would else be a view of a buffer that the next step is given.
    return jax.tree.map(lambda x: np.array(x.addressable_data(0))[0], tree)


def split(array: np.ndarray, axis: int = 0) -> np.ndarray:
    """Returns `array` with `axis`, the examples, split over the devices and moved to the front."""
    devices = device_count()
    shape = array.shape
    parts = array.reshape(*shape[:axis], devices, shape[axis] // devices, *shape[axis + 1 :])
    return np.moveaxis(parts, axis, 0)
