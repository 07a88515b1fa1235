"""Beginning with the parameters of another run, or of a file, instead of freshly drawn ones.

    config.initialize_from = {
        "path": "/tmp/run",                       # a trial directory, or an .npz file
        "step": "best",                           # or "latest", or a number of completed updates
        "rename": (("^Dense_0/", "encoder/"),),   # what is Dense_0 there is encoder here
        "skip": ("head/.*",),                     # drawn as if there were no checkpoint
    }

Parameters and batch statistics go by their paths, like `Dense_0/kernel`; both follow the same patterns
(see parameter_rules.py). What is here but not there, or has another shape, is an error unless it is
skipped; what is there but not here is left out and named. An .npz file has an array a path, under
names that begin with `params/` or `batch_stats/`.

Such a run saves its beginning as checkpoint 0, so that from then on it does not need its source; the
provenance keeps where that was and what was taken.

The rules of divergence.py compare with the loss of step 0. Where the source has already learned nearly all
there is to learn, that is low, and `hparams.divergence_factor = 0` turns them off, but for numbers that are
not finite.
"""

import dataclasses
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from playbook_jax import checkpoints, optimizers, trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.runtime import parallel, paths
from playbook_jax.training import parameter_rules, program as program_lib
from playbook_jax.training.train_step import TrainState

COLLECTIONS = ("params", "batch_stats")
Flat = dict[str, Any]  # path → array, or its shape


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run begins with.

    Attributes:
      arrays: collection → path here → array, those that are taken.
      origin: for the provenance: `path`, `step`, `polyak`, and lists of paths: `taken`, `skipped` (here,
        drawn anew), `unused` (there).
    """

    arrays: Mapping[str, Mapping[str, np.ndarray]]
    origin: Mapping[str, Any]

    def __str__(self) -> str:
        """Says in a line what was taken and what was not."""
        origin = self.origin
        step = "" if origin["step"] is None else f", step {origin['step']}"
        some = parameter_rules.some
        text = f"Begins with {origin['path']}{step}: {len(origin['taken'])} arrays taken"
        text += f"; drawn anew: {some(origin['skipped'])}" if origin["skipped"] else ""
        return text + (f"; unused there: {some(origin['unused'])}" if origin["unused"] else "")


def read(config: ConfigDict, workdir: epath.PathLike) -> Start | None:
    """Returns what a complete config wants to begin with; None if it needs no other run's parameters.

    Args:
      config: see `initialize_from`.
      workdir: the trial directory; if it has a checkpoint, the run goes on from there.

    Raises:
      UsageError: the source can't be read, or does not fit the model.
    """
    saved = epath.Path(workdir) / "checkpoints"
    if not config.initialize_from.path or (
        saved.exists() and any(path.name.isdigit() for path in saved.iterdir())
    ):
        return None
    return _read(config)


def begin(
    config: ConfigDict, program: program_lib.Program, start: Start | None, fresh: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state before step 0, of NumPy arrays, and what the provenance is to say of it.

    Args:
      config: as `read` got it.
      program: the config's.
      start: what `read` gave; None where it found a checkpoint, which then was none.
      fresh: the state of NumPy arrays that would be drawn instead.
    """
    start = start or _read(config)
    merged = {
        name: _map(lambda path, x, name=name: start.arrays[name].get(path, x), getattr(fresh, name))
        for name in COLLECTIONS
    }
    # Some optimizers' state begins as a copy of the parameters.
    optimizer = optimizers.make_optimizer(config.optimizer, {}, 0.0)
    opt_state = optimizer.init(program.rules.trained(merged["params"]))
    merged["opt_state"] = jax.tree.map(np.asarray, opt_state)
    if parallel.host_index() == 0:
        print(start, file=sys.stderr)
    origin = {"initialized_from": dict(start.origin)}
    return dataclasses.replace(fresh, **merged), origin


def _read(config: ConfigDict) -> Start:
    wish = config.initialize_from
    workload = program_lib.get(config).workload
    shapes = jax.eval_shape(workload.init, jax.random.key(0))
    here = {name: _flat(shapes.get(name, {})) for name in COLLECTIONS}
    there, step = _source(paths.plain(wish.path), wish.step, wish.polyak)
    renamed = _renamed(there, wish.rename)
    skipped = _skipped(here, wish.skip)
    wanted = {n: {p: x for p, x in here[n].items() if p not in skipped[n]} for n in COLLECTIONS}
    _check_fit(wanted, renamed, wish.path)
    taken = {
        name: {path: renamed[name][path][1].astype(x.dtype) for path, x in wanted[name].items()}
        for name in COLLECTIONS
    }
    unused = {
        name: [old for path, (old, _) in renamed[name].items() if path not in taken[name]]
        for name in COLLECTIONS
    }
    origin = {
        "path": str(epath.Path(paths.plain(wish.path)).absolute()),
        "step": step,
        "polyak": wish.polyak,
        "taken": _listed(taken),
        "skipped": _listed(skipped),
        "unused": _listed(unused),
    }
    return Start(taken, origin)


