"""Training batches: a pure function of (seed, step), from memory or from tf.data.

The data set is dealt into shards, example i into shard i mod `num_shards`. Shard s goes through its
examples in the order of `epoch_order(seed, s, epoch)`, epoch after epoch, nothing dropped; batch t
concatenates each shard's t-th stretch, of which a host makes those of its own shards. So batches
depend neither on how many devices or hosts share
the work nor on where a run was interrupted, and both sources give the same.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from playbook_jax import parallel
from playbook_jax.errors import UsageError, unknown

Arrays = Mapping[str, np.ndarray]


def epoch_order(seed: int, shard: int, epoch: int, size: int) -> np.ndarray:
    """Returns the order in which a shard of `size` examples is gone through in `epoch`."""
    return np.random.default_rng((seed, shard, epoch)).permutation(size)


class ShardOrder:
    """The endless order of one shard, and stretches of it.

    Attributes:
      stretch: how many of the shard's examples go into each batch.
    """

    def __init__(self, seed: int, shard: int, num_shards: int, size: int, batch_size: int) -> None:
        """See the module; `size` and `batch_size` are the whole data set's and batch's."""
        self._examples = np.arange(shard, size, num_shards, dtype=np.int32)
        self.stretch = batch_size // num_shards
        self.epoch = functools.lru_cache(maxsize=2)(
            lambda epoch: self._examples[epoch_order(seed, shard, epoch, len(self._examples))]
        )

    def position(self, step: int) -> tuple[int, int]:
        """Returns the epoch in which the stretch of `step` begins, and how far into it."""
        return divmod(step * self.stretch, len(self._examples))

    def indices(self, step: int, num_steps: int) -> np.ndarray:
        """Returns the examples of `num_steps` stretches from `step` on, [num_steps, stretch]."""
        epoch, start = self.position(step)
        missing = num_steps * self.stretch
        parts = []
        while missing > 0:
            part = self.epoch(epoch)[start : start + missing]
            parts.append(part)
            missing -= len(part)
            epoch, start = epoch + 1, 0
        return np.concatenate(parts).reshape(num_steps, self.stretch)


def shard_orders(config: ConfigDict, size: int) -> list[ShardOrder]:
    """Returns the order of each of this host's shards of a training set of `size` examples."""
    num_shards = num_shards_of(config)
    return [
        ShardOrder(config.seed, s, num_shards, size, config.batch_size)
        for s in parallel.host_part(num_shards)
    ]


def num_shards_of(config: ConfigDict) -> int:
    """Returns into how many shards the training set is dealt; unless told, one a host.

    Raises:
      UsageError: they do not divide the batch, or cannot be dealt to the hosts.
    """
    hosts = parallel.host_count()
    num_shards = config.dataset.num_shards or hosts
    if num_shards < 1 or config.batch_size % num_shards:
        raise UsageError(
            f"dataset.num_shards {num_shards} does not divide batch_size {config.batch_size}"
        )
    if num_shards % hosts:
        raise UsageError(
            f"dataset.num_shards {num_shards} cannot be dealt evenly to {hosts} hosts; "
            f"make it a multiple of {hosts}"
        )
    return num_shards


class MemorySource:
    """The data set lies on the device, and the step gathers its batch by the indices it is fed."""

    def __init__(self, arrays: Arrays, orders: list[ShardOrder]) -> None:
        """Takes the training arrays and the shards' orders."""
        self._orders = orders

    @staticmethod
    def resident(arrays: Arrays) -> Any:
        """Returns what is to lie on every device for the whole run."""
        return dict(arrays)

    @staticmethod
    def gather(resident: Any, fed: Any) -> Any:
        """Returns the batch, inside the compiled step."""
        return {name: x[fed] for name, x in resident.items()}

    def feed(self, step: int, num_steps: int) -> Any:
        """Returns the input of `num_steps` steps from `step` on, first axis the steps."""
        return np.concatenate([order.indices(step, num_steps) for order in self._orders], axis=1)


class TfDataSource:
    """tf.data gathers, batches and prefetches on the host while the device works."""

    def __init__(self, arrays: Arrays, orders: list[ShardOrder]) -> None:
        """Takes the training arrays and the shards' orders."""
        self._arrays, self._orders = arrays, orders
        self._batches: Iterator[Any] = iter(())
        self._next_step = -1

    @staticmethod
    def resident(arrays: Arrays) -> Any:
        """Returns nothing: batches come from the host."""
        return ()

    @staticmethod
    def gather(resident: Any, fed: Any) -> Any:
        """Returns the batch, which is what was fed."""
        return fed

    def feed(self, step: int, num_steps: int) -> Any:
        """Returns the input of `num_steps` steps from `step` on, first axis the steps."""
        if step != self._next_step:
            self._batches = self._dataset(step).as_numpy_iterator()
        self._next_step = step + num_steps
        batches = [next(self._batches) for _ in range(num_steps)]
        return {name: np.stack([batch[name] for batch in batches]) for name in self._arrays}

    def _dataset(self, step: int) -> Any:
        """Returns the batches from `step` on, without producing those before."""
        tf = import_tensorflow()
        shards = tuple(self._shard_indices(tf, order, step) for order in self._orders)
        indices = tf.data.Dataset.zip(shards).map(lambda *parts: tf.concat(parts, axis=0))
        tensors = {name: tf.constant(x) for name, x in self._arrays.items()}
        batches = indices.map(
            lambda i: {name: tf.gather(x, i) for name, x in tensors.items()},
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return batches.prefetch(tf.data.AUTOTUNE)

    @staticmethod
    def _shard_indices(tf: Any, order: ShardOrder, step: int) -> Any:
        epoch, start = order.position(step)

        def one_epoch(number: Any) -> Any:
            indices = tf.numpy_function(lambda e: order.epoch(int(e)), [number], tf.int32)
            return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(indices, [None]))

        epochs = tf.data.Dataset.range(epoch, np.iinfo(np.int64).max)
        return epochs.flat_map(one_epoch).skip(start).batch(order.stretch, drop_remainder=True)


SOURCES = {"memory": MemorySource, "tf_data": TfDataSource}
Source = MemorySource | TfDataSource


def source_class(name: str) -> type[Source]:
    """Returns the source that `config.dataset.source` names.

    Raises:
      UsageError: there is none of this name.
    """
    if name not in SOURCES:
        raise unknown("dataset.source", name, SOURCES)
    return SOURCES[name]


def make_source(config: ConfigDict, arrays: Arrays) -> Source:
    """Returns the source of a run's training batches; `arrays` is the training set."""
    size = len(next(iter(arrays.values())))
    return source_class(config.dataset.source)(arrays, shard_orders(config, size))


@functools.cache
def import_tensorflow() -> Any:
    """Returns TensorFlow, imported on first use (it takes seconds) and kept off the accelerators."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.config.set_visible_devices([], "TPU")
    return tf
