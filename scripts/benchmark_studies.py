#!/usr/bin/env python3
"""Measures what studies cost beside the training that they are for.

    scripts/benchmark_studies.py                             all of it; some ten minutes
    scripts/benchmark_studies.py --only=overhead,large       a few minutes
    pip install optuna; scripts/benchmark_studies.py --only=optuna

overhead  a study of many trials of one step: what a trial takes beside its one checkpoint
large     a study of 10,000 trials, written and read, against the bare JSON of it
optuna    the digits study, whole command, against Optuna driving the same compiled steps in one process
packed    several trials in one program, against one after the other, for batches of 8 and of 128
bare      more trials of the digits study, against their bare steps / workers

`scripts/benchmark.py` has the whole digits study against what most people write today.
"""

import concurrent.futures
import csv
import importlib.util
import json
import os
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
from benchmarking import duration, measured, paired, say_where, script, show

from playbook_jax import command_line, config as config_lib, trial
from playbook_jax.errors import UsageError, unknown

STUDY = ROOT / "configs" / "studies" / "digits_mlp.py"
_ONE_STEP = {
    "max_train_steps": 1,
    "eval_every_steps": 1,
    "log_every_steps": 1,
    "steps_per_call": 1,
    "checkpoint.every_steps": 1,
}
_SAVES = 50
_BATCHES = (8, 128)
_PACKED_STEPS = (500, 2_500)  # of two runs; their difference is free of what each costs once

FLAGS = flags.FLAGS
flags.DEFINE_list("only", ["overhead", "large", "optuna", "packed", "bare"], "Which sections.")
flags.DEFINE_integer("rounds", 3, "How often each thing is measured.", lower_bound=1)
flags.DEFINE_integer("workers", 2, "How many processes of a study run at a time.", lower_bound=1)
flags.DEFINE_integer("trials", 1_000, "Of the study of one step.", lower_bound=2)
flags.DEFINE_integer("large", 10_000, "How many trials a large study has.", lower_bound=1)
flags.DEFINE_integer("lanes", 8, "How many trials are packed.", lower_bound=2)
flags.DEFINE_integer("core", 0, "Of a part, which core it keeps to.", lower_bound=0)
flags.DEFINE_string("part", None, "Of a section, what runs in a process of its own; prints JSON.")


def write_study(path: Path, **changes: Any) -> Path:
    """Writes the digits study with some keys of its config changed."""
    path.write_text(
        "from playbook_jax import config\n\n\ndef get_config():\n"
        f"    study = config.load_python({str(STUDY)!r}).copy_and_resolve_references()\n"
        f"    study.unlock().update({changes!r})\n"
        "    return study\n"
    )
    return path


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


