"""One launcher a study: a lock on the study directory, held by the launcher and its workers."""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from playbook_jax.errors import UsageError

_WAIT_SECONDS = 20.0  # for the workers of a launcher that died; they end within a second
_POLL_SECONDS = 0.05


class Lock:
    """An exclusive lock on a local file, which holds the number of the process that took it.

    Workers inherit the open file (`fd`), so the lock is free only when the launcher *and* its
    workers are gone: a launcher that follows a killed one never meets a worker that still writes.
    """

    def __init__(self, path: Path) -> None:
        """Takes the lock; the file's directory must exist.

        Raises:
          UsageError: a running launcher holds it.
          OSError: the file can't be written.
        """
        self._path = path
        deadline = time.monotonic() + _WAIT_SECONDS
        while not self._try():
            holder = _holder(path)
            if holder is not None or time.monotonic() > deadline:
                who = f"process {holder}" if holder else "workers of an earlier launcher"
                raise UsageError(
                    f"{path.parent} is in use by {who}; wait for its end, or use another --workdir"
                )
            time.sleep(_POLL_SECONDS)

    def _try(self) -> bool:
        self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self.fd).st_ino == os.stat(self._path).st_ino:
                os.ftruncate(self.fd, 0)
                with contextlib.suppress(OSError):  # on a full disk the lock holds as well without
                    os.pwrite(self.fd, str(os.getpid()).encode(), 0)
                return True
        except (BlockingIOError, FileNotFoundError):
            pass  # held by another, or let go (and its file removed) just before
        os.close(self.fd)
        return False

    def release(self) -> None:
        """Lets go and removes the file."""
        self._path.unlink(missing_ok=True)
        os.close(self.fd)


def _holder(path: Path) -> int | None:
    """Returns the process that took the lock, if it is alive."""
    try:
        process = int(path.read_text())
        os.kill(process, 0)
    except PermissionError:
        return process  # alive, and another user's
    except (OSError, ValueError):
        return None
    return process
