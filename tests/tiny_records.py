"""A tfds data set of 101 tiny examples in six files, and a workload's description of it."""

import numpy as np
import tensorflow_datasets as tfds

from playbook_jax.input.tfrecords import Records

SIZE, FILES = 101, 6


class TinyRecords(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(4, 4, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
            "id": np.int64,
            "unused": tfds.features.Image(shape=(16, 16, 3)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(SIZE):
            yield (
                i,
                {
                    "id": i,
                    "label": i % 10,
                    "image": image(i),
                    "unused": np.zeros((16, 16, 3), np.uint8),
                },
            )


def image(i):
    return np.random.default_rng(i).integers(0, 256, (4, 4, 1), np.uint8)


def write(directory):
    builder = TinyRecords(data_dir=str(directory))
    settings = tfds.download.DownloadConfig(num_shards=FILES, try_download_gcs=False)
    builder.download_and_prepare(download_config=settings)
    return builder


def records(builder, **changes):
    return Records(
        **{
            "builder": builder,
            "features": ("image", "label", "id"),
            "splits": {"train": "train", "validation": "train[:23]", "test": "train[90:]"},
            **changes,
        }
    )
