#!/usr/bin/env python3
"""Measures the training run against the bare computation that it makes.

    benchmarks/training.py                       all of it; some minutes
    benchmarks/training.py --only=start,memory
    benchmarks/training.py --only=loop --cores=1     as in a worker of a study

loop         our training loop per step, against a bare jitted step of the same model
start        scripts/train.py from its start to its first step, against importing jax, flax and optax
checkpoints  what a checkpoint costs, as a share of the time if there is one every 5 seconds
memory       how much a run of 100,000 steps grows
"""

import functools
import os
import shutil
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

from benchmarks.benchmarking import duration, fresh, measured, paired, run_sections, show
from playbook_jax import config as config_lib
from playbook_jax.runtime import command_line

MLP = "digits_mlp"
# The steps of two runs; their difference is free of what each run costs once.
LOOPS = {MLP: (1_000, 6_000), "digits_cnn": (40, 240), "stdlib_lm": (5, 25)}
_NEVER = 10**9
_SAVES, _STEPS_A_SAVE = 10, 1_000
_SECONDS_A_SAVE = 5.0
_MEMORY_STEPS, _WARM_UP_STEPS = 100_000, 10_000

FLAGS = flags.FLAGS
flags.DEFINE_list("only", ["loop", "start", "checkpoints", "memory"], "Which sections.")
flags.DEFINE_integer("rounds", 5, "How often each thing is measured.", lower_bound=1)
flags.DEFINE_integer("cores", 0, "On how many cores, 1 as the workers of a study. 0: all.")
flags.DEFINE_bool("bare", False, "Print the seconds of a bare step on one core, and nothing else.")


def load(name: str, **overrides: Any) -> Any:
    """Returns a training config; the keys of `overrides` have `__` for a dot."""
    values = {key.replace("__", "."): value for key, value in overrides.items()}
    return config_lib.override(config_lib.load(ROOT / "configs" / f"{name}.py"), values)


