"""Checkpoints: the latest state and the N best, together in one orbax save.

Every evaluation offers its state; the N best wait in memory and go to disk with the latest. So one
directory `checkpoints/STEP/` holds all that is needed to go on and to select in retrospect (playbook,
"Saving checkpoints and retrospectively selecting the best checkpoint"), it is complete or it is
not there, and a run that makes many evaluations need not make many saves.

While a run goes on, the checkpoint before the latest stays too: should the latest turn out to be
damaged, or the records that it counts on (see record_files.py), the run goes on from that one. It goes
when the trial ends.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import parallel
from playbook_jax.training import checkpoint_trees, train_step

# What `load` returns; the rest of the saved state only serves to go on.
LOADED = ("step", "params", "batch_stats", "opt_state")
KEPT_WHILE_RUNNING = 2  # the latest, and one to fall back on
_HALF_WRITTEN = "*.orbax-checkpoint-tmp*"  # orbax renames a directory once it is complete
_ITEM = "default"  # orbax's name for what a checkpoint holds, where it holds one thing
_SET_ASIDE = ".unreadable"


class UnreadableError(Exception):
    """A checkpoint is damaged or only half written; its text says how."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A state that an evaluation has scored: its step, its score, and its tree of NumPy arrays."""

    step: int
    value: float
    state: Any


@dataclasses.dataclass(frozen=True)
class Restored:
    """Where a run goes on.

    Attributes:
      step: the number of completed updates.
      state: the state then, its batch statistics averaged over the devices.
      of_devices: each device's own batch statistics (see `Checkpoints.save`), or None.
      extents: how much of the records belongs to it, see `RecordFiles.extents`; None where it does not
        tell, as older ones do not.
    """

    step: int
    state: Any
    of_devices: Any
    extents: np.ndarray | None = None


