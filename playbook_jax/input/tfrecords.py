"""TFRecord data sets on disk, as tfds writes them: where the records lie, and how one is decoded.

Only the features that a workload asks for are decoded; the others are dropped while a record is
parsed. Whatever is wrong with a file is said in one line that names the file and the record. This
module imports TensorFlow only once something is read.
"""

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from playbook_jax.errors import UsageError, closest, unknown
from playbook_jax.input import tfrecord_errors
from playbook_jax.lazy_tensorflow import import_tensorflow

Arrays = Mapping[str, np.ndarray]
# Examples read before they are put together to arrays.
_READ_TOGETHER = 256
_FILES_AT_A_TIME = 8


def data_dir(path: str = "") -> epath.Path:
    """Returns the directory of the data sets: `path`, or tfds's own default where it is empty."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return epath.Path(path or default).expanduser()


def find_builder(name: str, path: str = "") -> Any:
    """Returns the tfds builder of a data set that lies on disk; nothing is ever downloaded.

    Args:
      name: as in tfds: "mnist", with a configuration "my_data/small", with a version "mnist/3.0.1"
        (otherwise the latest there is).
      path: the directory of the data sets, see `data_dir`.

    Raises:
      UsageError: there is no such data set, or several configurations of it.
    """
    import tensorflow_datasets as tfds

    place = data_dir(path)
    found = _versions(place / name)
    if not found:
        there = [child.name for child in place.iterdir()] if place.is_dir() else []
        raise UsageError(
            f"no data set {name!r} in {place}{closest(name, there)} (there: "
            f"{', '.join(sorted(there)) or 'nothing'}); dataset.data_dir says where to look, and "
            f"`{command(name, place)}` prepares a public one"
        )
    if len({version.parent for version in found}) > 1:
        names = sorted({str(version.parent.relative_to(place)) for version in found})
        raise UsageError(f"{name!r} has several configurations; choose one of {', '.join(names)}")
    return tfds.builder_from_directory(max(found, key=_version_number))


def command(name: str, place: epath.PathLike) -> str:
    """Returns the shell's command that prepares a public data set (`tfds build` needs Apache Beam)."""
    call = f"tfds.builder('{name}', data_dir='{place}').download_and_prepare()"
    return f'python -c "import tensorflow_datasets as tfds; {call}"'


def _versions(place: epath.Path) -> list[epath.Path]:
    """Returns the directories at most two below `place` that hold a data set."""
    level, found = [place], []
    for _ in range(3):
        found += [child for child in level if (child / "dataset_info.json").exists()]
        level = [child for parent in level if parent.is_dir() for child in parent.iterdir()]
    return found


