"""The far end of a worker on a Ray cluster: an actor that runs `worker.py` on its node, and passes on
what it is told and what is answered.

The worker is the same process as on the launcher's machine. Where the node does not see the study
directory, the trials are run in a directory of the node and sent back from there: at their end, and while
they run whenever there is a new checkpoint. Imports neither ray nor jax.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import select
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from playbook_jax import provenance
from playbook_jax.studies import leases, mirror, places
from playbook_jax.studies.worker import Message
from playbook_jax.studies.worker_process import WorkerProcess

# Variables that change what is computed, or where data lies: as the launcher has them.
CARRIED = (*provenance.COMPUTED, *provenance.TENSORFLOW, "TFDS_DATA_DIR")
_WAIT_SECONDS = 1.0  # for something to tell; the launcher asks again after that
SEND_SECONDS = 30.0  # between two times that a running trial is sent back
_PATIENCE = 10  # times leases.SECONDS, where nobody else could write what this relay writes
_CORES, _LOCAL = "playbook_jax-cores", "playbook_jax-trials"  # in the directory for temporary files
_HELD = "held"
_SETTLED_SECONDS = 60.0  # a directory that is younger may not be held yet

# ("message", {…}), ("chunk", (trial, bytes, whether it is the last)), ("log", bytes), or
# ("end", (how the worker ended, its last words)).
Item = tuple[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a relay is started with.

    Attributes:
      index: the worker's number.
      train_module: see `Pool`.
      study: the study directory, as the launcher names it.
      probe: a file in it; where that is seen, it is the same directory.
      lease: the name of the lease that this relay takes.
      directory: the launcher's working directory.
      environment: those of its variables that are in CARRIED.
      on_gpu: whether Ray gives it a GPU, or a part of one; else it keeps to a core of its own.
      memory: of that GPU, what it may take; 0: as jax likes.
      send_seconds: between two times that a running trial is sent back.
    """

    index: int
    train_module: str
    study: str
    probe: str
    lease: str
    directory: str
    environment: dict[str, str]
    on_gpu: bool
    memory: float
    send_seconds: float


