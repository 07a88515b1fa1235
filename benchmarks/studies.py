#!/usr/bin/env python3
"""Measures what studies cost beside the training that they are for.

    benchmarks/studies.py                             all of it; some ten minutes
    benchmarks/studies.py --only=overhead,large       a few minutes
    pip install optuna; benchmarks/studies.py --only=optuna

overhead  a study of many trials of one step: what a trial takes beside its one checkpoint
large     a study of 10,000 trials, written and read, against the bare JSON of it
optuna    the digits study, whole command, against Optuna driving the same compiled steps in one process
packed    several trials in one program, against one after the other, for batches of 8 and of 128
bare      more trials of the digits study, against their bare steps / workers

`benchmarks/benchmark.py` has the whole digits study against what most people write today.
"""

import concurrent.futures
import csv
import importlib.util
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import flags

from benchmarks import study_parts
from benchmarks.benchmarking import duration, measured, paired, run_sections, script, show
from playbook_jax.errors import UsageError, unknown
from playbook_jax.runtime import command_line
from tools.digits_study import STUDY, write_study

_ONE_STEP = {
    "max_train_steps": 1,
    "eval_every_steps": 1,
    "log_every_steps": 1,
    "steps_per_call": 1,
    "checkpoint.every_steps": 1,
}
_BATCHES = (8, 128)

FLAGS = flags.FLAGS
flags.DEFINE_list("only", ["overhead", "large", "optuna", "packed", "bare"], "Which sections.")
flags.DEFINE_integer("rounds", 3, "How often each thing is measured.", lower_bound=1)
flags.DEFINE_integer("workers", 2, "How many processes of a study run at a time.", lower_bound=1)
flags.DEFINE_integer("trials", 1_000, "Of the study of one step.", lower_bound=2)
flags.DEFINE_integer("large", 10_000, "How many trials a large study has.", lower_bound=1)
flags.DEFINE_integer("lanes", 8, "How many trials are packed.", lower_bound=2)
flags.DEFINE_integer("core", 0, "Of a part, which core it keeps to.", lower_bound=0)
flags.DEFINE_string("part", None, "Of a section, what runs in a process of its own; prints JSON.")


def launch(config: Path, workdir: Path, cache: str) -> float:
    """Returns the seconds of the whole command that runs a study."""
    arguments = (f"--config={config}", f"--workdir={workdir}", f"--workers={FLAGS.workers}")
    environment = {"JAX_COMPILATION_CACHE_DIR": cache}
    return measured(lambda: script("launch_study.py", *arguments, environment=environment))


def own_process(part: str, core: int = 0, **environment: str) -> Any:
    """Returns what a part of a section gives in a process of its own."""
    arguments = (f"--part={part}", f"--lanes={FLAGS.lanes}", f"--large={FLAGS.large}")
    arguments += (f"--rounds={FLAGS.rounds}", f"--core={core}")
    output = script("benchmark_studies.py", *arguments, environment=environment)
    return json.loads(output.splitlines()[-1])


def overhead() -> None:
    """Prints what a trial of one step takes, and of that, what its checkpoint does."""
    print(f"{FLAGS.trials:,} trials of one step, {FLAGS.workers} workers:")
    with tempfile.TemporaryDirectory() as directory:
        place, cache = Path(directory), f"{directory}/cache"
        warm = write_study(place / "warm.py", num_trials=2, fixed=_ONE_STEP)
        launch(warm, place / "warm", cache)
        config = write_study(place / "study.py", num_trials=FLAGS.trials, fixed=_ONE_STEP)
        before = _checkpoints_at_once()
        few = _processor_seconds(lambda: launch(warm, place / "few", cache))
        began = time.perf_counter()
        used = _processor_seconds(lambda: launch(config, place / "study", cache)) - few
        spent = time.perf_counter() - began
        after = _checkpoints_at_once()
        begun = min(p.stat().st_mtime for p in place.glob("study/trials/*/config.json"))
        ended = max(p.stat().st_mtime for p in place.glob("study/trials/*/status.json"))
    a_trial = (ended - begun) * FLAGS.workers / FLAGS.trials
    saved, saving = (statistics.mean(column) for column in zip(*before, *after, strict=True))
    print(f"  a trial takes its worker                  {duration(a_trial)}")
    print(f"  of that, a checkpoint by itself           {duration(saved)}, as many at once")
    print(f"  and all the rest                          {duration(a_trial - saved)} (goal 15 ms)")
    print(f"  before the first trial and after the last {duration(spent - (ended - begun))}")
    # This depends less on what else the machine does.
    print(
        f"  In the processor's time, the report of {FLAGS.trials:,} trials included: a trial "
        f"{duration(used / FLAGS.trials)}, a checkpoint {duration(saving)}"
    )


