"""Locks on directories: one launcher a study, one run a trial.

The operating system holds a lock as long as a process that took or inherited it lives, so a process that
was killed blocks nobody. Some network disks lock within a machine only, or not at all. So the file also
names its owner and is touched every few seconds while the owner lives, which every machine sees. Object
stores (gs://…) have no locks.
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import functools
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Self

from playbook_jax.errors import UsageError

NAME = ".lock"
_BEAT_SECONDS = 5.0  # between two touches
_SILENT_SECONDS = 60.0  # without a touch, after which an owner on another machine counts as gone
_HEIRS_SECONDS = 20.0  # for the workers of an owner that died; they end within a second
_POLL_SECONDS = 0.05
_TELL_SECONDS = 2.0  # of waiting, after which that is said
# What a file system says that can't lock.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


class Lock:
    """An exclusive lock on a file, which says who took it.

    Workers inherit the open file (`fd`), so the lock is free only when the launcher *and* its
    workers are gone: a launcher that follows a killed one never meets a worker that still writes.
    """

    def __init__(self, path: Path) -> None:
        """Takes the lock; the file's directory must exist.

        Waits for the workers of an owner that died, and where a silent owner on another machine may live.

        Raises:
          UsageError: another process holds it.
          OSError: the file can't be written.
        """
        self._path = path
        begun, told = time.monotonic(), False
        first: _Owner | None = None
        while (owner := self._try(time.monotonic() - begun)) is not None:
            first = first or owner
            waited = time.monotonic() - begun
            heirs_stay = owner.holds and waited > _HEIRS_SECONDS
            if (owner.holds and owner.is_alive()) or owner.touched != first.touched or heirs_stay:
                raise UsageError(f"{path.parent} is in use by {owner.describe(path)}")
            if waited > _TELL_SECONDS and not told:
                told = True
                print(f"waiting for the lock on {path.parent}: {owner.name()}", file=sys.stderr)
            time.sleep(_POLL_SECONDS)
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._heart.start()

    def _try(self, waited: float) -> "_Owner | None":
        """Takes the lock; returns who keeps it, or may keep it, where that can't be done now."""
        while True:
            self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            held, sees_all = _flock(self.fd)
            owner = _Owner.read(self.fd, holds=not held)
            if not _is_at(self.fd, self._path):  # let go, and removed, just before
                os.close(self.fd)
                continue
            # A free lock proves the end of a process on this machine; elsewhere only silence does.
            proven = sees_all and owner.machine in ("", _machine())
            if held and (proven or not owner.host or owner.age(waited) >= _SILENT_SECONDS):
                os.ftruncate(self.fd, 0)
                with contextlib.suppress(OSError):  # on a full disk the lock holds as well without
                    os.pwrite(self.fd, _Owner.here().encode(), 0)
                    os.utime(self.fd)  # sends it to a network disk's server
                return None
            os.close(self.fd)
            return owner

    def _beat(self) -> None:
        while not self._released.wait(_BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self.fd)

    def release(self) -> None:
        """Lets go and removes the file."""
        self._released.set()
        self._heart.join()
        if _is_at(self.fd, self._path):
            self._path.unlink(missing_ok=True)
        os.close(self.fd)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Lets go."""
        self.release()


@dataclasses.dataclass(frozen=True)
class _Owner:
    """Who took a lock, as its file says; all of it empty where the file does not.

    Attributes:
      host: the machine's name.
      machine: what tells it from all others; another one after a restart.
      process: the number of the process.
      since: when it took the lock.
      touched: when it last touched the file, in nanoseconds.
      holds: whether the operating system says that the lock is held.
    """

    host: str
    machine: str
    process: int
    since: str
    touched: int
    holds: bool

    @classmethod
    def read(cls, descriptor: int, holds: bool) -> Self:
        """Returns the owner that an open file names."""
        touched = os.fstat(descriptor).st_mtime_ns
        try:
            stored = json.loads(os.pread(descriptor, 4096, 0))
            texts = (str(stored["host"]), str(stored["machine"]))
            return cls(*texts, int(stored["process"]), str(stored["since"]), touched, holds)
        except (ValueError, LookupError, TypeError):
            return cls("", "", 0, "", touched, holds)

    @staticmethod
    def here() -> str:
        """Returns what this process writes into the file."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        who = {"host": socket.gethostname(), "machine": _machine()}
        return json.dumps(who | {"process": os.getpid(), "since": now}) + "\n"

    def age(self, waited: float) -> float:
        """Returns for how many seconds it has been silent, of which `waited` were seen."""
        return max(time.time() - self.touched / 1e9, waited)

    def is_alive(self) -> bool:
        """Returns whether it is a living process of this machine."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.process, 0)
        except PermissionError:
            return True  # another user's
        except OSError:
            return False
        return True

    def name(self) -> str:
        """Returns who it is, in words."""
        if not self.process:
            return "a process that did not say which"
        text = f"process {self.process} on {self.host} since {self.since}"
        gone = self.holds and self.machine == _machine() and not self.is_alive()
        return f"what is left of {text}" if gone else text

    def describe(self, path: Path) -> str:
        """Returns who it is and what to do."""
        todo = "wait for its end, or use another --workdir"
        if self.machine != _machine() and self.age(0) > _SILENT_SECONDS:
            todo += f" (silent for {self.age(0):.0f} s: if that machine is gone for good, delete {path})"
        return f"{self.name()}; {todo}"


def _flock(descriptor: int) -> tuple[bool, bool]:
    """Locks an open file; returns whether that went well, and whether the file system has locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False, True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(descriptor)
            raise
        return True, False
    return True, True


def _is_at(descriptor: int, path: Path) -> bool:
    """Returns whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@functools.cache
def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def hold(directory: os.PathLike[str] | str) -> contextlib.AbstractContextManager[object]:
    """Takes the lock of a directory, made if it does not exist, until the context ends.

    On an object store (gs://…), which has no locks, nothing is taken.

    Raises:
      UsageError: another process holds it, or it can't be written.
    """
    if "://" in os.fspath(directory):
        return contextlib.nullcontext()
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        return Lock(Path(directory) / NAME)
    except OSError as error:
        raise UsageError(f"cannot write to {directory}: {error.strerror or error}") from error
