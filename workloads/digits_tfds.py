"""The digits as a tfds data set of TFRecord files, streamed: how a data set on disk is used.

The builder writes the files by itself when they are not there yet; nothing is downloaded. A public
data set needs no builder here: `records.find_builder("mnist", self.config.dataset.data_dir)`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from playbook_jax.input import tfrecords
from playbook_jax.input.tfrecords import Records
from playbook_jax.lazy_tensorflow import import_tensorflow
from playbook_jax.workload import Workload
from workloads import digits

FILES = 8  # of each split


class PlaybookDigits(tfds.core.GeneratorBasedBuilder):
    """Writes the splits of the workload `digits`."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # it has no checksums, and tfds looks for them in packages with __init__.py

    def _info(self) -> Any:
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1)),
            "label": tfds.features.ClassLabel(num_classes=digits.CLASSES),
            "number": np.int64,  # within the split; of no use to the model, so it is never decoded
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {name: self._generate_examples(data) for name, data in digits.load().items()}

    def _generate_examples(self, data: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        pairs = zip(data["image"], data["label"], strict=True)
        for number, (image, label) in enumerate(pairs):
            yield number, {"image": image, "label": label, "number": number}


class DigitsTfds(digits.Digits):
    """The models of `digits` on images that were shifted a little, another way in each epoch."""

    splits = Workload.splits  # read from the records, not from scikit-learn's table

    def records(self) -> Records:
        """Returns images (uint8 from 0 to 16, [8, 8, 1]) and labels."""
        builder = PlaybookDigits(data_dir=str(tfrecords.data_dir(self.config.dataset.data_dir)))
        return Records(
            tfrecords.prepare(builder, num_shards=FILES),
            features=("image", "label"),
            splits={name: name for name in ("train", "validation", "test")},
            augment=self._augment if self.config.dataset.shift else None,
        )

    def _augment(self, example: Any, seed: Any) -> dict[str, Any]:
        tf = import_tensorflow()
        shift = self.config.dataset.shift
        padded = tf.pad(example["image"], [[shift, shift], [shift, shift], [0, 0]])
        return {**example, "image": tf.image.stateless_random_crop(padded, (8, 8, 1), seed)}