def _checkpoints_at_once() -> list[tuple[float, float]]:
    """Returns what `study_parts.checkpoint` gives in as many processes as a study has workers, at once."""
    with concurrent.futures.ThreadPoolExecutor(FLAGS.workers) as threads:
        return list(threads.map(lambda core: own_process("checkpoint", core), range(FLAGS.workers)))


def _processor_seconds(function: Callable[[], Any]) -> float:
    """Returns the processor's seconds of all processes that a call runs."""

    def now() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    begin = now()
    function()
    return now() - begin


def large() -> None:
    """Prints what a large study costs before its first trial, and when it is taken up again."""
    print(f"A study of {FLAGS.large:,} trials:")
    for line in own_process("large"):
        print(f"  {line}")


def _large_part() -> list[str]:
    import large_study  # with jax, which the other parts import once they have their core

    return large_study.measure(FLAGS.large)


def optuna() -> None:
    """Compares the digits study with Optuna."""
    if not importlib.util.find_spec("optuna"):
        print("Optuna is not installed, so it is left out; `pip install optuna` brings it.")
        return
    print(f"The digits study, whole command with {FLAGS.workers} workers:")
    with tempfile.TemporaryDirectory() as directory:
        cache, count = f"{directory}/cache", iter(range(1_000))
        launch(STUDY, Path(directory) / "warm", cache)

        def ours() -> float:
            return launch(STUDY, Path(directory) / str(next(count)), cache)

        def theirs() -> float:
            return measured(lambda: own_process("optuna", JAX_COMPILATION_CACHE_DIR=cache))

        theirs()
        pairs = paired(ours, theirs, FLAGS.rounds)
    show("against Optuna driving the same steps in one process", pairs, "goal below 1")


def packed() -> None:
    """Compares packed trials with the same ones after each other."""
    print(f"{FLAGS.lanes} trials of the digits MLP on one core, a step of each:")
    for batch in _BATCHES:
        pairs = own_process(f"packed_{batch}")
        show(f"packed, against one after the other, batch {batch}", pairs, "below 1 it pays")


def bare() -> None:
    """Compares the trials of the digits study with their bare steps."""
    few, many = 20, 100
    print(
        f"The digits study with {FLAGS.workers} workers, against its updates x bare step / workers:"
    )
    with tempfile.TemporaryDirectory() as directory:
        place, cache, count = Path(directory), f"{directory}/cache", iter(range(1_000))
        configs = {n: write_study(place / f"{n}.py", num_trials=n) for n in (few, many)}
        launch(configs[few], place / "warm", cache)
        updates = {0: 0}

        def study(trials: int) -> float:
            workdir = place / str(next(count))
            seconds = launch(configs[trials], workdir, cache)
            with (workdir / "study.csv").open() as table:
                updates[trials] = sum(int(row["step"]) for row in csv.DictReader(table))
            return seconds

        def bare_steps(first: int, last: int) -> float:
            step = float(script("benchmark_training.py", "--bare"))
            return step * (updates[last] - updates[first]) / FLAGS.workers

        whole = [(study(few), bare_steps(0, few)) for _ in range(FLAGS.rounds)]
        more = [(study(many) - study(few), bare_steps(few, many)) for _ in range(FLAGS.rounds)]
    show(f"{few} trials, whole command with its report", whole, "mostly imports")
    show(f"{many - few} more trials", more, "goal 1.5")


SECTIONS = {
    "overhead": overhead,
    "large": large,
    "optuna": optuna,
    "packed": packed,
    "bare": bare,
}
PARTS = {
    "checkpoint": lambda: study_parts.checkpoint(FLAGS.core),
    "large": _large_part,
    "optuna": study_parts.optuna,
    **{
        f"packed_{batch}": lambda batch=batch: study_parts.packed(batch, FLAGS.lanes, FLAGS.rounds)
        for batch in _BATCHES
    },
}


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if FLAGS.part:
        if FLAGS.part not in PARTS:
            raise unknown("part", FLAGS.part, PARTS)
        print(json.dumps(PARTS[FLAGS.part]()))
        return 0
    run_sections(FLAGS.only, SECTIONS)
    return 0


if __name__ == "__main__":
    command_line.run(main)
