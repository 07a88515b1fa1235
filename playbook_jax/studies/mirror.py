"""A copy of a trial directory on another machine, brought up to date a change at a time.

Both ends may die anywhere: at each moment the copy is a trial that can be gone on with. What is sent
is taken in the order in which the trial reads it back: the checkpoints first and the records, which
are ahead of them on disk, after that; the copy gets the records first, each checkpoint as a whole, and
`status.json` last.
"""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from playbook_jax import lock

Stamp = tuple[int, int, int]  # size, time of the last change, inode: what changes with the contents
Stamps = dict[str, Stamp | None]  # by path in the directory; None for a directory

CHUNK_BYTES = 1 << 25  # what is sent at once

_CHECKPOINTS, _STATUS = "checkpoints", "status.json"
_MANIFEST = ".manifest.json"
_INCOMING = ".incoming"  # in the copy, where what has come is unpacked before it is put in place
_TRIES = 3  # to read the checkpoints while they change; the next time will do as well
_HALF_WRITTEN = (".part",)


def pack(directory: Path, known: Mapping[str, Stamp | None], archive: Path) -> Stamps | None:
    """Writes what of a directory has changed into a tar file.

    Args:
      directory: a trial directory, which may be written meanwhile.
      known: what the copy holds, as the last call returned it; empty for a new copy.
      archive: the tar file to write.

    Returns:
      What the copy will hold; None where there is nothing new, or the checkpoints change too fast.
    """
    for _ in range(_TRIES):
        before = _paths(directory)
        if before == known:
            return None
        try:
            sent = _write(directory, known, before, archive)
        except FileNotFoundError:
            continue  # an old checkpoint was just deleted
        if _checkpoints(sent) == _checkpoints(_paths(directory)):
            return sent
    return None


def unpack(archive: Path, directory: Path) -> Stamps:
    """Brings a copy up to date with what `pack` has written; returns what it then holds.

    Raises:
      OSError: the copy can't be written.
    """
    incoming = directory / _INCOMING
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        tar.extractall(incoming, filter="data")
    paths = json.loads((incoming / _MANIFEST).read_text())
    arrived = [p for p in paths if (incoming / p).is_file()]
    for path in sorted(arrived, key=lambda p: (p.startswith(_CHECKPOINTS + "/"), p == _STATUS)):
        if path != _STATUS and not _in_new_checkpoint(path, directory):
            _put(incoming, directory, path)
    for checkpoint in {_checkpoint(path) for path in arrived} - {None}:
        if (incoming / checkpoint).exists() and not (directory / checkpoint).exists():
            _put(incoming, directory, checkpoint)
    for path in paths:
        if (incoming / path).is_dir():
            (directory / path).mkdir(parents=True, exist_ok=True)
    _delete(set(_paths(directory)) - set(paths), directory, incoming)
    if _STATUS in arrived:
        _put(incoming, directory, _STATUS)
    shutil.rmtree(incoming)
    return _paths(directory)


def chunks(archive: Path) -> Iterator[tuple[bytes, bool]]:
    """Gives a file in parts, and of each whether it is the last; its name is free at once."""
    file = archive.open("rb")
    archive.unlink()
    return _parts(file)


def _parts(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    with file:
        size = os.fstat(file.fileno()).st_size
        while file.tell() < size:
            chunk = file.read(CHUNK_BYTES)
            yield chunk, file.tell() == size


def _write(directory: Path, known: Mapping, paths: Stamps, archive: Path) -> Stamps:
    sent: Stamps = {}
    with tarfile.open(archive, "w") as tar:
        for path in sorted(paths, key=lambda p: not p.startswith(_CHECKPOINTS)):
            if paths[path] is None:
                tar.add(directory / path, path, recursive=False)
                sent[path] = None
                continue
            with (directory / path).open("rb") as file:
                sent[path] = _stamp(os.fstat(file.fileno()))
                if sent[path] != known.get(path):
                    # Of its size now: a file that grows while it is read is cut there.
                    tar.addfile(tar.gettarinfo(arcname=path, fileobj=file), file)
        text = json.dumps(list(sent)).encode()
        header = tarfile.TarInfo(_MANIFEST)
        header.size = len(text)
        tar.addfile(header, io.BytesIO(text))
    return sent


def _paths(directory: Path) -> Stamps:
    """Returns all that is in a directory, but for what is half written and its lock."""
    return dict(_walk(directory, PurePosixPath())) if directory.is_dir() else {}


def _walk(directory: Path, within: PurePosixPath) -> Iterator[tuple[str, Stamp | None]]:
    with os.scandir(directory / within) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        half_written = ".orbax-checkpoint-tmp" in entry.name or entry.name.endswith(_HALF_WRITTEN)
        if half_written or entry.name in (_INCOMING, lock.NAME) or entry.is_symlink():
            continue
        path = within / entry.name
        try:
            if entry.is_dir():
                inside = list(_walk(directory, path))
                yield str(path), None
                yield from inside
            else:
                yield str(path), _stamp(entry.stat())
        except FileNotFoundError:
            continue  # deleted since


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _checkpoints(paths: Stamps) -> Stamps:
    return {path: stamp for path, stamp in paths.items() if path.startswith(_CHECKPOINTS)}


def _checkpoint(path: str) -> str | None:
    """Returns the checkpoint that a file belongs to: `checkpoints/100`."""
    parts = PurePosixPath(path).parts
    return str(PurePosixPath(*parts[:2])) if parts[0] == _CHECKPOINTS and len(parts) > 2 else None


def _in_new_checkpoint(path: str, directory: Path) -> bool:
    checkpoint = _checkpoint(path)
    return checkpoint is not None and not (directory / checkpoint).exists()


def _put(incoming: Path, directory: Path, path: str) -> None:
    (directory / path).parent.mkdir(parents=True, exist_ok=True)
    (incoming / path).replace(directory / path)


def _delete(paths: set[str], directory: Path, incoming: Path) -> None:
    """Deletes these; a directory is moved away first, so that it never stands there in part."""
    for path in sorted(paths):
        if (directory / path).is_dir():
            (directory / path).replace(incoming / ".deleted")
            shutil.rmtree(incoming / ".deleted")
        else:
            (directory / path).unlink(missing_ok=True)
