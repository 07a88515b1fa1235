#!/usr/bin/env python3
"""Measures studies and imports against what they are built to be far ahead of, or near to.

    benchmarks/benchmark.py                                     all of it; some minutes
    benchmarks/benchmark.py --only=import                       under a minute
    benchmarks/benchmark.py --only=study --baseline_trials=4    the baseline's time scaled from 4 trials

study    the digits study as a whole command, against benchmarks/baseline_study.py, and against the time
         that its bare steps alone would take
import   our imports and --help, against importing jax, flax and optax

`benchmarks/training.py` has the training loop.
"""

import csv
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import flags

from benchmarks.benchmarking import fresh, measured, paired, run_sections, script, show
from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line

STUDY = ROOT / "configs" / "studies" / "digits_mlp.py"
_LIBRARIES = "import jax, flax, optax"
_ONE_BY_ONE = 4  # trials of the baseline without parallelism; 20 would take minutes

FLAGS = flags.FLAGS
flags.DEFINE_list("only", ["study", "import"], "Which sections.")
flags.DEFINE_integer("rounds", 5, "How often each thing is measured.")
flags.DEFINE_integer("study_rounds", 3, "How often the studies are; each takes minutes.")
flags.DEFINE_integer("baseline_trials", 0, "Of how many trials to scale the baseline. 0: run all.")
flags.DEFINE_integer("workers", 2, "How many processes of a study run at a time.")


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
            lambda: float(script("benchmark_training.py", "--bare")) * updates / FLAGS.workers,
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
    show("  our first time, with nothing compiled before", [(cold, baseline)], "once", scaled)
    show("against its updates x bare step / workers", ideal, "no more than a bound")
    print(
        f"  It made {updates:,} updates: trials that diverge end there. The baseline makes all "
        f"{trials * steps:,}."
    )


def imports() -> None:
    """Compares imports in fresh processes with that of the libraries the training needs."""
    print(f"Fresh processes, against `{_LIBRARIES}`:")
    train, launch = str(ROOT / "scripts/train.py"), str(ROOT / "scripts/launch_study.py")
    for what, arguments, goal in (
        ("import playbook_jax", ["-c", "import playbook_jax"], "goal 1.3"),
        ("import playbook_jax.train", ["-c", "import playbook_jax.train"], "goal 1.3"),
        ("scripts/train.py --help", [train, "--help"], "goal 1.5"),
        ("scripts/launch_study.py --help", [launch, "--help"], "goal 1.5"),
    ):
        fresh(arguments, {})
        fresh(["-c", _LIBRARIES], {})
        pairs = paired(
            lambda arguments=arguments: measured(lambda: fresh(arguments, {})),
            lambda: measured(lambda: fresh(["-c", _LIBRARIES], {})),
            FLAGS.rounds,
        )
        show(what, pairs, goal)


SECTIONS = {"study": study, "import": imports}


def main(argv: list[str]) -> int:
    del argv
    if min(FLAGS.rounds, FLAGS.study_rounds, FLAGS.workers) < 1 or FLAGS.baseline_trials < 0:
        raise UsageError("--rounds, --study_rounds and --workers must each be at least 1")
    run_sections(FLAGS.only, SECTIONS)
    return 0


if __name__ == "__main__":
    command_line.run(main)
