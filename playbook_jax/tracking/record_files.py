"""The records of a trial on disk, and how much of them belongs to a checkpoint.

A process can be killed anywhere, and a power cut or a bad disk can take away or blank what was written
last. So each checkpoint tells how long `steps.f32` and `metrics.jsonl` were when it was made, and their
checksums; what does not match is not gone on from. Nothing is read again for that: the checksums grow
with the files.
"""

import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

STEPS, METRICS, TIMING = "steps.f32", "metrics.jsonl", "timing.jsonl"
COUNTED = (STEPS, METRICS)  # in the order in which checkpoints tell of them
# Without these, a checkpoint is of no use after a power cut.
_NEEDED = ("config.json", "steps.json", STEPS, METRICS)


class RecordFiles:
    """Appends to the records of one trial, and cuts them where a run goes on."""

    def __init__(self, directory: epath.Path) -> None:
        """Takes the trial directory; `rewind` is to be called before anything is appended."""
        self._directory = directory
        self._extents = dict.fromkeys(COUNTED, (0, 0))  # name → its bytes, their CRC-32
        self._synced: dict[
            str, tuple[float, int]
        ] = {}  # name → when it was changed, and its length

    @property
    def extents(self) -> np.ndarray:
        """Bytes and CRC-32 of each of COUNTED, int64 [2, 2]: what a checkpoint made now tells."""
        return np.array([self._extents[name] for name in COUNTED], np.int64)

    def append(self, name: str, data: bytes) -> None:
        """Appends to a file."""
        with (self._directory / name).open("ab") as file:
            file.write(data)
        if name in self._extents:
            size, checksum = self._extents[name]
            self._extents[name] = (size + len(data), zlib.crc32(data, checksum))

    def sync(self) -> None:
        """Waits until the disk has what was written, on disks that can tell; from any thread."""
        if "://" in os.fspath(self._directory):
            return
        with ThreadPoolExecutor(len(_NEEDED)) as threads:  # at once: they share the disk's journal
            appeared = list(threads.map(self._sync_file, _NEEDED))
        if any(appeared):
            _sync(self._directory)  # their names

    def _sync_file(self, name: str) -> bool:
        """Syncs a file that has changed since; returns whether it is a new one."""
        path = self._directory / name
        if not path.exists():
            return False
        found = path.stat()
        stamp, before = (found.mtime, found.length), self._synced.get(name)
        if stamp != before:
            _sync(path)
            self._synced[name] = stamp
        return before is None

    def problem(self, step: int, extents: np.ndarray | None, columns: int) -> str:
        """Says what is missing of the records that a checkpoint counts on; "" where nothing is.

        Args:
          step: the checkpoint's.
          extents: what it tells, as `extents` gave it; None where it was made before they did.
          columns: those of the per-step records.
        """
        if extents is None:
            size, needed = len(self._read(STEPS)), 4 * columns * step
            return "" if size >= needed else _short(STEPS, size, needed)
        for name, (size, checksum) in zip(COUNTED, extents.tolist(), strict=True):
            data = self._read(name)[:size]
            if len(data) < size:
                return _short(name, len(data), size)
            if zlib.crc32(data) != checksum:
                return f"{name} is damaged within its first {size:,} bytes"
        return ""

    def rewind(self, step: int, extents: np.ndarray | None, columns: int) -> None:
        """Cuts what was written after a checkpoint; the arguments are those of `problem`."""
        ends = {STEPS: 4 * columns * step}
        if extents is not None:
            ends = dict(zip(COUNTED, extents[:, 0].tolist(), strict=True))
        for name in (STEPS, METRICS, TIMING):
            path = self._directory / name
            data = self._read(name)
            kept = data[: ends[name]] if name in ends else _rows_up_to(data, step)
            if kept != data:
                part = path.with_name(f".{name}.{os.getpid()}.part")
                part.write_bytes(kept)
                part.replace(path)
            if name in self._extents:
                self._extents[name] = (len(kept), zlib.crc32(kept))

    def _read(self, name: str) -> bytes:
        path = self._directory / name
        return path.read_bytes() if path.exists() else b""


def _sync(path: epath.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe(extents: np.ndarray) -> dict[str, dict[str, int]]:
    """Returns extents by the names of the files, for `summary.json`."""
    return {
        name: {"bytes": size, "crc32": checksum}
        for name, (size, checksum) in zip(COUNTED, extents.tolist(), strict=True)
    }


def unlike(path: epath.Path, summary: Mapping[str, Any], columns: int) -> str:
    """Says in what a file of a trial that has ended differs from what its summary tells; "" in nothing.

    Args:
      path: the file.
      summary: what `summary.json` holds; older ones tell only how many steps there are.
      columns: those of the per-step records.
    """
    data = path.read_bytes() if path.exists() else b""
    files, steps = summary.get("files"), summary.get("steps")
    known = files.get(path.name) if isinstance(files, Mapping) else None
    if not isinstance(known, Mapping):
        told = isinstance(steps, int) and path.name == STEPS
        known = {"bytes": 4 * columns * steps if told else len(data)}
    if known.get("bytes") != len(data):
        return f"it holds {len(data):,} bytes, not the {known.get('bytes')} that it ended with"
    if "crc32" in known and known["crc32"] != zlib.crc32(data):
        return "its contents have changed since it ended"
    return ""


def _short(name: str, size: int, needed: int) -> str:
    return f"{name} holds {size:,} bytes of {needed:,}"


def _rows_up_to(data: bytes, step: int) -> bytes:
    """Returns the lines that tell of the first steps; torn and damaged ones are left out."""
    return b"".join(line + b"\n" for line in data.split(b"\n") if 0 < _step(line) <= step)


def _step(line: bytes) -> int:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return 0
    step = row.get("step") if isinstance(row, dict) else 0
    whole = isinstance(step, int) and all(isinstance(x, int | float | None) for x in row.values())
    return step if whole else 0
