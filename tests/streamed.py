"""What the tests of streaming share: sources of tiny records, and their files read by other means."""

import struct
from pathlib import Path

from playbook_jax import config as config_lib
from playbook_jax.input import pipeline
from playbook_jax.lazy_tensorflow import import_tensorflow
from tests import small, tiny_records
from tests.tiny_records import SIZE


class Streamed:
    """As much of a workload as a source asks for."""

    def __init__(self, records, ranges=None):
        self._records, self._ranges = records, ranges or {}

    def records(self):
        return self._records

    def ranges(self):
        return self._ranges


def source(records, *, ranges=None, batch_size=8, seed=0, num_shards=1, **dataset):
    config = small.digits(batch_size=batch_size, seed=seed).to_dict()
    config["dataset"] = {"source": "tfds", "num_shards": num_shards, "shuffle_buffer": 16} | dataset
    config, workload = config_lib.from_dict(config), Streamed(records, ranges)
    pipeline.check(config)
    train_split = pipeline.TfdsSource.read(workload)["train"]
    return pipeline.make_source(config, workload, train_split)


def ids(builder, step=0, num_steps=SIZE, records=None, **dataset):
    """The ids of batches, [num_steps, batch size]."""
    records = records or tiny_records.records(builder, features=("id",))
    return source(records, **dataset).feed(step, num_steps)["id"]


def files_of(builder):
    return sorted(Path(builder.data_dir).glob("*train*"))


def on_disk(builder):
    """id → (file, record), read without the code under test."""
    tf = import_tensorflow()
    places = {}
    for file, path in enumerate(files_of(builder)):
        for record, data in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
            feature = tf.train.Example.FromString(data).features.feature
            places[feature["id"].int64_list.value[0]] = (file, record)
    return places


def rewrite(path, change):
    """Writes the records of a file anew, each `change`d as a `tf.train.Example`."""
    tf = import_tensorflow()
    examples = [
        tf.train.Example.FromString(x)
        for x in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, example in enumerate(examples):
            change(number, example)
            writer.write(example.SerializeToString())


def shifted(example, seed):
    tf = import_tensorflow()
    return {**example, "noise": tf.random.stateless_uniform([2], seed)}


def offsets(path):
    """Where each record of a TFRecord file begins, by the format: length, checksum, data, checksum."""
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        found.append(at)
        at += 16 + struct.unpack("<Q", data[at : at + 8])[0]
    return found


def digits(**overrides):
    values = {"batch_size": 64, "max_train_steps": 30, "dataset__shuffle_buffer": 256, **overrides}
    return small.shrunk(small.ROOT / "configs" / "digits_tfds.py", **values)
