#!/usr/bin/env python3
"""Kills a study's launcher and workers again and again, and compares its end with that of one left alone.

    tools/fault_study.py --workdir=/tmp/faults                              50 kills; some minutes
    tools/fault_study.py --workdir=/tmp/faults --kills=10 --trials=10 --steps=5000

SIGKILL at random moments: while it starts, while trials run, while the report is written. It hits the
launcher, a worker, all workers, or all of them; whenever the launcher is gone, the same command follows. At
the end every trial must have come to its end once, with the same bits as in an undisturbed study, and
nothing may be left over. Exits with 0 if so, 1 if not. Needs /proc.
"""

import random
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags
from study_faults import Study, disturb, draw, judge, left_alone, table, write_config

from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Where the studies are made; must not exist.")
flags.DEFINE_integer("kills", 50, "How often something is killed.", lower_bound=1)
flags.DEFINE_integer("trials", 40, "How many trials the study has.", lower_bound=1)
flags.DEFINE_integer("steps", 20_000, "How many updates each makes.", lower_bound=1)
flags.DEFINE_integer("workers", 2, "How many processes run trials.", lower_bound=1)
flags.DEFINE_integer("pack", 1, "How many trials run in one program.", lower_bound=1)
flags.DEFINE_integer("fault_seed", 0, "Of the moments and victims.")


def main(argv: Sequence[str]) -> int:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if not FLAGS.workdir or Path(FLAGS.workdir).exists():
        raise UsageError("--workdir=DIR is missing, or exists already")
    if not Path("/proc/self/task").is_dir():
        raise UsageError("this needs /proc, where the workers of a launcher are found")
    place = Path(FLAGS.workdir).resolve()
    place.mkdir(parents=True)
    config = write_config(place / "study.py", FLAGS.trials, FLAGS.steps)
    alone, starting, running = left_alone(config, place / "alone", FLAGS.workers, FLAGS.pack)
    print(f"Left alone, it starts for {starting:.1f} s and runs for {running:.1f} s.", flush=True)
    choice = random.Random(FLAGS.fault_seed)
    faults = draw(FLAGS.kills, starting, running, choice)
    killed = Study(config, place / "killed", FLAGS.workers, FLAGS.pack)
    record = disturb(killed, faults, choice)
    print(table(alone, killed, record))
    wrong = judge(alone, killed, record, FLAGS.workers * FLAGS.pack)
    print(*(wrong or ["Every bit is the same as in the study left alone."]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    command_line.run(main)
