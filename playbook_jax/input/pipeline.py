"""Training batches: a pure function of (seed, step), from memory, from tf.data or from files.

The data set is dealt into shards, each with an order of its own in every epoch; a shard goes through
its examples epoch after epoch, nothing dropped, and batch t concatenates each shard's t-th stretch, of
which a host makes those of its own shards. So batches depend neither on how many devices or hosts
share the work nor on where a run was interrupted.

Arrays are dealt example by example (i to shard i mod `num_shards`), in the order of
`epoch_order(seed, shard, epoch)`: from memory and from tf.data come the same batches. Records are
dealt file by file, in an order that can be streamed: see `streaming`.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError, refusing, unknown
from playbook_jax.input import split_checks, splits, streaming
from playbook_jax.input.tfrecords import Arrayed, RecordSplit
from playbook_jax.lazy_tensorflow import import_tensorflow
from playbook_jax.runtime import parallel
from playbook_jax.workload import Workload

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
        ShardOrder(config_lib.seeds(config)["data"], s, num_shards, size, config.batch_size)
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


def check(config: ConfigDict) -> None:
    """Checks what a config asks of the input, before anything is read.

    Raises:
      UsageError: sizes do not fit, options do not go together, or there is no such service.
    """
    num_shards_of(config)
    options = config.dataset
    if options.get("shuffle_buffer", 1) < 1:
        raise UsageError(
            f"dataset.shuffle_buffer must be at least 1; it is {options.shuffle_buffer}"
        )
    if options.source == "tfds" and options.get("service", ""):
        if options.get("cache", False):
            raise UsageError(
                "dataset.cache keeps decoded examples in this process, dataset.service decodes them in "
                "others: choose one"
            )
        streaming.check_service(options.service)


class MemorySource:
    """The data set lies on the device, and the step gathers its batch by the indices it is fed.

    Attributes:
      ahead: for how many calls of the device the input is made before it is asked for.
    """

    ahead = 0  # indices cost less than the thread that would make them

    def __init__(self, config: ConfigDict, workload: Workload, train: Arrays) -> None:
        """Takes the training arrays."""
        self._orders = shard_orders(config, splits.size(train))

    @staticmethod
    def read(workload: Workload) -> Mapping[str, splits.Split]:
        """Returns the data of every split, its integers checked where evaluations see them."""
        return _arrays(workload)

    @staticmethod
    def resident(train: Arrays) -> Any:
        """Returns what is to lie on every device for the whole run."""
        return dict(train)

    @staticmethod
    def gather(resident: Any, fed: Any) -> Any:
        """Returns the batch, inside the compiled step."""
        return {name: x[fed] for name, x in resident.items()}

    def feed(self, step: int, num_steps: int) -> Any:
        """Returns the input of `num_steps` steps from `step` on, first axis the steps."""
        return np.concatenate([order.indices(step, num_steps) for order in self._orders], axis=1)


class _HostSource:
    """Batches are made on the host, ahead of the steps; `feed` waits only for those it returns.

    Attributes:
      ahead: as for `MemorySource`; see feeds.py.
    """

    ahead = 2

    def __init__(self) -> None:
        self._batches: Iterator[Arrays] = iter(())
        self._next_step = -1

    @staticmethod
    def resident(train: Any) -> Any:
        """Returns nothing: batches come from the host."""
        return ()

    @staticmethod
    def gather(resident: Any, fed: Any) -> Any:
        """Returns the batch, which is what was fed."""
        return fed

    def feed(self, step: int, num_steps: int) -> Any:
        """Returns the input of `num_steps` steps from `step` on, first axis the steps."""
        if step != self._next_step:
            self._batches, self._next_step = self._from(step), step
        batches = []
        for _ in range(num_steps):
            batches.append(next(self._batches))
            self._next_step += 1
        if num_steps == 1:  # without a copy
            return {name: x[None] for name, x in batches[0].items()}
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}

    def _from(self, step: int) -> Iterator[Arrays]:
        """Returns the batches from `step` on, without producing those before."""
        raise NotImplementedError


class TfDataSource(_HostSource):
    """tf.data gathers, batches and prefetches on the host while the device works."""

    def __init__(self, config: ConfigDict, workload: Workload, train: Arrays) -> None:
        """Takes the training arrays."""
        super().__init__()
        self._arrays, self._orders = train, shard_orders(config, splits.size(train))

    @staticmethod
    def read(workload: Workload) -> Mapping[str, splits.Split]:
        """Returns the data of every split."""
        return _arrays(workload)

    def _from(self, step: int) -> Iterator[Arrays]:
        tf = import_tensorflow()
        shards = tuple(self._shard_indices(tf, order, step) for order in self._orders)
        indices = tf.data.Dataset.zip(shards).map(lambda *parts: tf.concat(parts, axis=0))
        tensors = {name: tf.constant(x) for name, x in self._arrays.items()}
        batches = indices.map(
            lambda i: {name: tf.gather(x, i) for name, x in tensors.items()},
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return batches.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()

    @staticmethod
    def _shard_indices(tf: Any, order: ShardOrder, step: int) -> Any:
        epoch, start = order.position(step)

        def one_epoch(number: Any) -> Any:
            indices = tf.numpy_function(lambda e: order.epoch(int(e)), [number], tf.int32)
            return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(indices, [None]))

        epochs = tf.data.Dataset.range(epoch, np.iinfo(np.int64).max)
        return epochs.flat_map(one_epoch).skip(start).batch(order.stretch, drop_remainder=True)


class TfdsSource(_HostSource):
    """Records are streamed from TFRecord files, decoded and augmented on the host, or by a service."""

    def __init__(self, config: ConfigDict, workload: Workload, train: RecordSplit) -> None:
        """Takes the training records; reads them only where `dataset.cache` wants them in memory.

        Raises:
          UsageError: the cache can't be filled.
        """
        super().__init__()
        num_shards = num_shards_of(config)
        options = config.dataset
        self._service, cache = options.get("service", ""), options.get("cache", False)
        self._shards = [
            streaming.make_shard(
                train,
                config_lib.seeds(config)["data"],
                shard,
                num_shards,
                config.batch_size,
                options.get("shuffle_buffer", streaming.SHUFFLE_BUFFER),
            )
            for shard in parallel.host_part(num_shards)
        ]
        self._ranges = workload.ranges()
        self._cached = (
            [shard.split.arrays(decoded=True) for shard in self._shards] if cache else None
        )

    @staticmethod
    def read(workload: Workload) -> Mapping[str, splits.Split]:
        """Returns the records of every split, and reads nothing."""
        where = f"{type(workload).__name__}.records"
        with refusing(where):
            records = workload.records()
        split_checks.check_names(where, records.splits)
        return {name: records.split(name) for name in records.splits}

    def feed(self, step: int, num_steps: int) -> Any:
        """Returns the input of `num_steps` steps from `step` on, first axis the steps.

        Raises:
          InputError: a file is damaged, a record cannot be decoded, or an integer is out of its range.
        """
        tf = import_tensorflow()
        try:
            return super().feed(step, num_steps)
        except tf.errors.OpError as error:
            raise streaming.explain(self._shards, self._next_step, error) from error

    def _from(self, step: int) -> Iterator[Arrays]:
        if self._service:
            batches = streaming.service_batches(self._shards, self._service, step)
        else:
            batches = streaming.local_batches(self._shards, self._cached, step)
        for number, batch in enumerate(batches, start=step):
            where = functools.partial(streaming.where, self._shards, number)
            splits.check_ranges(batch, self._ranges, where)
            yield batch


SOURCES = {"memory": MemorySource, "tf_data": TfDataSource, "tfds": TfdsSource}
Source = MemorySource | TfDataSource | TfdsSource


def source_class(name: str) -> type[Source]:
    """Returns the source that `config.dataset.source` names.

    Raises:
      UsageError: there is none of this name.
    """
    if name not in SOURCES:
        raise unknown("dataset.source", name, SOURCES)
    return SOURCES[name]


def make_source(config: ConfigDict, workload: Workload, train: Any) -> Source:
    """Returns the source of a run's training batches; `train` is the training set."""
    return source_class(config.dataset.source)(config, workload, train)


def _arrays(workload: Workload) -> Mapping[str, Arrays]:
    """Returns the arrays of every split, checked as far as a run sees them.

    Raises:
      InputError: an integer is out of its range.
      UsageError: the workload augments what it streams, or its arrays do not fit to each other.
    """
    with refusing(f"{type(workload).__name__}.splits"):
        found = workload.splits()
    if isinstance(found, Arrayed) and found.augments:
        raise UsageError(
            f"the workload {workload.config.workload!r} augments its examples as they are streamed: "
            "dataset.source must be 'tfds' (dataset.cache=True keeps them in memory)"
        )
    split_checks.check_splits(workload, found)
    for name in ("train", "validation"):
        where = functools.partial("example {1} of {0}".format, name)
        splits.check_ranges(found[name], workload.ranges(), where)
    return found
