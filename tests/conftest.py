"""Runs before jax is imported: four virtual devices on the CPU, and a compilation cache."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

from playbook_jax import compilation_cache

compilation_cache.enable()
