#!/usr/bin/env python3
"""The sweep that most people write today, kept as the yardstick of `benchmarks/benchmark.py`.

    benchmarks/baseline_study.py --workdir=/tmp/baseline --trials=20 --steps=1000 --workers=2

A fresh process for each trial (`benchmarks/baseline_trial.py`), which imports TensorFlow, clu and tfds
and compiles for itself; no compilation cache. The model and the batch size are those of
configs/digits_mlp.py, the hyperparameters those that the digits study varies, drawn at random.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from absl import flags

from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Where the trials' directories go.")
flags.DEFINE_integer("trials", 20, "How many trials.")
flags.DEFINE_integer("steps", 1_000, "How many updates each trial makes.")
flags.DEFINE_integer("workers", 2, "How many processes run at a time.")


def hyperparameters(trial: int) -> dict[str, float]:
    """Returns the trial's hyperparameters, drawn uniformly or log-uniformly."""
    rng = np.random.default_rng((0, trial))
    return {
        "learning_rate": 10 ** rng.uniform(-3, 0.5),
        "momentum": 1 - 10 ** rng.uniform(-3, -0.5),
        "weight_decay": 10 ** rng.uniform(-6, -2),
        "clip_norm": 10 ** rng.uniform(-1, 1),
    }


def start(trial: int) -> subprocess.Popen:
    """Starts the process of one trial, its output in a file beside its events."""
    config = config_lib.load_python(ROOT / "configs" / "digits_mlp.py")
    directory = Path(FLAGS.workdir).resolve() / f"{trial:03d}"
    directory.mkdir(parents=True, exist_ok=True)
    arguments = {
        "workdir": directory,
        "steps": FLAGS.steps,
        "batch_size": config.batch_size,
        "hidden_sizes": ",".join(str(size) for size in config.model.hidden_sizes),
        **hyperparameters(trial),
    }
    command = [sys.executable, ROOT / "scripts" / "baseline_trial.py"]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    environment = {
        key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key
    }
    with (directory / "log.txt").open("w") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def main(argv: list[str]) -> int:
    del argv
    if not FLAGS.workdir:
        raise UsageError("--workdir=DIR is missing")
    if min(FLAGS.trials, FLAGS.steps, FLAGS.workers) < 1:
        raise UsageError("--trials, --steps and --workers must each be at least 1")
    began = time.monotonic()
    waiting = list(range(FLAGS.trials))
    running: dict[int, subprocess.Popen] = {}
    failed: list[int] = []
    while waiting or running:
        while waiting and len(running) < FLAGS.workers:
            trial = waiting.pop(0)
            running[trial] = start(trial)
        for trial in [trial for trial, process in running.items() if process.poll() is not None]:
            if running.pop(trial).returncode:
                failed.append(trial)
        time.sleep(0.02)
    seconds = time.monotonic() - began
    print(
        f"{FLAGS.trials} trials x {FLAGS.steps} steps, {FLAGS.workers} at a time: {seconds:.1f} s"
    )
    if failed:
        print(f"failed: {failed}; see log.txt in their directories", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    command_line.run(main)