class Relay:
    """Runs a worker for a launcher elsewhere; ends with it, or when it hears no more from it."""

    def __init__(self, settings: Settings) -> None:
        """Starts the worker, which begins to import what it needs."""
        self._heard = time.monotonic()
        if Path(settings.directory).is_dir():
            os.chdir(settings.directory)  # relative paths in configs
        _set_environment(settings)
        study = Path(settings.study)
        self._study_seen = Path(settings.probe).exists()
        self._sends_back = not self._study_seen
        try:
            lease = leases.directory(study) if self._study_seen else self._local
            held = leases.take(lease / settings.lease)
        except OSError:  # a disk on which nothing can be locked
            held = leases.take(self._local / settings.lease)
            self._sends_back = True
        core = None if settings.on_gpu else _take_core(settings.index)
        logs = study / "logs" if self._study_seen else self._local
        self._worker = WorkerProcess(
            settings.index, places.Place(core, {}), settings.train_module, logs, keep=held
        )
        self._log_sent = 0
        self._items: collections.deque[Item] = collections.deque()
        self._sent: dict[int, mirror.Stamps] = {}  # of the trials that run, what the launcher has
        self._last_sent, self._send_seconds = time.monotonic(), settings.send_seconds
        threading.Thread(target=self._watch, daemon=True).start()

    def hello(self) -> tuple[str, bool]:
        """Returns the node's name, and whether it sees the study directory and holds a lease there."""
        return socket.gethostname(), not self._sends_back

    def send_back(self) -> None:
        """Lets the trials run in a directory of this node: the lease was not seen by the launcher."""
        self._sends_back = True

    def put(self, trial: int, chunk: bytes, last: bool) -> None:
        """Takes a part of what was saved of a trial that is to go on here."""
        archive = self._local / "arriving.tar"
        with archive.open("ab") as file:
            file.write(chunk)
        if last:
            directory = self._trial_directory(trial)
            shutil.rmtree(directory, ignore_errors=True)
            self._sent[trial] = mirror.unpack(archive, directory)
            archive.unlink()

    def tell(self, message: Message) -> None:
        """Passes a command on to the worker."""
        for trial in [message, *message.get("lanes", [])] if self._sends_back else []:
            if trial and "directory" in trial:
                trial["directory"] = str(self._trial_directory(trial["trial"]))
                self._sent.setdefault(trial["trial"], {})
        self._worker.send(**message)

    def hear(self) -> list[Item]:
        """Returns what there is to tell, waiting a little for something."""
        self._heard = time.monotonic()
        if not self._items:
            self._collect()
        items: list[Item] = []
        while self._items and not (items and items[-1][0] == "chunk"):
            items.append(self._next())
        self._heard = time.monotonic()
        return items

    def _next(self) -> Item:
        kind, value = self._items[0]
        if kind != "archive":
            return self._items.popleft()
        trial, chunks = value
        chunk, last = next(chunks)
        if last:
            self._items.popleft()
        return "chunk", (trial, chunk, last)

    def _collect(self) -> None:
        ready, _, _ = select.select([self._worker.answers], [], [], _WAIT_SECONDS)
        messages = self._worker.receive() if ready else []
        for message in messages or []:
            if message["kind"] == "status" and self._sends_back:
                self._send_trial(message["trial"])
                self._sent.pop(message["trial"])
                shutil.rmtree(self._trial_directory(message["trial"]))
            self._items.append(("message", message))
        if messages is None or time.monotonic() - self._last_sent > self._send_seconds:
            for trial in list(self._sent):
                self._send_trial(trial)
            self._last_sent = time.monotonic()
        self._send_log()
        if messages is None:
            how = self._worker.close()
            self._items.append(("end", (how, self._worker.last_words())))
            if self._sends_back:
                shutil.rmtree(self._local, ignore_errors=True)

    def _send_trial(self, trial: int) -> None:
        archive = self._local / "leaving.tar"
        directory = self._trial_directory(trial)
        sent = mirror.pack(directory, self._sent[trial], archive)
        if sent is not None:
            self._sent[trial] = sent
            self._items.append(("archive", (trial, mirror.chunks(archive))))

    def _send_log(self) -> None:
        if self._study_seen:
            return
        with self._worker.log.open("rb") as file:
            file.seek(self._log_sent)
            text = file.read(mirror.CHUNK_BYTES)
        if text:
            self._log_sent += len(text)
            self._items.append(("log", text))

    @functools.cached_property
    def _local(self) -> Path:
        """A directory of this node; made when it is first asked for."""
        return _make_local()

    def _trial_directory(self, trial: int) -> Path:
        return self._local / "trials" / f"{trial:03d}"

    def _watch(self) -> None:
        """Ends all when the launcher is silent: another worker may have the trial by then."""
        while time.monotonic() - self._heard < leases.SECONDS * (
            _PATIENCE if self._sends_back else 1
        ):
            time.sleep(_WAIT_SECONDS)
        self._worker.close()
        os._exit(1)


def _set_environment(settings: Settings) -> None:
    """Sets what is computed to what the launcher would compute; Ray sets OMP_NUM_THREADS, for one."""
    for name in CARRIED:
        os.environ.pop(name, None)
    os.environ.update(settings.environment | places.limit(settings.memory))


def _make_local() -> Path:
    """Makes a directory on this node that is held by this process, and removes those that nobody holds."""
    root = Path(tempfile.gettempdir()) / f"{_LOCAL}-{os.getuid()}"
    root.mkdir(exist_ok=True)
    for old in root.iterdir():
        with contextlib.suppress(OSError):  # another relay removes it too
            settled = time.time() - old.stat().st_mtime > _SETTLED_SECONDS
            if settled and leases.is_free(old / _HELD):
                shutil.rmtree(old)
    directory = Path(tempfile.mkdtemp(dir=root))
    leases.take(directory / _HELD)
    return directory


def _take_core(index: int) -> int | None:
    """Returns a core that no other relay on this machine has, as long as there is one."""
    cores = places.cores()
    folder = Path(tempfile.gettempdir()) / f"{_CORES}-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for core in cores:
        with contextlib.suppress(BlockingIOError):
            leases.take(folder / str(core))  # until this process ends
            return core
    return cores[index % len(cores)] if cores else None
