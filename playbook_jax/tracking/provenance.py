"""Where a result comes from: command, commit and diff, versions, devices, host, seeds.

A run that goes on where an earlier one was stopped may do so by another command, with other code or on
another machine; then `earlier_runs` says in what it differed (playbook, "Setting up experiment tracking").
"""

import datetime
import functools
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from playbook_jax.tracking import sources

_PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "libtpu",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "ml_collections",
    "clu",
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-datasets",
)
# The variables that change what is computed. By their names: how a name begins tells nothing, and what is
# not listed may be a password.
COMPUTED = (
    "JAX_ALLOW_F16_REDUCTIONS",
    "JAX_CPU_COLLECTIVES_IMPLEMENTATION",
    "JAX_CPU_ENABLE_ASYNC_DISPATCH",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_DEFAULT_PRNG_IMPL",
    "JAX_DISABLE_JIT",
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "JAX_ENABLE_CUSTOM_PRNG",
    "JAX_ENABLE_X64",
    "JAX_EXEC_TIME_OPTIMIZATION_EFFORT",
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL",
    "JAX_NUMPY_DTYPE_PROMOTION",
    "JAX_NUM_CPU_DEVICES",
    "JAX_OPTIMIZATION_LEVEL",
    "JAX_PLATFORMS",
    "JAX_PLATFORM_NAME",
    "JAX_RANDOM_SEED_OFFSET",
    "JAX_SOFTMAX_CUSTOM_JVP",
    "JAX_THREEFRY_GPU_KERNEL_LOWERING",
    "JAX_THREEFRY_PARTITIONABLE",
    "JAX_USE_DIRECT_LINEARIZE",
    "JAX_USE_SHARDY_PARTITIONER",
    "LIBTPU_INIT_ARGS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
)
# Those of TensorFlow, which reads the input, change no result.
TENSORFLOW = (
    "TF_CPP_MIN_LOG_LEVEL",
    "TF_DETERMINISTIC_OPS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_XLA_FLAGS",
)
# Variables that say where something is, or which host this is.
PLACES = (
    "CUDA_VISIBLE_DEVICES",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)
_ENVIRONMENT = (*COMPUTED, *TENSORFLOW, *PLACES)
# What holds for all runs of a trial: where its parameters began, and who looked at the test set.
NOTES = ("initialized_from", "test_evaluations")
_MAX_DIFF = 1_000_000  # characters; a larger diff is data, not an edit


def collect(
    command: list[str] | None,
    seeds: Mapping[str, int],
    earlier: Mapping[str, Any] = MappingProxyType({}),
    packing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the contents of `provenance.json`, the text of the workload and the configs among them.

    Args:
      command: what started the run; this process's own command when None.
      seeds: those of initialization, data and dropout, see `config.seeds`.
      earlier: what the file held before, of which NOTES stay; the rest goes into `earlier_runs`, a
        list in the order of the runs, where it is no longer so.
      packing: `lanes`, how many trials ran in one program, and `lane`, which of them this is; None
        where it ran alone.
    """
    import jax

    devices = jax.local_devices()
    current = {
        "command": command or [sys.executable, *sys.argv],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "directory": str(Path.cwd()),
        **_code(),
        "versions": _versions(),
        "host": socket.gethostname(),
        "hosts": jax.process_count(),
        "platform": platform.platform(),
        "processor": _processor(),
        "devices": [device.device_kind for device in devices],
        "backend": devices[0].platform,
        # A CPU computes other bits with another number of threads.
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        # Nor does a trial compute the same bits alone and beside others.
        "packing": None if packing is None else dict(packing),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k in _ENVIRONMENT},
        "sources": sources.known(),
        "seeds": dict(seeds),
    }
    notes = {name: earlier[name] for name in NOTES if name in earlier}
    runs = earlier.get("earlier_runs", [])
    if "command" in earlier:
        runs = [
            *runs,
            {k: earlier[k] for k in current if earlier.get(k) != current[k] and k in earlier},
        ]
    return current | {"earlier_runs": runs} | notes


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def _processor() -> str:
    """Returns the processor's name; another one may compute other bits."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def _code() -> dict[str, Any]:
    """Returns the commit of the checkout that runs, and what differs from it; once a process."""
    root = Path(__file__).parent.parent.parent

    def git(*arguments: str) -> str | None:
        try:
            return subprocess.run(
                ["git", "-C", str(root), *arguments],
                capture_output=True,
                text=True,
                check=True,
                timeout=20,
            ).stdout
        except (OSError, subprocess.SubprocessError):
            return None  # no git, or no checkout: an installed package

    # A package that is installed somewhere below a checkout is no part of that.
    ours = git("ls-files", "--error-unmatch", str(Path(__file__)))
    commit = git("rev-parse", "HEAD") if ours else None
    diff = git("diff", "HEAD") if commit else None
    untracked = git("ls-files", "--others", "--exclude-standard") if commit else None
    return {
        "commit": commit.strip() if commit else None,
        "dirty": bool(diff or untracked) if commit else None,
        "diff": diff[:_MAX_DIFF] if diff else diff,
        "untracked": untracked.split("\n")[:-1] if untracked else [],
    }
