#!/usr/bin/env python3
"""Runs a finished trial once more from its directory, and says whether every bit is the same.

    scripts/reproduce.py --trial=/tmp/study/trials/007 --workdir=/tmp/again

The config, the number of cores and devices, the packing and the environment are those that the trial's
directory holds. Exit codes: 0 every bit is the same, 1 not (then it names the first step that differs, and
what is no longer as it was), 2 bad input, 75 interrupted (continue by the same command).
"""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.procedures import bitwise_diff, reproduce
from playbook_jax.runtime import command_line
from playbook_jax.studies.execution.executor import Stop

FLAGS = flags.FLAGS
flags.DEFINE_string("trial", None, "The directory of a trial that is COMPLETE or INFEASIBLE.")
flags.DEFINE_string("workdir", None, "Where it is run again: made if missing, continued if not.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    for name in ("trial", "workdir"):
        if not FLAGS[name].value:
            raise UsageError(f"--{name}=DIR is missing")
    original = reproduce.read(FLAGS.trial, FLAGS.workdir)
    reproduce.set_up(original.provenance)

    with Stop() as stop:
        status = _run(original, lambda: stop.requests > 0)
    if status["state"] == trial.INTERRUPTED:
        print(f"Stopped at step {status['step']:,}.")
        print(f"Continue with: {shlex.join(command_line.command())}")
        return trial.EXIT_CODES[trial.INTERRUPTED]
    then, now = (trial.load(directory) for directory in (FLAGS.trial, FLAGS.workdir))
    return _report(then, now)


def _run(original: trial.Trial, should_stop: Callable[[], bool]) -> dict:
    from playbook_jax.runtime import compilation_cache, progress

    compilation_cache.enable()
    line = progress.Steps()
    status = reproduce.run(
        original,
        FLAGS.workdir,
        progress=line,
        should_stop=should_stop,
        command=command_line.command(),
    )
    line.close()
    return status


def _report(then: trial.Trial, now: trial.Trial) -> int:
    found = bitwise_diff.compare(then.directory, now.directory)
    changes = reproduce.changes(then.provenance, now.provenance)
    if found.differences:
        print("NOT the same:", *found.differences, sep="\n  ")
    else:
        print(f"Every bit is the same: {', '.join(found.compared)}.")
    for what in found.missing:
        print(f"Not compared: {what}")
    if changes:
        print("What is no longer as it was:", *changes, sep="\n  ")
    elif found.differences:
        print(reproduce.unexplained(then.provenance))
    print(f"The trial is in {FLAGS.workdir}")
    return 1 if found.differences else 0


if __name__ == "__main__":
    command_line.run(main)
