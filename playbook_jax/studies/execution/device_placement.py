"""Where each worker of a study runs: a GPU or TPU chip of its own where there are some, else a CPU core.

Found without jax, which would take hold of the devices. What is said of TPUs here is what libtpu's users
and jax's own tests of several processes do; it has never run on one.
"""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playbook_jax.errors import UsageError

_CHECKOUT = Path(__file__).resolve().parents[3]
_GPU_FOLDER = Path("/proc/driver/nvidia/gpus")
_PCI_FOLDER = Path("/sys/bus/pci/devices")
_DEVICE_FOLDER = Path("/dev")
_GOOGLE = "0x1ae0"
# As jax's hardware_utils.py has them, from v3 to tpu7x; other things have the same vendor.
_TPU_CHIPS = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}
_TPU_PORT = 8476  # of the first worker's TPU runtime, as libtpu has it
# Of a GPU's memory, what all of its workers together may take; the rest is the driver's.
_MEMORY = 0.9
_NO_CORE = -1  # where the system chooses


@dataclasses.dataclass(frozen=True)
class Place:
    """What a worker is given.

    Attributes:
      core: the CPU core that it keeps to, None where the system chooses.
      environment: the variables that are set for it.
    """

    core: int | None
    environment: Mapping[str, str]

    def start(self, module: str, *arguments: str, **options: Any) -> subprocess.Popen:
        """Starts a process here, whose `main` is to hand its first argument to `keep_to`.

        Args:
          module: what is run.
          *arguments: those that follow the first one.
          **options: of `subprocess.Popen`.
        """
        core = _NO_CORE if self.core is None else self.core
        # This code and no other: neither that of the current directory (-P) nor what is installed.
        command = [sys.executable, "-u", "-P", "-m", module, str(core), *arguments]
        path = [str(_CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)} | self.environment
        return subprocess.Popen(command, env=environment, **options)


def keep_to(core: str) -> None:
    """Keeps this process to the core that `Place.start` has named, if it did.

    To be called before jax is imported, which makes a thread for each core that it sees: one, so that what
    a trial computes does not depend on how many workers run beside it.
    """
    if int(core) != _NO_CORE:
        os.sched_setaffinity(0, {int(core)})


def default_num_workers() -> int:
    """Returns how many workers a study has unless told: one a GPU or TPU chip, or one a core."""
    return len(gpus()) or len(tpu_chips()) or len(cores()) or os.cpu_count() or 1


def place(index: int, num_workers: int) -> Place:
    """Returns the place of worker `index` of `num_workers`.

    Several workers on one GPU share its memory evenly; a TPU chip takes one process. On both they keep
    to no core, for each has an input pipeline of its own; without, they do, so that what a trial
    computes does not depend on how many run at once.

    Raises:
      UsageError: there are fewer TPU chips than workers.
    """
    if found := gpus():
        return Place(None, _gpu(found, index, num_workers))
    if chips := tpu_chips():
        return Place(None, _tpu(chips, index, num_workers))
    found = cores()
    return Place(found[index % len(found)] if found else None, {})


def _gpu(found: list[str], index: int, num_workers: int) -> dict[str, str]:
    environment = {"CUDA_VISIBLE_DEVICES": found[index % len(found)]}
    sharing = len(range(index % len(found), num_workers, len(found)))
    return environment | limit(memory(sharing))


def memory(sharing: int) -> float:
    """Returns what of a GPU's memory each of so many workers on it may take; 0: as jax likes."""
    return _MEMORY / sharing if sharing > 1 else 0.0


def limit(memory: float) -> dict[str, str]:
    """Returns the variables that hold a process to this part of its GPU's memory, see `memory`."""
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{memory:.3f}"} if memory else {}


def _tpu(chips: list[str], index: int, num_workers: int) -> dict[str, str]:
    if num_workers > len(chips):
        raise UsageError(
            f"--workers={num_workers}: this machine has {len(chips)} TPU chips, and a chip takes one "
            f"process; at most {len(chips)}"
        )
    port = str(_TPU_PORT + index)
    return {
        "TPU_VISIBLE_CHIPS": chips[index],
        # A box of one chip, in a grid of one process: each is a TPU by itself.
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
        # The runtimes of one machine need a port each, and leave to be more than one.
        "TPU_MESH_CONTROLLER_ADDRESS": f"localhost:{port}",
        "TPU_MESH_CONTROLLER_PORT": port,
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def gpus() -> list[str]:
    """Returns the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if os.environ.get("JAX_PLATFORMS", "cuda") in ("cpu", "tpu"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i, _ in enumerate(_GPU_FOLDER.iterdir())] if _GPU_FOLDER.is_dir() else []


def tpu_chips() -> list[str]:
    """Returns the TPU chips that this process may use, as TPU_VISIBLE_CHIPS names them."""
    if "tpu" not in os.environ.get("JAX_PLATFORMS", "tpu").split(","):
        return []
    if not (os.environ.get("TPU_LIBRARY_PATH") or importlib.util.find_spec("libtpu")):
        return []  # jax would not find them
    # The second is the older name of the first.
    for name in ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES"):
        if os.environ.get(name):
            return [chip.strip() for chip in os.environ[name].split(",")]
    on_bus = [d for d in _PCI_FOLDER.glob("*") if _read(d / "vendor") == _GOOGLE]
    count = sum(_read(d / "device") in _TPU_CHIPS for d in on_bus)
    # Kinds of chips that came later, as their driver names them.
    return [str(i) for i in range(count or len(list(_DEVICE_FOLDER.glob("accel[0-9]*"))))]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def cores() -> list[int]:
    """Returns the CPU cores that this process may use; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