def _source(path: str, step: str | int, polyak: bool) -> tuple[dict[str, Flat], int | None]:
    """Returns the arrays of each collection by path, and the step at which they were saved."""
    if path.endswith(".npz"):
        return _npz(path), None
    step = int(step) if str(step).isdigit() else step
    if step not in ("best", "latest") and not isinstance(step, int):
        raise UsageError(f"initialize_from.step {step!r}: give 'best', 'latest', or a number")
    try:
        trial_lib.load(path)
        saved = checkpoints.load(path, step)
    except UsageError as error:
        raise UsageError(f"initialize_from: {error}") from error
    prefix = "polyak_" if polyak else ""
    if f"{prefix}params" not in saved:
        raise UsageError(
            f"initialize_from: {path} keeps no averaged parameters (hparams.polyak_decay)"
        )
    return {name: _flat(saved[prefix + name] or {}) for name in COLLECTIONS}, int(saved["step"])


def _npz(path: str) -> dict[str, Flat]:
    result: dict[str, Flat] = {name: {} for name in COLLECTIONS}
    try:
        with np.load(Path(path), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"initialize_from: {path} can't be read: {error}") from error
    for full, x in arrays.items():
        collection, _, name = full.partition("/")
        if collection not in result or not name:
            raise UsageError(
                f"initialize_from: {path} has {full!r}; names there must begin with params/ or "
                "batch_stats/, like params/Dense_0/kernel"
            )
        result[collection][name] = x
    return result


def _renamed(there: Mapping[str, Flat], rules: Any) -> dict[str, dict[str, tuple[str, np.ndarray]]]:
    """Returns collection → path here → (path there, array)."""
    if not isinstance(rules, tuple) or not all(
        isinstance(rule, tuple) and len(rule) == 2 for rule in rules
    ):
        raise UsageError(f"initialize_from.rename must be pairs like (('^a/', 'b/'),): {rules!r}")
    known = [path for name in COLLECTIONS for path in there[name]]
    patterns = [pattern for pattern, _ in rules]
    parameter_rules.check_patterns("initialize_from.rename", patterns, known, whole=False)
    result: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
    for name in COLLECTIONS:
        result[name] = {}
        for old, x in there[name].items():
            new = old
            for pattern, replacement in rules:
                new = re.sub(pattern, replacement, new)
            if new in result[name]:
                raise UsageError(
                    f"initialize_from.rename makes {new!r} of both {result[name][new][0]!r} and {old!r}"
                )
            result[name][new] = (old, x)
    return result


def _skipped(here: Mapping[str, Flat], patterns: Any) -> dict[str, list[str]]:
    known = [path for name in COLLECTIONS for path in here[name]]
    parameter_rules.check_patterns("initialize_from.skip", patterns, known)
    return {
        name: [path for path in here[name] if any(re.fullmatch(p, path) for p in patterns)]
        for name in COLLECTIONS
    }


def _check_fit(wanted: Mapping[str, Flat], renamed: Mapping[str, Any], path: str) -> None:
    """Raises an error that names all that is missing there or has another shape."""
    missing = _listed(
        {name: [p for p in wanted[name] if p not in renamed[name]] for name in COLLECTIONS}
    )
    different = [
        f"{p} {renamed[name][p][1].shape} there, {x.shape} here"
        for name in COLLECTIONS
        for p, x in wanted[name].items()
        if p in renamed[name] and renamed[name][p][1].shape != x.shape
    ]
    if not missing and not different:
        return
    some, problems = parameter_rules.some, []
    if missing:
        unused = _listed(
            {name: [p for p in renamed[name] if p not in wanted[name]] for name in COLLECTIONS}
        )
        problems.append(f"it lacks {some(missing)} (it has besides {some(unused) or 'nothing'})")
    if different:
        problems.append(f"shapes differ: {some(different)}")
    raise UsageError(
        f"initialize_from: {path} does not fit the model: {'; '.join(problems)}. "
        "Rename paths by initialize_from.rename, or draw them anew by initialize_from.skip"
    )


def _listed(by_collection: Mapping[str, Any]) -> list[str]:
    """Returns all paths, those of batch statistics with the collection before them."""
    return [
        path if name == "params" else f"{name}/{path}"
        for name in COLLECTIONS
        for path in by_collection[name]
    ]


def _flat(tree: Any) -> Flat:
    return dict(zip(parameter_rules.paths(tree), jax.tree.leaves(tree), strict=True))


def _map(function: Callable[[str, Any], Any], tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    pairs = zip(parameter_rules.paths(tree), leaves, strict=True)
    return jax.tree.unflatten(structure, [function(path, x) for path, x in pairs])
