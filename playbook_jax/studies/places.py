"""Where each worker of a study runs: a GPU of its own where there are some, else a CPU core of its own.

Found without jax, which would take hold of the devices.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

_GPU_FOLDER = Path("/proc/driver/nvidia/gpus")
# Of a GPU's memory, what all of its workers together may take; the rest is the driver's.
_MEMORY = 0.9


@dataclasses.dataclass(frozen=True)
class Place:
    """What a worker is given.

    Attributes:
      core: the CPU core that it keeps to, None where the system chooses.
      environment: the variables that are set for it.
    """

    core: int | None
    environment: Mapping[str, str]


def default_num_workers() -> int:
    """Returns how many workers a study has unless told: one a GPU, or one a core of this process."""
    return len(gpus()) or len(_cores()) or os.cpu_count() or 1


def place(index: int, num_workers: int) -> Place:
    """Returns the place of worker `index` of `num_workers`.

    Several workers on one GPU share its memory evenly. On GPUs they keep to no core, for each has an
    input pipeline of its own; without, they do, so that what a trial computes does not depend on
    how many run at once.
    """
    found = gpus()
    if not found:
        cores = _cores()
        return Place(cores[index % len(cores)] if cores else None, {})
    environment = {"CUDA_VISIBLE_DEVICES": found[index % len(found)]}
    sharing = len(range(index % len(found), num_workers, len(found)))
    if sharing > 1:
        environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{_MEMORY / sharing:.3f}"
    return Place(None, environment)


def gpus() -> list[str]:
    """Returns the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if os.environ.get("JAX_PLATFORMS", "cuda") in ("cpu", "tpu"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i, _ in enumerate(_GPU_FOLDER.iterdir())] if _GPU_FOLDER.is_dir() else []


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
