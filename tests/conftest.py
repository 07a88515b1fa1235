"""Runs before jax is imported: four virtual devices on the CPU, and a compilation cache."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
# Data sets that the tests write do not belong among the user's.
os.environ["TFDS_DATA_DIR"] = os.path.join(tempfile.gettempdir(), "playbook_jax_test_data")

from playbook_jax.runtime import compilation_cache
from tests.small_disk import small_disk  # noqa: F401, a fixture

compilation_cache.enable()
