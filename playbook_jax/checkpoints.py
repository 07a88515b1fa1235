"""Checkpoints: the latest state and the N best, together in one orbax save.

Every evaluation offers its state; the N best wait in memory and go to disk with the latest. So one
directory `checkpoints/STEP/` holds all that is needed to go on and to select in retrospect (playbook,
"Saving checkpoints and retrospectively selecting the best checkpoint"), it is complete or it is
not there, and a run that makes many evaluations need not make many saves.
"""

import dataclasses
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from playbook_jax import train_step, trial
from playbook_jax.errors import UsageError

# What `load` returns; the rest of the saved state only serves to go on.
LOADED = ("step", "params", "batch_stats", "opt_state")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A state that an evaluation has scored: its step, its score, and its tree of NumPy arrays."""

    step: int
    value: float
    state: Any


class Checkpoints:
    """The checkpoints of one trial while it runs."""

    def __init__(self, directory: epath.PathLike, *, keep_best: int, mode: str) -> None:
        """Opens the trial's checkpoints; nothing is written until `save`.

        Args:
          directory: the trial directory.
          keep_best: how many of the best states are kept.
          mode: "min" or "max", which values are better.
        """
        self._keep_best, self._sign = keep_best, 1 if mode == "min" else -1
        self._candidates: list[Candidate] = []
        # Restores look at the directory alone, so a trial that has none is opened at no cost.
        self._manager = ocp.CheckpointManager(
            _directory(directory),
            options=ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=True),
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
        ranked = sorted(
            [*self._candidates, candidate], key=lambda c: (self._sign * c.value, c.step)
        )
        self._candidates = ranked[: self._keep_best]

    def save(self, step: int, state: Any) -> None:
        """Starts to write `state` as the latest, and the best with it; returns before it is done.

        Args:
          step: the number of completed updates.
          state: the tree to save, of NumPy arrays that nobody changes from now on.
        """
        best = {
            str(c.step): {"value": np.asarray(c.value, np.float64), "state": _as_dict(c.state)}
            for c in self._candidates
        }
        tree = {"latest": _as_dict(state), "best": best}
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(tree))

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Returns the latest step and its state, in the structure of `like`; None if there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        tree = self._manager.restore(step, args=ocp.args.StandardRestore())
        self._candidates = sorted(
            (
                Candidate(int(name), float(saved["value"]), _in_structure(saved["state"], like))
                for name, saved in (tree["best"] or {}).items()
            ),
            key=lambda c: (self._sign * c.value, c.step),
        )
        return step, _in_structure(tree["latest"], like)

    def wait(self) -> None:
        """Waits until what was saved is on disk."""
        self._manager.wait_until_finished()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Waits for the last save, whatever ended the run: another run may follow at once."""
        self._manager.close()


def load(directory: epath.PathLike, step: int | str) -> dict[str, Any]:
    """Returns a saved state of a trial as NumPy arrays, without any device axis.

    Args:
      directory: the trial directory.
      step: a number of completed updates, "best" or "latest".

    Returns:
      `step`, `params`, `batch_stats`, `opt_state`, and where the run keeps averages, `polyak_params`
      and `polyak_batch_stats`.

    Raises:
      UsageError: the trial has no such checkpoint; says which there are.
    """
    saved: dict[str, Any] = {}
    with ocp.CheckpointManager(_directory(directory)) as manager:
        latest = manager.latest_step()
        if latest is not None:
            tree = manager.restore(latest, args=ocp.args.StandardRestore())
            saved = {name: entry["state"] for name, entry in (tree["best"] or {}).items()}
            saved.setdefault(str(latest), tree["latest"])
    if step == "best":
        step = trial.load(directory).status["best_step"]
    elif step == "latest":
        step = latest
    if str(step) not in saved:
        known = ", ".join(sorted(saved, key=int)) or "none at all"
        raise UsageError(f"{directory} holds no checkpoint {step!r} (it holds {known})")
    state = saved[str(step)]
    result = {name: state[name] for name in LOADED}
    if state["polyak"]:
        average = train_step.polyak_average(state["polyak"])
        result |= {f"polyak_{name}": jax.tree.map(np.asarray, x) for name, x in average.items()}
    return result


def _directory(trial_directory: epath.PathLike) -> epath.Path:
    # orbax refuses relative paths.
    return epath.Path(trial_directory).absolute() / "checkpoints"


def _as_dict(state: Any) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _in_structure(saved: dict[str, Any], like: Any) -> Any:
    """Returns what was saved of a state as `like` has it: named tuples come back as dictionaries."""
    paths, structure = jax.tree.flatten_with_path(_as_dict(like))
    leaves = []
    for path, _ in paths:
        value = saved
        for key in path:
            name = getattr(key, "name", getattr(key, "key", getattr(key, "idx", None)))
            value = value[name] if isinstance(value, dict) else value[int(name)]
        leaves.append(value)
    return type(like)(**jax.tree.unflatten(structure, leaves))
