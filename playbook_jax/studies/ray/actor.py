"""A worker on a Ray cluster: an actor whose process runs trials as `worker.py` does on one machine.

Ray's calls carry the same messages that go through a local worker's pipes. Imports neither ray nor jax.
"""

import contextlib
import dataclasses
import faulthandler
import os
import queue
import socket
import sys
import tempfile
import threading
from pathlib import Path

from playbook_jax.studies.execution import device_placement
from playbook_jax.studies.execution.worker import Message, TrialRunner
from playbook_jax.studies.store import leases
from playbook_jax.tracking import provenance

# Variables that change what is computed, or where data lies: as the launcher has them.
CARRIED = (*provenance.COMPUTED, *provenance.TENSORFLOW, "TFDS_DATA_DIR")
_WAIT_SECONDS = 1.0  # for a message; the launcher asks again after that
_CORES = "playbook_jax-cores"  # in the directory for temporary files


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an actor is started with.

    Attributes:
      index: the worker's number.
      train_module: see `Pool`.
      lease: the file in the study directory that it locks as long as it lives; the launcher made it.
      log: the file that takes what it prints.
      directory: the launcher's working directory.
      environment: those of its variables that are in CARRIED.
      on_gpu: whether Ray gives it a GPU, or a part of one; else it keeps to a core of its own.
      memory: of that GPU, what it may take; 0: as jax likes.
    """

    index: int
    train_module: str
    lease: str
    log: str
    directory: str
    environment: dict[str, str]
    on_gpu: bool
    memory: float


class Actor:
    """Runs trials for a launcher elsewhere; its process ends when it hears no more from it."""

    def __init__(self, settings: Settings) -> None:
        """Begins to import what trials need, unless this node does not see the study directory."""
        self._answers: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._runner = TrialRunner(lambda **m: self._answers.put(m), settings.train_module)
        self._sees = leases.is_seen(Path(settings.lease))
        _end_unless_heard()
        if not self._sees:
            return
        with contextlib.suppress(OSError):  # no locks here, which the launcher notices
            leases.take(Path(settings.lease))
        _print_to(settings.log)
        if Path(settings.directory).is_dir():
            os.chdir(settings.directory)  # relative paths in configs
        _set_environment(settings)
        if not settings.on_gpu and (core := _take_core(settings.index)) is not None:
            # Ray's threads too, for a thread that one of them starts keeps to what that one does.
            for thread in os.listdir("/proc/self/task"):
                os.sched_setaffinity(int(thread), {core})
        threading.Thread(target=self._run, daemon=True).start()

    def hello(self) -> tuple[str, bool]:
        """Returns the node's name, and whether it sees the study directory."""
        return socket.gethostname(), self._sees

    def tell(self, message: Message) -> None:
        """Takes a command, see `TrialRunner`."""
        self._runner.tell(message)

    def hear(self) -> list[Message]:
        """Returns what there is to tell, waiting a little for something."""
        _end_unless_heard()
        messages: list[Message] = []
        with contextlib.suppress(queue.Empty):
            messages.append(self._answers.get(timeout=_WAIT_SECONDS))
            while True:
                messages.append(self._answers.get_nowait())
        return messages

    def _run(self) -> None:
        if code := self._runner.run():
            os._exit(code)


def _end_unless_heard() -> None:
    """Ends this process after a silence of its launcher: another worker may have its trials by then.

    The timer needs no interpreter, so it also ends a process that is busy elsewhere.
    """
    faulthandler.dump_traceback_later(leases.SECONDS, file=2, exit=True)


def _print_to(log: str) -> None:
    """Sends what this process prints to a file, at once."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, closefd=False) for n in (1, 2))


def _set_environment(settings: Settings) -> None:
    """Sets what is computed to what the launcher would compute; Ray sets OMP_NUM_THREADS, for one."""
    for name in CARRIED:
        os.environ.pop(name, None)
    os.environ.update(settings.environment | device_placement.limit(settings.memory))


def _take_core(index: int) -> int | None:
    """Returns a core that no other worker on this machine has, as long as there is one."""
    cores = device_placement.cores()
    folder = Path(tempfile.gettempdir()) / f"{_CORES}-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for core in cores:
        with contextlib.suppress(BlockingIOError):
            leases.take(folder / str(core))  # until this process ends
            return core
    return cores[index % len(cores)] if cores else None