def bare_loop(config: Any) -> Callable[[int], None]:
    """Returns a function that makes so many updates with nothing around them.

    The same model, loss and optimizer under `jax.jit`: hyperparameters are constants, buffers are
    donated, calls are asynchronous, and the batches lie on the device already. No records, no metrics, no
    evaluation, nothing written; clipping only where the config clips.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from playbook_jax import optimizers, schedules, workload as workload_lib

    config = config_lib.complete(config)
    workload = workload_lib.find(config.workload)(config)
    hparams = dict(config.hparams)
    schedule = schedules.make_schedule(config.schedule, hparams, config.max_train_steps)
    optimizer = optimizers.make_optimizer(config.optimizer, hparams, schedule)
    if hparams["clip_norm"]:
        optimizer = optax.chain(optax.clip_by_global_norm(hparams["clip_norm"]), optimizer)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, batch: Any) -> Any:
        number, params, batch_stats, opt_state, key = state
        rngs = {name: jax.random.fold_in(key, number) for name in ("dropout", "augment")}

        def mean_loss(params: Any) -> Any:
            variables = {"params": params, "batch_stats": batch_stats}
            outputs, new_stats = workload.apply(variables, batch, hparams, rngs, train=True)
            numerator, denominator = workload.loss(outputs, batch, hparams)
            return numerator.sum() / denominator.sum(), new_stats

        gradients, batch_stats = jax.grad(mean_loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return number + 1, optax.apply_updates(params, updates), batch_stats, opt_state, key

    train, size = workload.splits()["train"], config.batch_size
    count = min(len(next(iter(train.values()))) // size, 50)
    batches = jax.device_put(
        [{k: x[i * size : (i + 1) * size] for k, x in train.items()} for i in range(count)]
    )
    key = jax.random.key(0)
    variables = workload.init(key)
    state = (
        jnp.int32(0),
        variables["params"],
        variables.get("batch_stats", {}),
        optimizer.init(variables["params"]),
        key,
    )
    state = jax.tree.map(jnp.copy, state)  # no two of them one buffer, which could not be donated

    def run(steps: int) -> None:
        nonlocal state
        for number in range(steps):
            state = step(state, batches[number % count])
        jax.block_until_ready(state)

    run(5)
    return run


def our_loop(config: Any) -> Callable[[int], None]:
    """Returns a function that trains for so many steps, from a config to a finished trial directory."""
    from playbook_jax.training import loop as loop_lib

    def run(steps: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            status = loop_lib.train(
                config_lib.override(config, {"max_train_steps": steps}), directory
            )
        if status["state"] != "COMPLETE":
            raise RuntimeError(f"the run that was to be timed ended {status}")

    run(5)
    return run


def per_step(run: Callable[[int], None], steps: tuple[int, int]) -> float:
    """Returns the seconds of one step, from the difference of a long run and a short one."""
    short, long = (measured(lambda number=number: run(number)) for number in steps)
    return (long - short) / (steps[1] - steps[0])


def loop() -> None:
    """Compares our training loop with bare steps."""
    print("A training step, against a bare jitted step of the same model:")
    for name, steps in LOOPS.items():
        bare = bare_loop(load(name))
        quiet = load(name, eval_every_steps=_NEVER, checkpoint__every_steps=_NEVER)
        what = f"{name}: with records, divergence check, input"
        for text, config in ((what, quiet), ("  and its evaluations and checkpoints", load(name))):
            ours = our_loop(config)
            goal = "goal 1.0" if name == MLP else "goal 1.02"
            pairs = paired(
                lambda run=ours, steps=steps: per_step(run, steps),
                lambda run=bare, steps=steps: per_step(run, steps),
                FLAGS.rounds,
            )
            show(text, pairs, goal if config is quiet else "more work than the bare step's")


def start() -> None:
    """Compares the time until the first step is on disk with that of the imports alone."""
    print("scripts/train.py --config=configs/digits_mlp.py, with a warm compilation cache:")
    with tempfile.TemporaryDirectory() as directory:
        workdir = Path(directory) / "run"
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), f"--workdir={workdir}"]
        command += [f"--config={ROOT}/configs/{MLP}.py", "--config.log_every_steps=1"]

        def until_the_first_step() -> float:
            shutil.rmtree(workdir, ignore_errors=True)
            began = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            records = workdir / "steps.f32"
            while process.poll() is None and not (records.exists() and records.stat().st_size):
                time.sleep(0.001)
            seconds = time.perf_counter() - began
            process.kill()
            process.wait()
            return seconds

        until_the_first_step()
        libraries = ["-c", "import jax, flax, optax"]
        pairs = paired(
            until_the_first_step, lambda: measured(lambda: fresh(libraries, {})), FLAGS.rounds
        )
    show("to the first step, against import jax, flax, optax", pairs, "goal 1.5 s")


def checkpoints() -> None:
    """Prints what a checkpoint costs, from runs with many and with one."""
    print(f"Checkpoints of {MLP}:")
    steps = _SAVES * _STEPS_A_SAVE
    many = our_loop(load(MLP, eval_every_steps=_NEVER, checkpoint__every_steps=_STEPS_A_SAVE))
    one = our_loop(load(MLP, eval_every_steps=_NEVER, checkpoint__every_steps=_NEVER))
    pairs = paired(
        lambda: measured(lambda: many(steps)), lambda: measured(lambda: one(steps)), FLAGS.rounds
    )
    extra = statistics.median(ours - theirs for ours, theirs in pairs) / (_SAVES - 1)
    share = extra / _SECONDS_A_SAVE
    print(
        f"  one costs {duration(max(extra, 0))}: {share:.1%} of the time if there is one every "
        f"{_SECONDS_A_SAVE:g} s (goal 2 %)"
    )


def memory() -> None:
    """Prints how much a long run grows."""
    from playbook_jax.training import loop as loop_lib

    resident: dict[int, float] = {}

    def watch(done: int, total: int, text: str) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident[done] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    with tempfile.TemporaryDirectory() as directory:
        loop_lib.train(load(MLP, max_train_steps=_MEMORY_STEPS), directory, progress=watch)
    warm = next(size for done, size in resident.items() if done >= _WARM_UP_STEPS)
    growth = list(resident.values())[-1] - warm
    print(
        f"Memory: {_MEMORY_STEPS:,} steps of {MLP} grow by {growth:.1f} MiB after the first "
        f"{_WARM_UP_STEPS:,}, to {warm + growth:,.0f} MiB (goal 20)"
    )


def keep_to(cores: int) -> None:
    """Keeps this process to so many cores; to be called before jax counts them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def bare() -> None:
    """Prints the seconds of a bare step in a process on one core, as a worker has."""
    keep_to(1)
    run = bare_loop(load(MLP))
    print(statistics.median(per_step(run, LOOPS[MLP]) for _ in range(3)))


SECTIONS = {"loop": loop, "start": start, "checkpoints": checkpoints, "memory": memory}


def main(argv: list[str]) -> int:
    del argv
    if FLAGS.bare:
        bare()
        return 0
    if FLAGS.cores:
        keep_to(FLAGS.cores)
    run_sections(FLAGS.only, SECTIONS)
    return 0


if __name__ == "__main__":
    command_line.run(main)
