"""A finished trial run once more from its directory, and whether every bit of it comes again.

On the same machine it does, if the code is the same and the process is given what the bits depend on: the
numbers of threads, devices and lanes, and the environment. A trial's `provenance.json` has all of them
(playbook, "Setting up experiment tracking").

`set_up` comes before jax is imported, which looks at cores and variables once; so this module needs no jax
until something is run or compared.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies.execution import device_placement
from playbook_jax.tracking import provenance as provenance_lib, sources

_PLATFORMS = "JAX_PLATFORMS"  # what came of it is in the provenance too, as `backend`
# Of a provenance, what the bits may depend on besides the code, versions and environment.
_CIRCUMSTANCES = (
    "threads",
    "packing",
    "backend",
    "devices",
    "processor",
    "platform",
    "host",
    "hosts",
)
_SHORT = 12  # characters of a commit


def read(directory: epath.PathLike, workdir: epath.PathLike) -> trial_lib.Trial:
    """Returns the trial in `directory`, which is to be run once more in `workdir`.

    Raises:
      UsageError: there is none, it has not come to its end, or it can't be run by one process.
    """
    directory, workdir = epath.Path(directory), epath.Path(workdir)
    for name in ("study.json", "group.json"):
        if (directory / name).exists():
            raise UsageError(f"{directory} is no trial; give one of its trials, …/trials/000")
    found = trial_lib.load(directory)
    state, reason = found.status["state"], found.status["reason"]
    if state not in (trial_lib.COMPLETE, trial_lib.INFEASIBLE):
        raise UsageError(
            f"{directory} is {state}{reason and f' ({reason})'}: only a trial that is COMPLETE or "
            "INFEASIBLE has an end that can be reached again"
        )
    if not found.provenance:
        raise UsageError(f"{directory} has no provenance.json, which says how it was run")
    if directory.resolve() == workdir.resolve():
        raise UsageError(f"--workdir={workdir} holds the trial itself; give a new directory")
    hosts = found.provenance.get("hosts") or 1
    again = trial_lib.read_json(workdir / "status.json", trial_lib.new_status())
    if hosts > 1 and again["state"] not in trial_lib.FINISHED:
        raise UsageError(
            f"{directory} was trained by {hosts} hosts: on as many, run scripts/train.py "
            f"--config={directory}/config.json --workdir={workdir}; this command then compares"
        )
    return found


def set_up(provenance: Mapping[str, Any]) -> None:
    """Gives this process the cores, devices and variables that a trial had, as far as they are there.

    To be called before jax is imported.
    """
    for name, value in _environment(provenance).items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    gpus, count = device_placement.gpus(), len(provenance.get("devices", []))
    if provenance.get("backend") in ("gpu", "cuda") and 0 < count < len(gpus):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[:count])
    threads = provenance.get("threads")
    if threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, device_placement.cores()[:threads])


def _environment(provenance: Mapping[str, Any]) -> dict[str, str | None]:
    """Returns the variables that are to be set, and None for those that are to go.

    Those that say where something is hold as they are now. Of what a file names, which others may have
    written, nothing else is set, and no flag that names a file: XLA would write, or run, what it names.
    """
    then = {
        name: " ".join(word for word in value.split() if "/" not in word)
        for name, value in provenance.get("environment", {}).items()
        if name in provenance_lib.COMPUTED and isinstance(value, str)
    }
    if provenance.get("backend") == "cpu":
        then.setdefault(_PLATFORMS, "cpu")
    return dict.fromkeys(name for name in provenance_lib.COMPUTED if name in os.environ) | then


def run(
    original: trial_lib.Trial,
    workdir: epath.PathLike,
    *,
    progress: Callable[[int, int, str], None],
    should_stop: Callable[[], bool],
    command: list[str],
) -> dict[str, Any]:
    """Runs a trial once more, alone or in the lane that it had; returns its status.

    Args:
      original: what `read` gave.
      workdir: the trial directory of this run; goes on where an earlier one was stopped.
      progress: see `train.train`, as the next two.
      should_stop: whether to stop.
      command: what started this process.

    Raises:
      UsageError: see `train.train`.
    """
    from playbook_jax import workload
    from playbook_jax.training import loop

    workload.recall(original.provenance)
    config = config_lib.from_dict(original.config)
    packed = original.provenance.get("packing")
    if not packed:
        return loop.train(
            config, workdir, progress=progress, should_stop=should_stop, command=command
        )
    from playbook_jax.training import packing

    # A program of another width computes other bits; what its other lanes do is no matter.
    lanes: list[packing.Lane | None] = [None] * packed["lanes"]
    lanes[packed["lane"]] = packing.Lane(config, workdir)
    statuses = packing.train(
        lanes,
        progress=lambda lane, done, total, text: progress(done, total, text),
        should_stop=should_stop,
        command=command,
    )
    return statuses[packed["lane"]]


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what has changed between two provenances that the bits may depend on, a line each.

    Where the first one's trial was run in several parts, what changed between these is told too.
    """
    found = _between(then, now, "now")
    last = then
    for part in reversed(then.get("earlier_runs", [])):
        earlier = {**last, **part}  # it holds only what was no longer so in the run after it
        found += [f"within the trial, {line}" for line in _between(earlier, last, "later")]
        last = earlier
    return list(dict.fromkeys(found))


def _between(then: Mapping[str, Any], now: Mapping[str, Any], later: str) -> list[str]:
    pairs = {name: (then[name], now.get(name)) for name in _CIRCUMSTANCES if name in then}
    pairs["packing"] = (then.get("packing"), now.get("packing"))
    for bearing in (_versions, _variables):
        old, new = (bearing(p) for p in (then, now))
        pairs |= {name: (old.get(name), new.get(name)) for name in sorted(old | new)}
    lines = [
        f"{name} {_said(old)} then, {_said(new)} {later}"
        for name, (old, new) in pairs.items()
        if old != new
    ]
    commits = [str(p.get("commit"))[:_SHORT] for p in (then, now)]
    if commits[0] != commits[1]:
        lines.insert(0, f"commit {commits[0]} then, {commits[1]} {later}")
    edits = [(p.get("diff") or "", tuple(p.get("untracked") or ())) for p in (then, now)]
    if edits[0] != edits[1]:
        old, new = ("changes" if any(edit) else "no changes" for edit in edits)
        new = f"other {new}" if old == new else new
        lines.insert(1, f"{old} that are not in the commit then, {new} {later}")
    return lines + sources.changes(then, now)


def _versions(provenance: Mapping[str, Any]) -> dict[str, str]:
    return provenance.get("versions") or {}


def _variables(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Returns the variables that bits may depend on."""
    stored = provenance.get("environment") or {}
    return {k: stored[k] for k in provenance_lib.COMPUTED if k in stored and k != _PLATFORMS}


def _said(value: Any) -> str:
    if isinstance(value, list) and value and value.count(value[0]) == len(value):
        return f"{len(value)} × {value[0]}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return "none" if value is None else str(value)


def unexplained(provenance: Mapping[str, Any]) -> str:
    """Returns what may be the cause where bits differ and nothing in the provenance does."""
    text = "Nothing that provenance.json knows of has changed"
    if provenance.get("initialized_from"):
        return f"{text}; the run it began with, {provenance['initialized_from']['path']}, may have."
    if provenance.get("backend") == "cpu":
        return f"{text}; the data may have, or the file of the trial."
    return (
        f"{text}; a {str(provenance.get('backend')).upper()} may add in any order, a GPU unless XLA_FLAGS "
        "has --xla_gpu_deterministic_ops=true (in the study too)."
    )
