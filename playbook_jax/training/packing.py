"""Packed execution: several trials of one static config in one program, each as if it ran alone.

The trials lie beside each other in lanes (see lanes.py) and differ in whatever is traced: hyperparameters,
seeds, lengths. Each keeps its own directory, curves and checkpoints; one that comes to its end, or diverges,
rests while the others go on. That pays where a single trial is too small to keep the device busy.

The bits of a trial depend on how many lanes there are and on its own, not on what is in the others.
So a trial is to be continued in the place where it was begun; its provenance names it.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import parallel
from playbook_jax.tracking import profiling
from playbook_jax.training import (
    failures,
    initialize_from,
    loop as train_lib,
    program as program_lib,
    recorder as recorder_lib,
)

Status = dict[str, Any]
# The lane, its done steps, all of its steps, and a word on how it goes.
Progress = Callable[[int, int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Lane:
    """A trial: its config, and its directory, which is made if it does not exist."""

    config: ConfigDict
    workdir: epath.PathLike


def train(
    lanes: Sequence[Lane | None],
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    ended: Callable[[int, Status], None] = lambda lane, status: None,
    command: list[str] | None = None,
) -> list[Status | None]:
    """Runs trials beside each other to their ends, going on where an earlier run was stopped.

    Args:
      lanes: the trials, each in its place; None where there is none.
      progress: is told how far each trial is, once a stretch of steps.
      should_stop: asked between calls of the device; once true, the trials save and end INTERRUPTED.
      ended: is told of each trial as soon as it is over.
      command: what started the run, for the provenance; this process's command when None.

    Returns:
      Each trial's status, None where there is none. One that is COMPLETE or INFEASIBLE already
      returns it at once. An error while training ends all that still ran as FAILED.

    Raises:
      UsageError: a config can't be run, two differ in what can't be traced, or a directory is in use
        or not for its trial.
    """
    if parallel.host_count() > 1:
        raise UsageError("trials are packed on one host; on several they run one after another")
    result: list[Status | None] = [None] * len(lanes)

    def end(lane: int, status: Status) -> None:
        result[lane] = status
        ended(lane, status)

    with contextlib.ExitStack() as trials:
        opened = _open({i: lane for i, lane in enumerate(lanes) if lane is not None}, trials)
        for i, (_, writer, _) in opened.items():
            if writer.status["state"] in (trial.COMPLETE, trial.INFEASIBLE):
                end(i, writer.status)
        left = {i: parts for i, parts in opened.items() if result[i] is None}
        try:
            with contextlib.ExitStack() as stack:
                recorders = {}
                for i, parts in left.items():
                    recorder = recorder_lib.Recorder(
                        *parts,
                        progress=functools.partial(progress, i) if progress else None,
                        ended=functools.partial(end, i),
                    )
                    recorders[i] = stack.enter_context(recorder)
                if recorders:
                    config = next(iter(recorders.values())).config
                    program = program_lib.get(config, len(lanes))
                    run = train_lib.Run(program, recorders, command, profiling.Profiler())
                    run.to_the_end(should_stop)
        except Exception as error:
            failed = [i for i in left if result[i] is None]
            statuses = failures.conclude([left[i][1] for i in failed], error)
            for i, status in zip(failed, statuses, strict=True):
                end(i, status)
    return result


def _open(
    lanes: Mapping[int, Lane], trials: contextlib.ExitStack
) -> dict[int, tuple[ConfigDict, trial.Writer, Any]]:
    """Returns what `Recorder` is made from, each trial locked until `trials` ends.

    Nothing is written before all configs are known to be sound.
    """
    configs = {i: train_lib.validate(lane.config) for i, lane in lanes.items()}
    _check(configs)
    starts = {i: initialize_from.read(configs[i], lane.workdir) for i, lane in lanes.items()}
    writers = {
        i: trials.enter_context(recorder_lib.open_trial(lane.workdir, configs[i]))
        for i, lane in lanes.items()
    }
    return {i: (configs[i], writers[i], starts[i]) for i in lanes}


def _check(configs: Mapping[int, ConfigDict]) -> None:
    """Raises a UsageError where trials can't be in one program."""
    first, *others = configs.values()
    for config in others:
        if config_lib.static_part(config) != config_lib.static_part(first):
            parts = (_static(first), _static(config))
            shown = "; ".join(config_lib.differences(*parts)[:3])
            raise UsageError(
                f"these trials can't be packed into one program ({shown}): they may differ in "
                f"{', '.join(config_lib.TRACED)} only"
            )


def _static(config: ConfigDict) -> dict[str, Any]:
    return json.loads(config_lib.static_part(config))
