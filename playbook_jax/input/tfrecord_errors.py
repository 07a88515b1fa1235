"""What is wrong with a record: one line that names the file, the record and the byte.

TensorFlow's own messages name no file. So where a pipeline fails, the files that it was reading are
gone through once more, one after the other.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from playbook_jax.errors import InputError, closest
from playbook_jax.lazy_tensorflow import import_tensorflow

if TYPE_CHECKING:
    from playbook_jax.input.tfrecords import Piece, RecordSplit


def explain(split: "RecordSplit", pieces: Sequence["Piece"], error: Exception) -> InputError:
    """Returns the error, in one line, that a pipeline over `pieces` of `split` has run into."""
    for piece in pieces:
        problem = _damage(piece) or _undecodable(split, piece)
        if problem:
            return InputError(problem)
    return InputError(f"the input pipeline fails: {_plain(error)}")


def _damage(piece: "Piece") -> str | None:
    """Says whether a file can't be read as far as its piece goes."""
    tf = import_tensorflow()
    count, offset = 0, 0
    try:
        records = tf.data.TFRecordDataset(piece.path).take(piece.skip + piece.take)
        for record in records.as_numpy_iterator():
            # Its length (8 bytes), their checksum (4), the record, its checksum (4).
            count, offset = count + 1, offset + len(record) + 16
    except tf.errors.NotFoundError:
        return f"{piece.path} does not exist; the data set is not complete"
    except tf.errors.OpError as error:
        what = re.sub(r" at \d+.*", "", _plain(error))  # it counts from elsewhere
        return (
            f"{piece.path} is damaged: record {count}, at byte {offset} ({what}); restore the file, or "
            "write the data set anew"
        )
    if count < piece.skip + piece.take:
        return (
            f"{piece.path} ends after {count} records; by its dataset_info.json the data set has at "
            f"least {piece.skip + piece.take} there; write it anew"
        )
    return None


def _undecodable(split: "RecordSplit", piece: "Piece") -> str | None:
    """Says whether a record of a piece can't be decoded."""
    tf = import_tensorflow()
    seed = tf.zeros(2, tf.int64)
    records = tf.data.TFRecordDataset(piece.path).skip(piece.skip).take(piece.take)
    count = 0
    try:
        for _ in records.map(lambda record: (split.trained(record, seed), split.evaluated(record))):
            count += 1
    except tf.errors.OpError as error:
        record = next(records.skip(count).as_numpy_iterator())
        where = f"{piece.path}, record {piece.skip + count}"
        return f"{where}: {_missing_feature(record, error) or _plain(error)}"
    return None


def _missing_feature(record: bytes, error: Exception) -> str | None:
    tf = import_tensorflow()
    match = re.search(r"Feature: (\S+) .*required but could not be found", str(error))
    if not match:
        return None
    there = sorted(tf.train.Example.FromString(record).features.feature)
    nearest = closest(match[1], there)
    return f"it has no feature {match[1]!r}{nearest} (it has: {', '.join(there)})"


def _plain(error: Exception) -> str:
    """Returns TensorFlow's message without the names of its nodes."""
    text = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*", "", str(error))
    return " ".join(text.split())[:300]
