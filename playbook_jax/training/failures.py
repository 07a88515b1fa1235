"""How a run ends that failed: its reason is written down, or at least said."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import jax

from playbook_jax import trial
from playbook_jax.errors import InputError, UsageError
from playbook_jax.runtime import hosts, parallel
from playbook_jax.tracking import raised

_FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))


def conclude(writers: Sequence[trial.Writer], error: Exception) -> list[dict[str, Any]]:
    """Writes that trials FAILED, and returns their statuses.

    What the disk no longer takes goes to standard error instead.

    Args:
      writers: of the trials that one run made.
      error: what ended the run; now being handled.

    Raises:
      UsageError: that was the error: no run has failed, it can't be made.
    """
    if isinstance(error, UsageError) and not isinstance(error, InputError):
        raise error
    reason = describe(error)
    # Neither a full disk nor bad data is a matter of where in the code.
    if not isinstance(error, InputError) and not reason.startswith("disk full"):
        traceback.print_exc()
    print(f"error: {reason}", file=sys.stderr)
    return [_write(writer, reason) for writer in writers]


def _write(writer: trial.Writer, reason: str) -> dict[str, Any]:
    status = writer.status | {"state": trial.FAILED, "reason": reason}
    status |= {"best_step": None, "objective": None}
    try:
        writer.write("status.json", status)
    except OSError as second:
        where = writer.directory / "status.json"
        print(f"error: {where} can't say so: {second.strerror or second}", file=sys.stderr)
    return status


def describe(error: Exception) -> str:
    """Returns the reason of a trial that an error has ended, in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    # Before the next: the checkpoints' storage calls a full disk RESOURCE_EXHAUSTED too.
    if any(message in text for message in _FULL):
        return "disk full: nothing more can be written; the same command goes on once there is room"
    if "RESOURCE_EXHAUSTED" in text or isinstance(error, MemoryError):
        return f"out of memory: {text[:300]}"
    # Between CPUs, connections are gloo's, whose errors are ValueErrors too.
    lost = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in text
    if parallel.host_count() > 1 and lost:
        return f"{hosts.LOST_REASON}, or the network: {text[:300]}"
    return raised.describe(error)
