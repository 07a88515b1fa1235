"""Leases: by which a launcher knows that a worker on another machine writes no more.

A worker that writes in the study directory from elsewhere holds a file lock there, which its operating
system lets go of when it ends. A machine that can be reached no longer keeps the lock; so a worker
also ends itself when its launcher has been silent for SECONDS, and after that time it counts as gone
even so. (What a lock can't see: a machine that is frozen whole and wakes up later writes until it
looks at its clock, a second at most.)
"""

import fcntl
import os
import time
from pathlib import Path

SECONDS = 60.0  # after which a worker that hears nothing ends itself
MARGIN_SECONDS = 10.0  # that others wait beyond that, for it does so between two looks at its clock
_POLL_SECONDS = 0.05


def directory(study: Path) -> Path:
    """Returns where the leases of a study lie."""
    return study / ".leases"


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


def is_free(path: Path) -> bool:
    """Returns whether nobody holds a lease, as far as this machine sees."""
    try:
        os.close(take(path))
    except BlockingIOError:
        return False
    return True


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