def _version_number(place: epath.Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", place.name)]


def prepare(builder: Any, **download_config: Any) -> Any:
    """Returns a tfds builder after it has written its files, unless it has before.

    Several processes may do this at once, as the workers of a study do: the first one's files count.

    Args:
      builder: of a data set that is generated on this machine.
      **download_config: of `tfds.download.DownloadConfig`, e.g. `num_shards=8` files a split.
    """
    import tensorflow_datasets as tfds

    if not builder.is_prepared():
        settings = tfds.download.DownloadConfig(try_download_gcs=False, **download_config)
        try:
            builder.download_and_prepare(download_config=settings)
        except FileExistsError:
            # Another process was faster.
            return find_builder(f"{builder.name}/{builder.version}", str(builder.data_dir_root))
    return builder


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of the records of one file.

    Attributes:
      path: the file.
      skip: how many records come before the stretch.
      take: how many it has.
    """

    path: str
    skip: int
    take: int


@dataclasses.dataclass(frozen=True)
class Records:
    """A data set on disk, and how its records become examples.

    Attributes:
      builder: of tfds, prepared (`find_builder`, `prepare`).
      features: which of its features are decoded. The others are dropped before.
      splits: "train", "validation", "test" → tfds's name of a split, or a part such as "train[:90%]".
      encoded: features that are left as they lie on disk, for `preprocess` to decode: a JPEG, say, of
        which it decodes only what it crops.
      preprocess: example → example, of TensorFlow operations, the same in all splits and epochs.
      augment: (example, seed) → example, next, for training alone. `seed`, [2], is for TensorFlow's
        stateless random operations, `tf.image.stateless_random_…`; it differs each time an example is
        met.
      evaluate: example → example, in its place wherever nothing is random: the central crop, say.
    """

    builder: Any
    features: tuple[str, ...]
    splits: Mapping[str, str]
    encoded: tuple[str, ...] = ()
    preprocess: Callable[[Any], Any] | None = None
    augment: Callable[[Any, Any], Any] | None = None
    evaluate: Callable[[Any], Any] | None = None

    @functools.cached_property
    def decodable(self) -> tuple[Any, dict[str, Any]]:
        """The features of tfds without those that nobody asked for, and how some of them are decoded."""
        import tensorflow_datasets as tfds

        chosen = tfds.decode.PartialDecoding(dict.fromkeys(self.features, True))
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # tfds warns of a name that it uses itself
        features = chosen.extract_features(self.builder.info.features)
        logging.set_verbosity(verbosity)
        return features, {name: tfds.decode.SkipDecoding() for name in self.encoded}

    def split(self, name: str) -> "RecordSplit":
        """Returns a split.

        Raises:
          UsageError: there is no such split or feature, or no batches can be made of its examples.
        """
        if name not in self.splits:
            raise unknown("split", name, self.splits)
        known = self.builder.info.features
        for feature in self.features:
            if feature not in known:
                raise unknown(f"feature of {self.builder.name}", feature, known)
        try:
            info = self.builder.info.splits[self.splits[name]]
        except (KeyError, ValueError) as error:
            text = " ".join(str(error).split())
            raise UsageError(f"{self.builder.name} has no {self.splits[name]!r}: {text}") from error
        if self.builder.info.file_format.value != "tfrecord":
            raise UsageError(
                f"{self.builder.name} is stored as {self.builder.info.file_format.value}; "
                "only tfrecord can be streamed"
            )
        pieces = tuple(
            Piece(file.filename, file.skip, file.take)
            for file in info.file_instructions
            if file.take
        )
        return RecordSplit(self, name, pieces)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSplit:
    """Some records of a data set, in the order in which they lie on disk.

    Attributes:
      records: the data set.
      name: the split's.
      pieces: the records.
    """

    records: Records
    name: str
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """How many examples there are."""
        return sum(piece.take for piece in self.pieces)

    @functools.cached_property
    def spec(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of each array of an example, as the model sees it.

        Raises:
          UsageError: a shape is not fixed, or an array is no number.
        """
        tf = import_tensorflow()
        strings = tf.data.Dataset.from_tensors("")
        seed = tf.zeros(2, tf.int64)
        seen = (lambda s: self.trained(s, seed)) if self.name == "train" else self.evaluated
        found = strings.map(seen).element_spec
        spec = {}
        for name, tensor in found.items():
            if not tensor.shape.is_fully_defined():
                raise UsageError(
                    f"{name!r} has the shape {tuple(tensor.shape)}: examples of different shapes "
                    "make no batch; crop, resize or pad them in `preprocess`"
                )
            if tensor.dtype == tf.string:
                raise UsageError(
                    f"{name!r} is a string, which no device takes; leave it out of `features`, or "
                    "decode it in `preprocess`"
                )
            spec[name] = (tuple(tensor.shape), tensor.dtype.as_numpy_dtype)
        return spec

    @property
    def bytes_per_example(self) -> int:
        """How many bytes an example takes once it is decoded."""
        return sum(int(np.prod(s)) * np.dtype(dtype).itemsize for s, dtype in self.spec.values())

    def part(self, index: int, parts: int) -> "RecordSplit":
        """Returns one of `parts` equal parts (to one example): whole files, but at its ends."""
        begin, end = (self.size * i // parts for i in (index, index + 1))
        return dataclasses.replace(self, pieces=tuple(_between(self.pieces, begin, end)))

    def only(self, numbers: Sequence[int]) -> "RecordSplit":
        """Returns the examples with these numbers, counted in the order on disk."""
        pieces: list[Piece] = []
        firsts = np.cumsum([0, *(piece.take for piece in self.pieces)])
        for number in numbers:
            index = int(np.searchsorted(firsts, number, side="right")) - 1
            skip = self.pieces[index].skip + int(number - firsts[index])
            last = pieces[-1] if pieces else Piece("", 0, 0)
            if (last.path, last.skip + last.take) == (self.pieces[index].path, skip):
                pieces[-1] = dataclasses.replace(last, take=last.take + 1)
            else:
                pieces.append(Piece(self.pieces[index].path, skip, 1))
        return dataclasses.replace(self, pieces=tuple(pieces))

    def sample_numbers(self, size: int) -> np.ndarray:
        """Returns the numbers of `size` examples: the same share of each file, from its beginning.

        So a sample of a large data set is had without reading all of it.
        """
        takes = np.array([piece.take for piece in self.pieces])
        ends = np.cumsum(takes) * min(size, self.size) // self.size
        counts, firsts = np.diff(ends, prepend=0), np.cumsum(takes) - takes
        return np.concatenate(
            [first + np.arange(n) for first, n in zip(firsts, counts, strict=True)]
        )

    def where(self, number: int) -> str:
        """Returns in words where an example lies."""
        for piece in self.pieces:
            if number < piece.take:
                return f"{piece.path}, record {piece.skip + number}"
            number -= piece.take
        raise IndexError(number)

    def decoded(self, record: Any) -> dict[str, Any]:
        """Returns the example in a serialized record, inside of a tf.data pipeline."""
        features, decoders = self.records.decodable
        example = features.deserialize_example(record, decoders=decoders)
        return self.records.preprocess(example) if self.records.preprocess else example

    def trained(self, record: Any, seed: Any) -> dict[str, Any]:
        """Returns the example as training sees it."""
        return self.augmented(self.decoded(record), seed)

    def augmented(self, example: Any, seed: Any) -> dict[str, Any]:
        """Returns a decoded example as training sees it."""
        return self.records.augment(example, seed) if self.records.augment else example

    def evaluated(self, record: Any) -> dict[str, Any]:
        """Returns the example as evaluations see it."""
        example = self.decoded(record)
        return self.records.evaluate(example) if self.records.evaluate else example

    def read(self, batch_size: int, *, decoded: bool = False) -> Iterator[Arrays]:
        """Yields all examples in batches, in the order on disk, the last one perhaps smaller.

        Args:
          batch_size: how many examples each has.
          decoded: whether to stop short of what evaluations see.

        Raises:
          InputError: a file is damaged, or a record cannot be decoded.
        """
        tf = import_tensorflow()
        try:
            yield from _batches(self, batch_size, decoded).as_numpy_iterator()
        except tf.errors.OpError as error:
            raise tfrecord_errors.explain(self, self.pieces, error) from error

    def arrays(self, *, decoded: bool = False) -> Arrays:
        """Returns all examples, as `read` does, as arrays."""
        parts = list(self.read(_READ_TOGETHER, decoded=decoded))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Arrayed(collections.abc.Mapping):
    """The splits of `Records` as arrays in memory, each read when it is first asked for."""

    def __init__(self, records: Records) -> None:
        """Reads nothing yet."""
        self._records = records
        self._arrays: dict[str, Arrays] = {}

    @property
    def augments(self) -> bool:
        """Whether training is to see other examples than these arrays hold."""
        return self._records.augment is not None

    def __getitem__(self, name: str) -> Arrays:
        """Returns the arrays of a split."""
        if name not in self._records.splits:
            raise KeyError(name)
        if name not in self._arrays:
            self._arrays[name] = self._records.split(name).arrays()
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Yields the names of the splits."""
        return iter(self._records.splits)

    def __len__(self) -> int:
        """Returns how many splits there are."""
        return len(self._records.splits)


@functools.lru_cache(maxsize=8)
def _batches(split: RecordSplit, batch_size: int, decoded: bool) -> Any:
    """Returns a dataset, kept: it is gone through at each evaluation."""
    tf = import_tensorflow()
    paths, skips, takes = zip(*map(dataclasses.astuple, split.pieces), strict=True)
    files = tf.data.Dataset.from_tensor_slices(
        (list(paths), np.array(skips, np.int64), np.array(takes, np.int64))
    )
    records = files.flat_map(_piece)
    examples = records.map(
        split.decoded if decoded else split.evaluated,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _piece(path: Any, skip: Any, take: Any) -> Any:
    return import_tensorflow().data.TFRecordDataset(path).skip(skip).take(take)


def read_ahead(paths: Any, skips: Any, takes: Any, most: int) -> Any:
    """Returns the records of several pieces, at most `most`, in order; the next files are read ahead."""
    files = import_tensorflow().data.Dataset.from_tensor_slices((paths, skips, takes))
    return files.interleave(
        _piece,
        cycle_length=_FILES_AT_A_TIME,
        block_length=most,  # of a file, before it is the next one's turn: all that there are
        num_parallel_calls=_FILES_AT_A_TIME,
        deterministic=True,
    )


def _between(pieces: tuple[Piece, ...], begin: int, end: int) -> Iterator[Piece]:
    """Yields the pieces of the examples from `begin` to `end`, counted through all `pieces`."""
    first = 0
    for piece in pieces:
        low = min(max(begin - first, 0), piece.take)
        high = min(max(end - first, 0), piece.take)
        if high > low:
            yield Piece(piece.path, piece.skip + low, high - low)
        first += piece.take
