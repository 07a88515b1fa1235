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
# How variables begin that change what is computed.
COMPUTED = ("JAX_", "XLA_", "LIBTPU_", "NVIDIA_TF32", "OMP_")
# These too, or on what; those of TensorFlow change no result.
_ENVIRONMENT = (*COMPUTED, "TF_", "CUDA_VISIBLE_DEVICES")
# What holds for all runs of a trial: where its parameters began, and who looked at the test set.
NOTES = ("initialized_from", "test_evaluations")
_MAX_DIFF = 1_000_000  # characters; a larger diff is data, not an edit


def collect(
    command: list[str] | None,
    seeds: Mapping[str, int],
    earlier: Mapping[str, Any] = MappingProxyType({}),
    packing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the contents of `provenance.json`.

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
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_ENVIRONMENT)},
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
    root = Path(__file__).parent.parent

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

    commit = git("rev-parse", "HEAD")
    diff = git("diff", "HEAD") if commit else None
    untracked = git("ls-files", "--others", "--exclude-standard") if commit else None
    return {
        "commit": commit.strip() if commit else None,
        "dirty": bool(diff or untracked) if commit else None,
        "diff": diff[:_MAX_DIFF] if diff else diff,
        "untracked": untracked.split("\n")[:-1] if untracked else [],
    }
