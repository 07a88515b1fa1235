#!/usr/bin/env python3
"""Measures the program against what it is built to be near, or to be far ahead of.

    scripts/benchmark.py                                     all of it; some minutes
    scripts/benchmark.py --only=loop,import                  without the study; under a minute
    scripts/benchmark.py --only=study --baseline_trials=4    the baseline's time scaled from 4 trials

loop     our training loop per step, against a bare jitted step of the same model
study    the digits study as a whole command, against scripts/baseline_study.py, and against the time
         that its bare steps alone would take
import   our imports and --help, against importing jax, flax and optax

Everything is a ratio of things measured in turn within one run, in alternating order, with medians and
the range; absolute times depend on the machine and on whatever else it does. Lower is better.
"""

import csv
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import flags

from playbook_jax import command_line, config as config_lib
from playbook_jax.errors import UsageError, unknown

SECTIONS = ("loop", "study", "import")
MLP = ROOT / "configs" / "digits_mlp.py"
STUDY = ROOT / "configs" / "studies" / "digits_mlp.py"
_SHORT, _LONG = (
    1_000,
    6_000,
)  # steps of two runs; their difference is free of what each run costs once
_LIBRARIES = "import jax, flax, optax"
_ONE_BY_ONE = 4  # trials of the baseline without parallelism; 20 would take minutes

FLAGS = flags.FLAGS
flags.DEFINE_list("only", list(SECTIONS), f"Which sections: {', '.join(SECTIONS)}.")
flags.DEFINE_integer("rounds", 5, "How often each thing is measured.")
flags.DEFINE_integer("study_rounds", 3, "How often the studies are; each takes minutes.")
flags.DEFINE_integer("baseline_trials", 0, "Of how many trials to scale the baseline. 0: run all.")
flags.DEFINE_integer("workers", 2, "How many processes of a study run at a time.")
flags.DEFINE_bool("bare", False, "Print the seconds of a bare step on one core, and nothing else.")


def measured(function: Callable[[], Any]) -> float:
    """Returns the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def paired(
    ours: Callable[[], float], theirs: Callable[[], float], rounds: int
) -> list[tuple[float, float]]:
    """Returns the seconds of both in each round; they take turns at going first."""
    pairs = []
    for number in range(rounds):
        first, second = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        seconds = first(), second()
        pairs.append(seconds if number % 2 == 0 else seconds[::-1])
    return pairs


def show(what: str, pairs: list[tuple[float, float]], goal: str, factor: float = 1.0) -> None:
    """Prints the median ratio ours / (theirs · factor), with its range, and both medians."""
    ratios = sorted(ours / (theirs * factor) for ours, theirs in pairs)
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"  {what:<58} {_number(statistics.median(ratios))}  "
        f"({_number(ratios[0])} to {_number(ratios[-1])}; "
        f"{_duration(ours)} against {_duration(theirs * factor)}; {goal})"
    )


def _number(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"1/{1 / ratio:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


# The training loop.


def bare_loop(config: Any) -> Callable[[int], None]:
    """Returns a function that makes so many updates with nothing around them.

    The same model, loss and optimizer under `jax.jit`: hyperparameters are constants, buffers are
    donated, calls are asynchronous, and the batches lie on the device already. No clipping, no records,
    no metrics, no random numbers, nothing written.
    """
    import jax
    import optax

    from playbook_jax import workload as workload_lib

    workload = workload_lib.find(config.workload)(config)
    hparams = dict(config.hparams)
    optimizer = optax.chain(
        optax.add_decayed_weights(
            config.hparams.weight_decay, lambda p: jax.tree.map(_is_matrix, p)
        ),
        optax.sgd(
            optax.cosine_decay_schedule(config.hparams.learning_rate, config.max_train_steps),
            momentum=config.hparams.momentum,
            nesterov=True,
        ),
    )
    key = jax.random.key(0)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state

        def mean_loss(params: Any) -> Any:
            rngs = {"dropout": key}
            outputs, _ = workload.apply({"params": params}, batch, hparams, rngs, train=True)
            numerator, denominator = workload.loss(outputs, batch, hparams)
            return numerator.sum() / denominator.sum()

        gradients = jax.grad(mean_loss)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    train, size = workload.splits()["train"], config.batch_size
    count = len(train["label"]) // size
    batches = jax.device_put(
        [{k: x[i * size : (i + 1) * size] for k, x in train.items()} for i in range(count)]
    )
    params = workload.init(key)["params"]
    state = (params, optimizer.init(params))

    def run(steps: int) -> None:
        nonlocal state
        for number in range(steps):
            state = step(state, batches[number % count])
        jax.block_until_ready(state)

    run(100)
    return run


def _is_matrix(x: Any) -> bool:
    return x.ndim > 1


def our_loop(config: Any) -> Callable[[int], None]:
    """Returns a function that trains for so many steps, from a config to a finished trial directory."""
    from playbook_jax import train

    def run(steps: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            status = train.train(config_lib.override(config, {"max_train_steps": steps}), directory)
        if status["state"] != "COMPLETE":
            raise RuntimeError(f"the run that was to be timed ended {status}")

    run(_SHORT)
    return run


def per_step(run: Callable[[int], None]) -> float:
    """Returns the seconds of one step, from the difference of a long run and a short one."""
    short, long = measured(lambda: run(_SHORT)), measured(lambda: run(_LONG))
    return (long - short) / (_LONG - _SHORT)


def loop() -> None:
    """Compares our training loop with bare steps."""
    config = config_lib.load(MLP)
    bare = bare_loop(config)
    print(f"A training step of {MLP.relative_to(ROOT)}, against a bare jitted step:")
    quiet = {"eval_every_steps": 10**9, "checkpoint.every_steps": 10**9}
    for what, overrides, goal in (
        ("the loop with its records, divergence check and input", quiet, "goal 1.1"),
        ("and the config's evaluations and checkpoints", {}, "more work than the bare step's"),
    ):
        ours = our_loop(config_lib.override(config, overrides))
        pairs = paired(lambda run=ours: per_step(run), lambda: per_step(bare), FLAGS.rounds)
        show(what, pairs, goal)


# The study.


def script(name: str, *arguments: Any, environment: dict[str, str] | None = None) -> str:
    """Runs one of our scripts in a fresh process and returns what it prints."""
    return fresh([str(ROOT / "scripts" / name), *map(str, arguments)], environment or {})


def fresh(arguments: list[str], environment: dict[str, str]) -> str:
    """Runs Python in a fresh process; it keeps its .pyc files, as it does on a user's machine."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [sys.executable, *arguments],
        env=environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"{arguments} ended with {result.returncode}:\n{result.stderr[-2000:]}")
    return result.stdout


