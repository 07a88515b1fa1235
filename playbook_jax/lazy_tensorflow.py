"""TensorFlow, which only reads input here, imported by whatever needs it and not before."""

import functools
import os
from typing import Any

from playbook_jax.errors import UsageError


@functools.cache
def import_tensorflow() -> Any:
    """Returns TensorFlow, imported on first use (it takes seconds) and kept off the accelerators.

    Raises:
      UsageError: it is not installed.
    """
    # It would tell each run about the processor's instructions, which are no matter for input.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UsageError(
            f"this needs TensorFlow, which cannot be imported ({error}); dataset.source 'memory' "
            "with a workload that makes its own arrays does without"
        ) from error
    tf.config.set_visible_devices([], "GPU")
    tf.config.set_visible_devices([], "TPU")
    return tf