class Checkpoints:
    """The checkpoints of one trial while it runs."""

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        keep_best: int,
        mode: str,
        sync: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens the trial's checkpoints, making their directory; nothing is in it until `save`.

        Args:
          directory: the trial directory.
          keep_best: how many of the best states are kept.
          mode: "min" or "max", which values are better.
          sync: called, in another thread, before a checkpoint becomes visible; it may only once what it
            counts on is on disk.
        """
        self._directory = _directory(directory)
        self._writes = parallel.host_index() == 0
        self._keep_best, self._sign = keep_best, 1 if mode == "min" else -1
        self._candidates: list[Candidate] = []
        if self._writes:
            self._directory.mkdir(parents=True, exist_ok=True)
        parallel.agree(0)  # until it is there
        # Restores look at the directory alone, so a trial that has none is opened at no cost.
        self._manager = ocp.CheckpointManager(
            self._directory,
            handler_registry=_handlers(sync),
            options=ocp.CheckpointManagerOptions(
                create=False,
                # An old one is deleted after the new one is complete.
                max_to_keep=KEPT_WHILE_RUNNING,
                enable_async_checkpointing=True,
                multiprocessing_options=_this_host_alone(),
            ),
        )

    @property
    def best(self) -> Candidate | None:
        """The best candidate so far, the earliest on a tie."""
        return self._candidates[0] if self._candidates else None

    def wants(self, value: float) -> bool:
        """Returns whether a state of this value would be among the N best."""
        full = len(self._candidates) >= self._keep_best
        return not full or self._sign * value < self._sign * self._candidates[-1].value

    def offer(self, candidate: Candidate) -> None:
        """Keeps the candidate if it is among the N best."""
        self._candidates = self._ranked([*self._candidates, candidate])[: self._keep_best]

    def _ranked(self, candidates: list[Candidate]) -> list[Candidate]:
        return sorted(candidates, key=lambda c: (self._sign * c.value, c.step))

    def save(
        self, step: int, state: Any, of_devices: Any = None, extents: np.ndarray | None = None
    ) -> None:
        """Starts to write `state` as the latest, and the best with it; returns before it is done.

        An error while writing is raised by the next call, or by `wait`.

        Args:
          step: the number of completed updates.
          state: the tree to save, of NumPy arrays that nobody changes from now on, its batch
            statistics averaged over the devices.
          of_devices: each device's own batch statistics, NumPy arrays [devices, …], where the run
            itself does not average them at this step.
          extents: how much of the records belongs to it, see `RecordFiles.extents`.
        """
        if not self._writes or step in self._manager.all_steps():
            return
        best = {
            str(c.step): {
                "value": np.asarray(c.value, np.float64),
                "state": checkpoint_trees.as_dict(c.state),
            }
            for c in self._candidates
        }
        tree = {"latest": checkpoint_trees.as_dict(state), "best": best}
        if of_devices is not None:
            tree["of_devices"] = of_devices
        if extents is not None:
            tree["extents"] = extents
        tree["checksum"] = np.asarray(checkpoint_trees.checksum(tree), np.uint32)
        self._manager.save(step, args=ocp.args.StandardSave(tree))

    def restore(
        self, like: Any, problem: Callable[[int, np.ndarray | None], str] = lambda *_: ""
    ) -> Restored | None:
        """Returns the latest checkpoint that can be gone on from; None if there is none.

        Others are set aside under another name, with a warning, until the trial ends.

        Args:
          like: a state whose structure, shapes and types are those that are needed.
          problem: (step, extents) → what is wrong with the records that a checkpoint counts on, or "";
            asked on the host that writes.

        Raises:
          UsageError: the checkpoint is another model's; nothing was changed.
        """
        for path in self._half_written():
            _warn(f"{path} is a checkpoint that was only half written; it is not used")
        for step in sorted(self._manager.all_steps(), reverse=True):
            tree = self._read(step, problem)
            if tree is None:
                continue
            saved = {"latest": tree["latest"], **_states_of(tree)}
            for name, state in saved.items():
                checkpoint_trees.refuse_another_model(self._directory / str(step), state, like)
                saved[name] = checkpoint_trees.in_structure(state, like)
            latest = saved.pop("latest")
            values = {name: float(tree["best"][name]["value"]) for name in saved}
            self._candidates = self._ranked(
                [Candidate(int(name), values[name], state) for name, state in saved.items()]
            )
            self._remove_half_written()
            return Restored(step, latest, tree.get("of_devices"), tree.get("extents"))
        self._remove_half_written()
        return None

    def _read(
        self, step: int, problem: Callable[[int, np.ndarray | None], str]
    ) -> dict[str, Any] | None:
        """Returns a checkpoint as it was saved; sets it aside where that is of no use."""
        tree, what, reason = None, "can't be read", "another host can't read it"
        try:
            tree = _read(self._manager, step)
            damage = problem(step, tree.get("extents")) if self._writes else ""
            if damage:
                tree, what, reason = None, "counts on records that are lost", damage
        except UnreadableError as error:
            reason = str(error)
        if not any(parallel.agree(tree is None)):
            return tree
        path = self._directory / str(step)
        aside = path.with_name(path.name + _SET_ASIDE)
        older = len(self._manager.all_steps()) > 1
        todo = "going on without it" if older else "the run begins again"
        _warn(f"{path} {what}, {todo} ({reason}); until the run ends it is kept as {aside.name}")
        if self._writes:
            if aside.exists():
                aside.rmtree()
            path.rename(aside)
        parallel.agree(0)  # until it is gone
        self._manager.reload()
        return None

    def wait(self) -> None:
        """Waits until what was saved is on disk."""
        self._manager.wait_until_finished()

    def prune(self) -> None:
        """Deletes all but the latest state and the N best, for a trial that has ended."""
        self.wait()
        if self._writes:
            for step in sorted(self._manager.all_steps())[:-1]:
                self._manager.delete(step)
            for path in self._directory.glob(f"*{_SET_ASIDE}"):
                path.rmtree()

    def _half_written(self) -> list[epath.Path]:
        if not self._writes or not self._directory.exists():
            return []
        return sorted(self._directory.glob(_HALF_WRITTEN))

    def _remove_half_written(self) -> None:
        for path in self._half_written():
            path.rmtree()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Waits for the last save, whatever ended the run: another run may follow at once.

        What a save that failed has left is deleted; on a full disk, that makes room for the status.
        """
        try:
            self._manager.close()
        finally:
            self._remove_half_written()


def check_place(directory: epath.PathLike) -> None:
    """Refuses a trial directory where no checkpoint could be read again.

    Raises:
      UsageError: orbax would take its path for a pattern.
    """
    found = [character for character in "*?[" if character in str(_directory(directory))]
    if found:
        raise UsageError(
            f"{directory} holds {' '.join(found)}: checkpoints can't be saved there; "
            "use another --workdir"
        )