def our_study(cache: str) -> tuple[float, int]:
    """Returns the seconds of the digits study, report included, and the updates that it made."""
    with tempfile.TemporaryDirectory() as directory:
        seconds = measured(
            lambda: script(
                "launch_study.py",
                f"--config={STUDY}",
                f"--workdir={directory}/study",
                f"--workers={FLAGS.workers}",
                environment={"JAX_COMPILATION_CACHE_DIR": cache},
            )
        )
        with (Path(directory) / "study" / "study.csv").open() as table:
            return seconds, sum(int(row["step"]) for row in csv.DictReader(table))


def baseline_study(trials: int, steps: int, workers: int) -> float:
    """Returns the seconds of the baseline with so many trials, so many at a time."""
    with tempfile.TemporaryDirectory() as directory:
        return measured(
            lambda: script(
                "baseline_study.py",
                f"--workdir={directory}",
                f"--trials={trials}",
                f"--steps={steps}",
                f"--workers={workers}",
            )
        )


def study() -> None:
    """Compares the digits study with the baseline, and with its bare steps."""
    from playbook_jax.studies import specification

    loaded = specification.load(STUDY)
    trials, steps = loaded.num_trials, config_lib.total_steps(loaded.base_config)
    measured_trials = FLAGS.baseline_trials or trials
    print(
        f"A study of {trials} trials x {steps:,} steps with {FLAGS.workers} workers, whole command:"
    )
    with tempfile.TemporaryDirectory() as cache:
        cold, updates = our_study(cache)
        pairs = paired(
            lambda: our_study(cache)[0],
            lambda: baseline_study(measured_trials, steps, FLAGS.workers),
            FLAGS.study_rounds,
        )
        one_by_one = paired(
            lambda: our_study(cache)[0], lambda: baseline_study(_ONE_BY_ONE, steps, 1), 1
        )
        ideal = paired(
            lambda: our_study(cache)[0],
            lambda: float(script("benchmark.py", "--bare")) * updates / FLAGS.workers,
            FLAGS.study_rounds,
        )
    scaled = trials / measured_trials
    how = "" if scaled == 1 else f", scaled from {measured_trials} trials"
    show(f"against the baseline, as many at a time{how}", pairs, "goal 1/40", scaled)
    show(
        f"  its trials one after the other, scaled from {_ONE_BY_ONE}",
        one_by_one,
        "as a shell loop does",
        trials / _ONE_BY_ONE,
    )
    baseline = statistics.median(theirs for _, theirs in pairs)
    show("  its first time, with nothing compiled before", [(cold, baseline)], "once", scaled)
    show("against its updates x bare step / workers", ideal, "no more than a bound")
    print(
        f"  It made {updates:,} updates: trials that diverge end there. The baseline makes all "
        f"{trials * steps:,}."
    )


def bare() -> None:
    """Prints the seconds of a bare step in a process on one core, as a worker has."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # before jax counts them
    run = bare_loop(config_lib.load(MLP))
    print(statistics.median(per_step(run) for _ in range(3)))


# Imports.


def imports() -> None:
    """Compares imports in fresh processes with that of the libraries the training needs."""
    print(f"Fresh processes, against `{_LIBRARIES}`:")
    help_goal = "goal 1.5"
    for what, arguments, goal in (
        ("import playbook_jax", ["-c", "import playbook_jax"], "goal 1.3"),
        ("import playbook_jax.train", ["-c", "import playbook_jax.train"], "goal 1.3"),
        ("scripts/train.py --help", [str(ROOT / "scripts/train.py"), "--help"], help_goal),
        (
            "scripts/launch_study.py --help",
            [str(ROOT / "scripts/launch_study.py"), "--help"],
            help_goal,
        ),
    ):
        fresh(arguments, {})
        fresh(["-c", _LIBRARIES], {})
        pairs = paired(
            lambda arguments=arguments: measured(lambda: fresh(arguments, {})),
            lambda: measured(lambda: fresh(["-c", _LIBRARIES], {})),
            FLAGS.rounds,
        )
        show(what, pairs, goal)


def main(argv: list[str]) -> int:
    del argv
    for name in FLAGS.only:
        if name not in SECTIONS:
            raise unknown("section", name, SECTIONS)
    if min(FLAGS.rounds, FLAGS.study_rounds, FLAGS.workers) < 1 or FLAGS.baseline_trials < 0:
        raise UsageError("--rounds, --study_rounds and --workers must each be at least 1")
    if FLAGS.bare:
        bare()
        return 0
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    print(f"{os.cpu_count()} cores{load}; ratios are medians of paired runs in alternating order")
    for name, section in (("loop", loop), ("study", study), ("import", imports)):
        if name in FLAGS.only:
            section()
    return 0


if __name__ == "__main__":
    command_line.run(main)
