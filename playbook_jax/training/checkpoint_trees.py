"""Trees of arrays as checkpoints hold them: checksums, names, and what differs from what is needed."""

import dataclasses
import zlib
from typing import Any

import jax
import numpy as np
from etils import epath

from playbook_jax.errors import UsageError

_SHOWN = 3  # differences


def checksum(tree: Any) -> int:
    """Returns the CRC-32 of all arrays of a tree and of their names (about 4 GB/s)."""
    result = 0
    for path, leaf in sorted(_leaves(tree).items()):
        result = zlib.crc32(f"{path} {leaf.dtype} {leaf.shape}".encode(), result)
        result = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8), result)
    return result


def _leaves(tree: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of a tree by their paths: the same before it is saved and after."""
    return {
        "/".join(map(_name, path)): np.asarray(leaf)
        for path, leaf in jax.tree.flatten_with_path(tree)[0]
    }


def _name(key: Any) -> str:
    return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", None))))


def as_dict(state: Any) -> dict[str, Any]:
    """Returns the fields of a state by their names."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def refuse_another_model(path: epath.Path, saved: Any, like: Any) -> None:
    """Raises a UsageError with the first arrays that differ in name, shape or type."""
    saved, wanted = _leaves(saved), _leaves(as_dict(like))
    different = [
        f"{name}: saved {_described(saved.get(name))}, wanted {_described(wanted.get(name))}"
        # What people know of a model comes first.
        for name in sorted(wanted.keys() | saved.keys(), key=lambda n: (n[:6] != "params", n))
        if _described(saved.get(name)) != _described(wanted.get(name))
    ]
    if different:
        shown = "; ".join(different[:_SHOWN]) + (" …" if len(different) > _SHOWN else "")
        raise UsageError(
            f"{path} is the checkpoint of another model: {len(different)} arrays differ ({shown}); "
            "use the model that made it, or another --workdir"
        )


def _described(array: np.ndarray | None) -> str:
    return "nothing" if array is None else f"{array.dtype}{list(array.shape)}"


def in_structure(saved: dict[str, Any], like: Any) -> Any:
    """Returns what was saved of a state as `like` has it: named tuples come back as dictionaries."""
    leaves = _leaves(saved)
    paths, structure = jax.tree.flatten_with_path(as_dict(like))
    ordered = [leaves["/".join(map(_name, path))] for path, _ in paths]
    return type(like)(**jax.tree.unflatten(structure, ordered))
