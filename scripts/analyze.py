#!/usr/bin/env python3
"""Reads a study and writes its report: what the trials show, and what to do next.

    scripts/analyze.py --study=/tmp/study
    scripts/analyze.py --compare runs/a runs/b      # has b become better than a, and what was changed?
    scripts/analyze.py --study=/tmp/study --analysis_config=configs/analysis/default.py

Writes report.html into the study directory, which opens in any browser, offline, and prints the
findings in short. Works at any time, also while the study runs. Needs no jax. Of a group, the directory holds
a study for each scientific value: their reports are written, and one that compares them. Where nothing
can be written, as in somebody else's study, the findings are printed all the same, and the exit code is 0.

An analysis config sets what the checks judge by; configs/analysis/default.py lists all of it. --replicates
names the --workdir of scripts/replicate.py that says how large the retrain noise is, where that is another
study's; those of this study's trials are found by themselves.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from playbook_jax.errors import UnwritableError, UsageError
from playbook_jax.runtime import command_line

FLAGS = flags.FLAGS
flags.DEFINE_string("study", None, "The study directory: the --workdir of scripts/launch_study.py.")
flags.DEFINE_multi_string(
    "compare", None, "Two or more studies or groups of one objective, the earliest first."
)
flags.DEFINE_string("report", None, "The page of --compare; beside the last study unless given.")
FLAGS.set_gnu_getopt()  # --compare A B --report=FILE
flags.DEFINE_string("analysis_config", "", "Thresholds that are not to be the default; a file.")
flags.DEFINE_string("replicates", None, "A --workdir of scripts/replicate.py: the retrain noise.")


def compare(directories: list[str]) -> None:
    """Writes the page that compares studies over time, and prints it in short."""
    from playbook_jax.analysis.reports import comparison, comparison_report

    read = comparison.load(directories)
    path = FLAGS.report or Path(directories[-1]) / comparison_report.NAME
    path = comparison_report.write(read, path)
    print(comparison_report.text(read, min(100, shutil.get_terminal_size().columns)))
    print(f"Report: {path}")


def main(argv: list[str]) -> None:
    if len(argv) > 1 and not FLAGS.compare:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if bool(FLAGS.study) == bool(FLAGS.compare):
        raise UsageError(
            "--study=DIR is missing, the --workdir of scripts/launch_study.py; or --compare A B, for two"
        )
    if FLAGS.compare:
        compare([*FLAGS.compare, *argv[1:]])
        return

    from playbook_jax.analysis import findings
    from playbook_jax.analysis.data import groups, study
    from playbook_jax.analysis.reports import group_report, report, summary

    width = min(100, shutil.get_terminal_size().columns)
    if groups.is_group(FLAGS.study):
        if FLAGS.replicates:
            raise UsageError("--replicates is for a study; the studies of a group find their own")
        reading = group_report.read(FLAGS.study, FLAGS.analysis_config)
        told = written(lambda: group_report.save(reading, alone=False))
        print(group_report.text(reading, width))
        print(told)
        return
    read = study.load(FLAGS.study, FLAGS.analysis_config, FLAGS.replicates)
    found = findings.check(read)
    told = written(lambda: report.save(read, found))
    print(summary.text(read, found, width))  # which names the next study, if it has been written
    print(told)


def written(write: Callable[[], object]) -> str:
    """Writes a report; returns where it is, or why it is nowhere: what it says is printed anyway."""
    try:
        return f"Report: {write()}"
    except UnwritableError as error:
        return f"The report is not written: {error}"


if __name__ == "__main__":
    command_line.run(main)