def load(directory: epath.PathLike, step: int | str) -> dict[str, Any]:
    """Returns a saved state of a trial as NumPy arrays, without any device axis.

    Args:
      directory: the trial directory.
      step: a number of completed updates, "best" or "latest".

    Returns:
      `step`, `params`, `batch_stats` (averaged over the devices), `opt_state`, and where the run keeps
      averages, `polyak_params` and `polyak_batch_stats`.

    Raises:
      UsageError: the trial has no such checkpoint (says which there are), or it can't be read.
    """
    if step == "best":
        status = trial.load(directory).status
        step = status["best_step"]
        if step is None:
            raise UsageError(f"{directory} has no best checkpoint: it is {status['state']}")
    saved: dict[str, Any] = {}
    place = _directory(directory)
    if place.exists():
        untouched = ocp.CheckpointManagerOptions(
            create=False, multiprocessing_options=_this_host_alone()
        )
        with ocp.CheckpointManager(place, options=untouched) as manager:
            latest = manager.latest_step()
            step = latest if step == "latest" else step
            saved |= _saved(manager, step if step in manager.all_steps() else latest)
    if str(step) not in saved:
        known = ", ".join(sorted(saved, key=int)) or "none at all"
        raise UsageError(f"{directory} holds no checkpoint {step!r} (it holds {known})")
    state = saved[str(step)]
    result = {name: state[name] for name in LOADED}
    if state["polyak"]:
        average = train_step.polyak_average(state["polyak"])
        result |= {f"polyak_{name}": jax.tree.map(np.asarray, x) for name, x in average.items()}
    return result


def _saved(manager: ocp.CheckpointManager, step: int | None) -> dict[str, Any]:
    """Returns the states that the checkpoint of a step holds, by their steps."""
    if step is None:
        return {}
    try:
        tree = _read(manager, step)
    except UnreadableError as error:
        raise UsageError(
            f"{manager.directory / str(step)} can't be read ({error}); the training command goes on "
            "from an older one or from the start, for a finished trial once status.json is deleted"
        ) from error
    return {str(step): tree["latest"]} | _states_of(tree)


class _Handler(ocp.StandardCheckpointHandler):
    """Saves trees of arrays, and calls a function before a checkpoint gets its name."""

    def __init__(self, before: Callable[[], None]) -> None:
        super().__init__(multiprocessing_options=_this_host_alone())
        self._before = before

    def finalize(self, directory: epath.Path) -> None:
        """Implements orbax's handler; called in its thread."""
        self._before()
        super().finalize(directory)


def _handlers(before: Callable[[], None]) -> ocp.handlers.CheckpointHandlerRegistry:
    """Returns what saves and restores; calls `before` when a checkpoint is about to get its name."""
    handler, registry = _Handler(before), ocp.handlers.DefaultCheckpointHandlerRegistry()
    for arguments in (ocp.args.StandardSave, ocp.args.StandardRestore):
        registry.add(_ITEM, arguments, handler)
    return registry


def _directory(trial_directory: epath.PathLike) -> epath.Path:
    # orbax refuses relative paths.
    return epath.Path(trial_directory).absolute() / "checkpoints"


def _this_host_alone() -> ocp.options.MultiprocessingOptions:
    """Returns the options by which orbax waits for no other host.

    What is saved is the same on all hosts, so one writes it. Were orbax to let the others wait for that
    one, they would for twenty minutes if its disk is full.
    """
    host = parallel.host_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host{host}"
    )


def _warn(text: str) -> None:
    if parallel.host_index() == 0:
        print(f"warning: {text}", file=sys.stderr)


def _read(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """Returns the tree of a checkpoint, after a look at its checksum.

    Raises:
      UnreadableError: it is damaged.
    """
    try:
        tree = manager.restore(step, args=ocp.args.StandardRestore())
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # whatever orbax and its storage make of it
        text = " ".join(str(error).split())
        raise UnreadableError(f"{type(error).__name__}: {text[:120]}") from error
    # Storage checks its indices by itself, but not the arrays' contents.
    if int(tree.pop("checksum", -1)) != checkpoint_trees.checksum(tree):
        raise UnreadableError("its contents do not give its checksum")
    return tree


def _states_of(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the best states by their steps."""
    return {name: entry["state"] for name, entry in (tree["best"] or {}).items()}
