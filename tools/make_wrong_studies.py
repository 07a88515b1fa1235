#!/usr/bin/env python3
"""Runs the real studies that are wrong on purpose, and stores what a report reads of them for the tests.

    tools/make_wrong_studies.py --workdir=/tmp/wrong                 all; a few minutes
    tools/make_wrong_studies.py --workdir=/tmp/wrong --only=constant those whose names contain a word

Writes tests/studies/NAME.json.gz. The studies themselves, with their reports, stay in the workdir.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import flags

from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Where the studies run.")
flags.DEFINE_string("only", "", "Only the studies whose names contain this.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if not FLAGS.workdir:
        raise UsageError("--workdir=DIR is missing")
    from tests import wrong_studies

    names = [name for name in wrong_studies.RECIPES if FLAGS.only in name]
    if not names:
        listed = ", ".join(wrong_studies.RECIPES)
        raise UsageError(f"no study's name contains {FLAGS.only!r}: {listed}")
    workdir = Path(FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    wrong_studies.STORED.mkdir(exist_ok=True)
    for name in names:
        config = workdir / f"{name}.py"
        config.write_text(wrong_studies.source(name, ROOT))
        command = [sys.executable, str(ROOT / "scripts/launch_study.py")]
        command += [f"--config={config}", f"--workdir={workdir / name}"]
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
        stored = wrong_studies.STORED / f"{name}.json.gz"
        stored.write_bytes(wrong_studies.pack(workdir / name))
        print(f"{name}: {stored.stat().st_size / 1024:.0f} KiB in {stored}", flush=True)
    return 0


if __name__ == "__main__":
    command_line.run(main)
