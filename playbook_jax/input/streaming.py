"""Training batches streamed from TFRecord files: a pure function of (seed, shard, step).

A shard is a stretch of the training set's records, whole files but at its ends. In each epoch its
files come in an order of (seed, shard, epoch); what follows one another is cut into blocks of
`dataset.shuffle_buffer` records, and each block is shuffled. That is what a shuffle buffer does, but
it can be computed without reading: a run that goes on in the middle of an epoch reads nothing of the
blocks before, and blocks can be made in any process of a tf.data service and put back in order.
"""

import dataclasses
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from playbook_jax.errors import InputError, UsageError
from playbook_jax.input import tfrecord_errors
from playbook_jax.input.tfrecords import Arrays, Piece, RecordSplit, read_ahead
from playbook_jax.lazy_tensorflow import import_tensorflow

SHUFFLE_BUFFER = 16_384
_END = np.iinfo(np.int64).max
# Numbers that no block and no position has, for seeds of their own.
_FILES, _AUGMENTATION = -1, -2
# How many blocks the workers of a tf.data service may be ahead of one that has not come.
_BLOCKS_AHEAD = 64


def fold_in(seed: Any, number: Any) -> Any:
    """Returns the seed, int64 [2], of the part with this number, like `jax.random.fold_in`."""
    tf = import_tensorflow()
    number = tf.cast(number, tf.int64)
    # A named algorithm: by default TensorFlow chooses one for the device.
    return tf.random.experimental.stateless_fold_in(seed, number, alg="philox")


def _permutation(size: Any, seed: Any) -> Any:
    tf = import_tensorflow()
    return tf.random.experimental.stateless_shuffle(
        tf.range(size, dtype=tf.int64), seed, alg="philox"
    )


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard of the training set, and its endless order.

    Block g is block g mod `blocks` of epoch g div `blocks`. Methods take TensorFlow's integers, in a
    graph or not.

    Attributes:
      split: the records of this shard.
      seed: int32 [2], other ones for each seed of a run and each shard.
      stretch: how many examples go into each batch.
      block_size: how many records are shuffled together; the last block of an epoch may have fewer.
    """

    split: RecordSplit
    seed: np.ndarray
    stretch: int
    block_size: int

    @property
    def blocks(self) -> int:
        """How many blocks an epoch has."""
        return -(-self.split.size // self.block_size)

    def locate(self, position: int) -> tuple[int, int]:
        """Returns the block of a position in the endless order, and how far into it that is."""
        epoch, rest = divmod(position, self.split.size)
        block, within = divmod(rest, self.block_size)
        return epoch * self.blocks + block, within

    def begin(self, block: Any) -> Any:
        """Returns the position in the endless order at which a block begins."""
        return block // self.blocks * self.split.size + block % self.blocks * self.block_size

    def pieces(self, block: Any) -> tuple[Any, Any, Any]:
        """Returns of what a block is made, in order: number of the piece, records to skip and take."""
        tf = import_tensorflow()
        epoch, within = block // self.blocks, block % self.blocks
        skips, takes = (
            tf.constant([getattr(p, name) for p in self.split.pieces], tf.int64)
            for name in ("skip", "take")
        )
        order = _permutation(len(self.split.pieces), fold_in(fold_in(self.seed, epoch), _FILES))
        skips, takes = tf.gather(skips, order), tf.gather(takes, order)
        ends = tf.cumsum(takes)
        begin = within * self.block_size
        low = tf.clip_by_value(begin - ends + takes, 0, takes)
        high = tf.clip_by_value(begin + self.block_size - ends + takes, 0, takes)
        chosen = high > low
        numbers, skips, takes = (
            tf.boolean_mask(x, chosen) for x in (order, skips + low, high - low)
        )
        return numbers, skips, takes

    def shuffle(self, block: Any, size: Any) -> Any:
        """Returns the permutation of the `size` records of a block."""
        epoch, within = block // self.blocks, block % self.blocks
        return _permutation(size, fold_in(fold_in(self.seed, epoch), within))

    def augmentation_seed(self, position: Any) -> Any:
        """Returns the seed of the example that is met at a position of the endless order."""
        return fold_in(fold_in(self.seed, _AUGMENTATION), position)

    def read(self, block: Any) -> Any:
        """Returns the serialized records of a block, shuffled: strings [block size]."""
        tf = import_tensorflow()
        numbers, skips, takes = self.pieces(block)
        paths = tf.gather(tf.constant([piece.path for piece in self.split.pieces]), numbers)
        found = read_ahead(paths, skips, takes, self.block_size)
        strings = found.batch(self.block_size).get_single_element()
        expected = tf.reduce_sum(takes)
        whole = tf.debugging.assert_equal(tf.size(strings, tf.int64), expected, "a file is short")
        with tf.control_dependencies([whole]):
            return tf.gather(strings, self.shuffle(block, expected))

    def numbers(self, block: Any) -> Any:
        """Returns which of the split's records a block holds, shuffled: int64 [block size]."""
        tf = import_tensorflow()
        takes = np.array([piece.take for piece in self.split.pieces])
        skip = np.array([piece.skip for piece in self.split.pieces])
        first = tf.constant(np.cumsum(takes) - takes - skip, tf.int64)
        pieces, skips, takes = self.pieces(block)
        begins = tf.gather(first, pieces) + skips
        inside = tf.ragged.range(begins, begins + takes).values
        return tf.gather(inside, self.shuffle(block, tf.size(inside, tf.int64)))

    def where(self, position: int) -> str:
        """Returns in words where the example at a position of the endless order lies."""
        tf = import_tensorflow()
        block, within = self.locate(position)
        return self.split.where(int(self.numbers(tf.constant(block, tf.int64))[within]))

    def pieces_of(self, block: int) -> tuple[Piece, ...]:
        """Returns of what a block is made."""
        tf = import_tensorflow()
        parts = self.pieces(tf.constant(block, tf.int64))
        return tuple(
            Piece(self.split.pieces[number].path, skip, take)
            for number, skip, take in zip(*(x.numpy().tolist() for x in parts), strict=True)
        )


