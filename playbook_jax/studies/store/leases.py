"""Leases: by which a launcher knows that a worker on another machine writes no more.

A worker that writes in the study directory from elsewhere holds a file lock there, which its operating
system lets go of when it ends. A machine that can be reached no longer keeps the lock; so a worker
also ends itself when its launcher has been silent for SECONDS, and after that time it counts as gone
even so. Where the lock is not seen by the launcher, that time alone tells. (What neither sees: a machine
that is frozen whole and wakes up later writes until it looks at its clock, a second at most.)
"""

import fcntl
import os
import time
from pathlib import Path

SECONDS = 60.0  # after which a worker that hears nothing ends itself
MARGIN_SECONDS = 10.0  # that others wait beyond that, for it does so between two looks at its clock
_POLL_SECONDS = 0.05
_SEEN_SECONDS = 5.0


def directory(study: Path) -> Path:
    """Returns where the leases of a study lie."""
    return study / ".leases"


def offer(path: Path) -> None:
    """Makes the file of a lease, for a worker to take."""
    path.parent.mkdir(exist_ok=True)
    path.touch()


def is_seen(path: Path) -> bool:
    """Returns whether this machine sees a lease that was offered; network file systems take a while."""
    deadline = time.monotonic() + _SEEN_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def take(path: Path) -> int:
    """Takes a lease; returns the open file that holds it, in this process and in those that inherit it.

    Raises:
      OSError: the file can't be written, or locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def distrust(path: Path) -> None:
    """Notes that the lock on a lease is not seen by all machines: from now on it is never free."""
    path.write_text("this lock is not seen by all machines")


def is_free(path: Path) -> bool:
    """Returns whether nobody holds a lease, as far as this machine sees."""
    try:
        descriptor = take(path)
    except BlockingIOError:
        return False
    size = os.fstat(descriptor).st_size
    os.close(descriptor)
    return not size  # see `distrust`


def wait_until_free(path: Path, deadline: float) -> None:
    """Waits until nobody holds a lease, or until a time of `time.monotonic`; removes the file."""
    while not is_free(path) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    path.unlink(missing_ok=True)


def wait_for_all(study: Path) -> None:
    """Waits for the workers of an earlier launcher, which end when they miss it."""
    deadline = time.monotonic() + SECONDS + MARGIN_SECONDS
    for path in sorted(directory(study).glob("*")):
        wait_until_free(path, deadline)