def keep_to_one_core() -> None:
    """Gives this process one core, as a worker has; to be called before jax counts them."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[FLAGS.core % len(cores)]})


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
    """Returns what `checkpoint_part` gives in as many processes as a study has workers, at once."""
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


def checkpoint_part() -> tuple[float, float]:
    """Returns the seconds of a trial's one checkpoint, on the clock and of the processor.

    It is opened, saved, awaited and closed, as a trial does.
    """
    keep_to_one_core()
    from playbook_jax import checkpoints, compilation_cache, parallel, program

    compilation_cache.enable()
    config = config_lib.complete(config_lib.load(ROOT / "configs" / "digits_mlp.py"))
    state = parallel.first(program.get(config).init(0))
    clocks = time.perf_counter, time.process_time
    with tempfile.TemporaryDirectory() as directory:
        for number in range(-_SAVES // 10, _SAVES):
            if number == 0:  # the first ones are slower
                began = [now() for now in clocks]
            place = f"{directory}/{number}"
            with checkpoints.Checkpoints(place, keep_best=1, mode="min") as saved:
                saved.offer(checkpoints.Candidate(1, 0.5, state))
                saved.save(1, state)
                saved.prune()
    return tuple((now() - then) / _SAVES for now, then in zip(clocks, began, strict=True))


def large() -> None:
    """Prints what a large study costs before its first trial, and when it is taken up again."""
    print(f"A study of {FLAGS.large:,} trials:")
    for line in own_process("large"):
        print(f"  {line}")


def large_part() -> list[str]:
    """Writes and reads a large study, each step against what it can't do without."""
    from playbook_jax import train
    from playbook_jax.studies import design, directory, ledger, specification as specification_lib

    count = FLAGS.large
    lines = []

    def note(what: str, seconds: float, bare: float | None = None, of: str = "") -> None:
        ratio = "" if bare is None else f", {seconds / bare:.1f} times {of} ({duration(bare)})"
        lines.append(f"{what:<44} {duration(seconds)}{ratio}")

    with tempfile.TemporaryDirectory() as place:
        config = write_study(Path(place) / "study.py", num_trials=count)
        specification = specification_lib.load(config)
        study = directory.StudyDirectory(Path(place) / "study")
        trials: list[dict[str, Any]] = []

        def sample() -> None:
            points = design.points(specification, [])
            trials[:] = [{"trial": t, "parameters": p} for t, p in enumerate(points)]

        note("points", measured(sample))
        _checked(train, specification, trials[0])  # reads the data
        few = trials[: max(1, count // 20)]
        seconds = measured(lambda: [_checked(train, specification, row) for row in few])
        note("every config checked", seconds * count / len(few))
        write = measured(lambda: study.write(specification, trials))
        path = study.path / "study.json"
        stored = json.loads(path.read_text())
        bare = measured(lambda: (Path(place) / "copy").write_text(json.dumps(stored, indent=1)))
        note("study.json written", write, bare, "the same JSON")

        statuses = {row["trial"]: _ended(row["trial"]) for row in trials}
        for number in statuses:
            study.trial_directory(number).mkdir(parents=True)

        def write_statuses() -> None:
            for number, status in statuses.items():
                trial.write_json(study.trial_directory(number) / "status.json", status)

        def bare_statuses() -> None:
            for number, status in statuses.items():
                (study.trial_directory(number) / "copy").write_text(json.dumps(status))

        bare = measured(bare_statuses)
        note("a status for each trial", measured(write_statuses), bare, "the same JSON")
        table = measured(lambda: study.write_table(trials, statuses))
        note("study.csv", table)

        def resume() -> None:
            rows = study.stored_trials(specification_lib.load(config))
            for row in rows:
                study.status(row["trial"])

        def bare_resume() -> None:
            json.loads(path.read_text())
            for number in statuses:
                json.loads((study.trial_directory(number) / "status.json").read_text())

        note("taken up again", measured(resume), measured(bare_resume), "reading the same files")
        note("the ledger's row", measured(lambda: ledger.entry(ledger.read(study.path))))
        study.release()
    return lines


def _checked(train: Any, specification: Any, row: dict[str, Any]) -> None:
    from playbook_jax.studies import specification as specification_lib

    base, vary_seed = specification.base_config, specification.vary_seed
    train.validate(specification_lib.trial_config(base, row["trial"], row["parameters"], vary_seed))


def _ended(number: int) -> dict[str, Any]:
    status = trial.new_status(trial.COMPLETE, step=1_000)
    return status | {"best_step": 500, "objective": number * 1e-5}


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


def optuna_part() -> int:
    """Runs the trials of the digits study under Optuna, and returns how many it completed.

    The compiled steps and evaluations are the study's own. Nothing is written: no records, no
    checkpoints, no report.
    """
    import optuna as library

    from playbook_jax import compilation_cache, profiling, program, train
    from playbook_jax.studies import specification as specification_lib

    compilation_cache.enable()
    library.logging.set_verbosity(library.logging.WARNING)
    specification = specification_lib.load(STUDY)
    base = train.validate(specification.base_config)
    compiled = program.get(base)

    def objective(suggest: library.Trial) -> float:
        values = {
            "hparams.learning_rate": suggest.suggest_float("rate", 1e-2, 100.0, log=True),
            "hparams.momentum": 1 - suggest.suggest_float("momentum", 1e-2, 0.5, log=True),
            "hparams.weight_decay": suggest.suggest_float("decay", 1e-6, 1e-2, log=True),
            "hparams.clip_norm": suggest.suggest_float("clip", 0.1, 10.0, log=True),
        }
        recorder = _Silent(config_lib.override(base, values))
        run = train.Run(compiled, {0: recorder}, None, profiling.Profiler())
        run.to_the_end(lambda: False)
        if recorder.diverged:
            raise library.TrialPruned
        return min(recorder.values)

    study = library.create_study(sampler=library.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=specification.num_trials)
    return len(study.get_trials(states=[library.trial.TrialState.COMPLETE]))


class _Silent:
    """Stands in for a `recorder.Recorder` where nothing is to be written."""

    def __init__(self, config: Any) -> None:
        from playbook_jax import train_step

        self.config, self.hparams = config, train_step.cast_hparams(config.hparams)
        self.directory, self.total = Path(), config_lib.total_steps(config)
        self.step, self.status = 0, None
        self.diverged, self.values = False, []

    def begin(self, program: Any, fresh: Any) -> None:
        """Begins at step 0."""

    def started(self, clock: Any, command: Any, packing: Any) -> None:
        """Is of no interest."""

    def read(self, left: Any) -> None:
        """Keeps the objective, and ends the trial where it is bad, or over."""
        self.step, self.diverged = left.end, left.bad_step >= 0
        if left.evaluations:
            numerator, denominator = left.evaluations[self.config.checkpoint.metric]
            self.values.append(float(numerator / denominator))
        if self.diverged or self.step == self.total:
            self.status = {}


def packed() -> None:
    """Compares packed trials with the same ones after each other."""
    print(f"{FLAGS.lanes} trials of the digits MLP on one core, a step of each:")
    for batch in _BATCHES:
        pairs = own_process(f"packed_{batch}")
        show(f"packed, against one after the other, batch {batch}", pairs, "below 1 it pays")


def packed_part(batch: int) -> list[tuple[float, float]]:
    """Returns pairs of seconds: a step of all trials packed, and of all one after the other."""
    keep_to_one_core()
    from playbook_jax import compilation_cache, packing, train

    compilation_cache.enable()
    quiet = dict.fromkeys(("eval_every_steps", "checkpoint.every_steps"), 10**9)
    base = config_lib.load(ROOT / "configs" / "digits_mlp.py")

    def configs(steps: int) -> list[Any]:
        values = quiet | {"batch_size": batch, "max_train_steps": steps}
        return [
            config_lib.override(base, values | {"hparams.learning_rate": 0.01 * (1 + lane)})
            for lane in range(FLAGS.lanes)
        ]

    def together(steps: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            _complete(
                packing.train(
                    [packing.Lane(c, f"{directory}/{i}") for i, c in enumerate(configs(steps))]
                )
            )

    def one_by_one(steps: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            _complete([train.train(c, f"{directory}/{i}") for i, c in enumerate(configs(steps))])

    def per_step(run: Callable[[int], None]) -> float:
        short, long = (measured(lambda n=n: run(n)) for n in _PACKED_STEPS)
        return (long - short) / (_PACKED_STEPS[1] - _PACKED_STEPS[0])

    for run in (together, one_by_one):
        run(10)
    return paired(lambda: per_step(together), lambda: per_step(one_by_one), FLAGS.rounds)


def _complete(statuses: list[dict[str, Any]]) -> None:
    for status in statuses:
        if status["state"] != trial.COMPLETE:
            raise RuntimeError(f"a run that was to be timed ended {status}")


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
    "checkpoint": checkpoint_part,
    "large": large_part,
    "optuna": optuna_part,
    **{f"packed_{batch}": lambda batch=batch: packed_part(batch) for batch in _BATCHES},
}


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if FLAGS.part:
        if FLAGS.part not in PARTS:
            raise unknown("part", FLAGS.part, PARTS)
        print(json.dumps(PARTS[FLAGS.part]()))
        return 0
    for name in FLAGS.only:
        if name not in SECTIONS:
            raise unknown("section", name, SECTIONS)
    say_where()
    for name in FLAGS.only:
        SECTIONS[name]()
    return 0


if __name__ == "__main__":
    command_line.run(main)