def make_shard(
    train: RecordSplit, seed: int, index: int, num_shards: int, batch_size: int, shuffle_buffer: int
) -> Shard:
    """Returns one of `num_shards` shards of a training set; `batch_size` is that of all of them.

    Raises:
      UsageError: there is nothing in it.
    """
    split = train.part(index, num_shards)
    if not split.size:
        raise UsageError(f"dataset.num_shards {num_shards} is more than the {train.size} examples")
    state = np.random.SeedSequence((seed, index)).generate_state(2).astype(np.int32)
    # Blocks of about the same size, none larger than the buffer.
    blocks = -(-split.size // shuffle_buffer)
    return Shard(split, state, batch_size // num_shards, -(-split.size // blocks))


def where(shards: Sequence[Shard], step: int, example: int) -> str:
    """Returns in words where an example of the batch of a step lies; it is counted on this host."""
    shard, within = divmod(example, shards[0].stretch)
    return shards[shard].where(step * shards[shard].stretch + within)


def explain(shards: Sequence[Shard], step: int, error: Exception) -> InputError:
    """Returns the error in one line that has kept the batch of a step from being made."""
    pieces = [
        piece
        for shard in shards
        for block in range(
            shard.locate(step * shard.stretch)[0],
            shard.locate((step + 1) * shard.stretch - 1)[0] + 1,
        )
        for piece in shard.pieces_of(block)
    ]
    return tfrecord_errors.explain(shards[0].split, list(dict.fromkeys(pieces)), error)


def local_batches(shards: list[Shard], cached: list[Arrays] | None, step: int) -> Iterator[Arrays]:
    """Yields the batches from `step` on, made in this process, each shard's stretch after the other.

    Args:
      shards: of this host.
      cached: each shard's decoded examples, in the order of its records; None to read files.
      step: of the first batch.
    """
    tf = import_tensorflow()
    streams = [
        _local_stream(shard, cached and cached[i], step * shard.stretch)
        for i, shard in enumerate(shards)
    ]
    batches = streams[0]
    if len(streams) > 1:
        batches = tf.data.Dataset.zip(tuple(streams)).map(
            lambda *parts: {name: tf.concat([p[name] for p in parts], 0) for name in parts[0]}
        )
    yield from batches.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def shuffled_records(shard: Shard, position: int, numbers: bool = False) -> Any:
    """Returns a dataset of a shard's serialized records from a position on, or of their numbers."""
    first, within = shard.locate(position)
    blocks = import_tensorflow().data.Dataset.range(first, _END)
    # One block is read while the one before is used.
    read = blocks.map(shard.numbers if numbers else shard.read).prefetch(1)
    return read.unbatch().skip(within)


def _local_stream(shard: Shard, cached: Arrays | None, position: int) -> Any:
    """Returns a dataset of a shard's stretches from a position on."""
    tf = import_tensorflow()
    parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    items = shuffled_records(shard, position, numbers=cached is not None)
    arrays = {name: tf.constant(x) for name, x in (cached or {}).items()}

    def gather(numbers: Any) -> dict[str, Any]:
        return {name: tf.gather(x, numbers) for name, x in arrays.items()}

    def example(position: Any, item: Any) -> Any:
        seed = shard.augmentation_seed(position)
        return (
            shard.split.augmented(gather(item), seed) if cached else shard.split.trained(item, seed)
        )

    if cached and not shard.split.records.augment:  # a batch at a time costs a tenth
        return items.batch(shard.stretch).map(gather, **parallel)
    examples = items.enumerate(position).map(example, **parallel)
    return examples.batch(shard.stretch)


def check_service(address: str) -> None:
    """Raises a UsageError where no service listens: TensorFlow would look for it without end."""
    match = re.fullmatch(r"grpc://(.+):(\d+)", address)
    if not match:
        raise UsageError(f'dataset.service must be like "grpc://host:5050", not {address!r}')
    try:
        socket.create_connection((match[1], int(match[2])), timeout=10).close()
    except OSError as error:
        raise UsageError(
            f"no tf.data service answers at {address} ({error}); scripts/input_service.py starts one"
        ) from error


def service_batches(shards: list[Shard], address: str, step: int) -> Iterator[Arrays]:
    """Yields the batches of `local_batches`, made by the workers of a tf.data service.

    Each block goes to whichever worker is free; here the parts are put back in order, so the batches
    depend neither on how many workers there are nor on which is faster.
    """
    streams = [_service_stream(shard, address, step * shard.stretch) for shard in shards]
    for parts in zip(*streams, strict=True):
        yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _service_stream(shard: Shard, address: str, position: int) -> Iterator[Arrays]:
    tf = import_tensorflow()
    first, within = shard.locate(position)

    def block_parts(block: Any) -> Any:
        records = tf.data.Dataset.from_tensor_slices(shard.read(block))
        examples = records.enumerate(shard.begin(block)).map(
            lambda position, record: shard.split.trained(record, shard.augmentation_seed(position)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        parts = examples.batch(shard.stretch).enumerate()
        return parts.map(lambda part, examples: (block, part, examples))

    service = tf.data.experimental.service
    parts = (
        tf.data.Dataset.range(first, _END)
        .flat_map(block_parts)
        .apply(service.distribute(service.ShardingPolicy.DYNAMIC, address))
        .prefetch(tf.data.AUTOTUNE)
    )
    numbered = ((int(b), int(p), examples) for b, p, examples in parts.as_numpy_iterator())
    ordered = in_order(numbered, first, shard)
    return stretches(ordered, within, shard.stretch)


def in_order(
    parts: Iterable[tuple[int, int, Arrays]], first: int, shard: Shard
) -> Iterator[Arrays]:
    """Yields the parts of blocks in order, from block `first` on.

    Raises:
      InputError: a part does not come.
    """
    waiting: dict[tuple[int, int], Arrays] = {}
    block, part = first, 0
    for its_block, its_part, examples in parts:
        waiting[its_block, its_part] = examples
        while (block, part) in waiting:
            yield waiting.pop((block, part))
            last = (part + 1) * shard.stretch >= shard.begin(block + 1) - shard.begin(block)
            block, part = (block + 1, 0) if last else (block, part + 1)
        if its_block > block + _BLOCKS_AHEAD:
            raise InputError(
                f"the tf.data service has lost part of block {block}: did one of its workers end? "
                "The same command goes on from the latest checkpoint"
            )


def stretches(parts: Iterable[Arrays], skip: int, size: int) -> Iterator[Arrays]:
    """Yields the examples of `parts` without the first `skip`, `size` at a time."""
    rest: Arrays | None = None
    for part in parts:
        if skip:
            dropped = min(skip, len(next(iter(part.values()))))
            part, skip = {name: x[dropped:] for name, x in part.items()}, skip - dropped
        rest = part if rest is None else {n: np.concatenate([x, part[n]]) for n, x in rest.items()}
        while len(next(iter(rest.values()))) >= size:
            yield {name: x[:size] for name, x in rest.items()}
            rest = {name: x[size:] for name, x in rest.items()}
