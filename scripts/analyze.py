#!/usr/bin/env python3
"""Reads a study and writes its report: what the trials show, and what to do next.

    scripts/analyze.py --study=/tmp/study

Writes report.html into the study directory, which opens in any browser, offline, and prints the
findings in short. Works at any time, also while the study runs. Needs no jax. Of a group, the directory holds
a study for each scientific value: their reports are written, and one that compares them.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from playbook_jax import command_line
from playbook_jax.errors import UsageError

FLAGS = flags.FLAGS
flags.DEFINE_string("study", None, "The study directory: the --workdir of scripts/launch_study.py.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if not FLAGS.study:
        raise UsageError("--study=DIR is missing: the --workdir of scripts/launch_study.py")

    from playbook_jax.analysis import findings, group_report, groups, report, study, summary

    width = min(100, shutil.get_terminal_size().columns)
    if groups.is_group(FLAGS.study):
        path, reading = group_report.write(FLAGS.study, alone=False)
        print(group_report.text(reading, width))
        print(f"Report: {path}")
        return
    read = study.load(FLAGS.study)
    found = findings.check(read)
    path = report.save(read, found)
    print(summary.text(read, found, width))
    print(f"Report: {path}")


if __name__ == "__main__":
    command_line.run(main)
