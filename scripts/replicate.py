#!/usr/bin/env python3
"""Runs the best trial of a study again with other seeds, and says whether to adopt it.

    scripts/replicate.py --study=/tmp/study --baseline=configs/digits_mlp.py --workdir=/tmp/replicates
    scripts/replicate.py --study=/tmp/study --vary=nothing --replicates=3 --workdir=/tmp/repeats

--baseline is a training config, a trial, a study (its best trial), or the --workdir of earlier replicates,
which are not run again; without it, only the trial variance of the candidate is measured. The same command
goes on where it was stopped, and a larger --replicates adds more. Writes adoption.json and the page
adoption.html into the workdir, and into the study where the replicates are: its report, written anew, shows
how far runs of one configuration differ.
Exit codes: those of scripts/launch_study.py.
"""

import math
import shlex
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line

FLAGS = flags.FLAGS
flags.DEFINE_string("study", None, "The directory of the study that the candidate is a trial of.")
flags.DEFINE_string("trial", "best", "Which trial of it: a number, or 'best'.")
flags.DEFINE_string(
    "baseline", None, "What it would replace: a config, a trial, a study, replicates."
)
flags.DEFINE_string("workdir", None, "Where the replicates go: made if missing, continued if not.")
flags.DEFINE_integer("replicates", 10, "How many runs of each side.")
flags.DEFINE_string(
    "vary",
    "seed",
    "What differs between them: seed (all that is drawn), initialization, data or dropout alone, or "
    "nothing (arithmetic alone).",
)
flags.DEFINE_float(
    "worth",
    0.0,
    "The smallest improvement that is worth having, in the objective's own units. 0: one trial "
    "standard deviation.",
)
flags.DEFINE_integer(
    "validation_examples", 0, "How many the objective is a count of. 0: the data tells, if it can."
)
flags.DEFINE_bool("compare", False, "Run nothing: weigh what is there so far.")
flags.DEFINE_integer(
    "workers", 0, "How many processes run trials, 0 for one a core. On an accelerator, take 1."
)
flags.DEFINE_bool("retry_failed", False, "Run the replicates that FAILED again; the others stay.")


def check_flags(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if not FLAGS.workdir:
        raise UsageError("--workdir=DIR is missing")
    if not FLAGS.study and not FLAGS.compare:
        raise UsageError("--study=DIR is missing: the --workdir of scripts/launch_study.py")
    if FLAGS.replicates < 2:
        raise UsageError(f"--replicates={FLAGS.replicates}: one run shows no variance; at least 2")
    if not 0 <= FLAGS.worth < math.inf:
        raise UsageError(f"--worth={FLAGS.worth:g} must not be negative")
    for name in ("workers", "validation_examples"):
        if FLAGS[name].value < 0:
            raise UsageError(f"--{name}={FLAGS[name].value} must not be negative")


def run() -> int:
    from playbook_jax.procedures import replicates
    from playbook_jax.studies.execution import device_placement

    plan = replicates.plan(
        FLAGS.study,
        FLAGS.trial,
        FLAGS.baseline,
        count=FLAGS.replicates,
        vary=FLAGS.vary,
        worth=FLAGS.worth or None,
        examples=FLAGS.validation_examples or None,
    )
    return replicates.run(
        plan,
        FLAGS.workdir,
        num_workers=FLAGS.workers or device_placement.default_num_workers(),
        command=[word for word in command_line.command() if word != "--retry_failed"],
        retry_failed=FLAGS.retry_failed,
    )


def main(argv: list[str]) -> int:
    check_flags(argv)
    code = 0 if FLAGS.compare else run()
    if code == 75:  # interrupted: the launcher has said how to go on
        return code
    from playbook_jax.analysis.data import adoption
    from playbook_jax.analysis.reports import adoption_page, adoption_report, adoption_text

    comparison = adoption.load(FLAGS.workdir, FLAGS.worth or None)
    decision = adoption.decide(comparison)
    path = adoption_report.save(FLAGS.workdir, comparison, decision)
    print(adoption_text.text(comparison, decision, min(100, shutil.get_terminal_size().columns)))
    print(f"Written: {path}")
    print(f"Report: {adoption_page.save(FLAGS.workdir, comparison, decision)}")
    if FLAGS.study and FLAGS.vary == "seed":
        again = shlex.join(["scripts/analyze.py", f"--study={FLAGS.study}"])
        print(f"The study's report with this retrain noise: {again}")
    return code


if __name__ == "__main__":
    command_line.run(main)
