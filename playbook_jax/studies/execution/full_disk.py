"""A full disk. Nothing is wrong with a study that meets one: it pauses, and goes on when there is room."""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REASON = "disk full"  # how the reason of a trial begins that met one, see failure.py
_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_FAILED = "FAILED"  # as trial.py has it, which takes NumPy along


def is_meant(error: BaseException) -> bool:
    """Returns whether an error says that a disk is full, by its number or in what its text quotes."""
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    return any(os.strerror(number) in str(error) for number in _NUMBERS)


def has_stopped(status: Mapping[str, Any]) -> bool:
    """Returns whether a trial has ended for this reason, and goes on once there is room."""
    return status["state"] == _FAILED and status["reason"].startswith(REASON)


def describe(path: Path, what: str) -> str:
    """Returns, in one line, which disk is full and how to go on.

    Args:
      path: the study directory.
      what: what could not be written, "trial 3", "study.csv".
    """
    try:
        free = f"{shutil.disk_usage(path).free / 1e6:,.1f} MB are free there"
    except OSError as error:
        free = f"it can't be looked at: {error.strerror or error}"
    return (
        f"the disk is full: no room for {what} in {path} ({free}). The study waits, and nothing is lost: "
        "make room, and the same command goes on"
    )
