#!/usr/bin/env python3
"""Lists, shows and compares studies, adopts what came of one, and frees the disk that their checkpoints take.

scripts/studies.py --root=runs                          all studies below runs; writes runs/ledger.csv and
                                                        the page runs/index.html
scripts/studies.py --study=runs/a                       one of them: its question, space, best trials
scripts/studies.py --study=runs/b --compare=runs/a      in what b differs from a, and what came of it;
                                                        --report=FILE writes a page on it
scripts/studies.py --study=runs/a --adopt --note=…      makes its best trial the base of what follows, if its
                                                        replicates (scripts/replicate.py) say so
scripts/studies.py --study=runs/a --prune               removes the checkpoints of all but the best trial
"""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line
from playbook_jax.runtime.lock import Lock
from playbook_jax.studies import conclusion
from playbook_jax.studies.store import adoptions, ledger

_SHOWN_TRIALS = 5

FLAGS = flags.FLAGS
flags.DEFINE_string("root", None, "List the studies below this directory.")
flags.DEFINE_string("study", None, "A study directory.")
flags.DEFINE_string("compare", None, "The study directory that --study is compared with.")
flags.DEFINE_string("report", None, "The page that --compare writes; none unless given.")
flags.DEFINE_bool(
    "prune", False, "Remove the checkpoints of all of the study's trials but the best."
)
flags.DEFINE_bool("adopt", False, "Adopt a trial of --study: write its config and the evidence.")
flags.DEFINE_string("trial", None, "Which trial --adopt takes: a number; the best unless given.")
flags.DEFINE_string(
    "evidence", None, "The --workdir of scripts/replicate.py, where --adopt can't find it."
)
flags.DEFINE_string("note", None, "A remark that --adopt keeps.")
flags.DEFINE_string("force", None, "Why --adopt takes it although the evidence does not say so.")


def list_all(root: str) -> None:
    """Prints a line for each study, and writes the ledger and the page that shows it."""
    from playbook_jax.analysis.reports import index

    studies = ledger.find(root)
    path, shown = ledger.write(root, studies), index.write(root, studies)
    rows = [("study", "trials", "infeasible", "failed", "best", "directory")]
    for study in studies:
        entry = ledger.entry(study)
        best = (
            "" if entry.best_validation is None else f"{entry.metric} {entry.best_validation:.4g}"
        )
        counts = (entry.trials, str(entry.infeasible), str(entry.failed))
        rows.append((entry.study, *counts, best, str(study.path)))
    _print_table(rows)
    for study in studies:
        if study.problem:
            print(f"Cannot be read: {study.problem}")
    found = [(launch, study) for study in studies for launch in adoptions.read(study.path)]
    for launch, study in sorted(found, key=lambda pair: pair[0].time):
        print(f"Launched {launch.text}; {study.path / adoptions.CONFIG_NAME}")
    print(f"Ledger: {path}")
    print(f"Index: {shown}")


def show(study: ledger.Study) -> None:
    """Prints a study's question, its hyperparameters by role, and its best trials."""
    specification, entry = study.specification, ledger.entry(study)
    print(f"{entry.study}: {entry.notes}")
    ends = f"{entry.infeasible} infeasible, {entry.failed} failed"
    print(f"{entry.trials} trials at their end, {ends}; {entry.metric}")
    for role in ("scientific", "nuisance", "fixed"):
        for name, space in specification.get(role, {}).items():
            print(f"  {role:<10}  {name}  {_in_words(space)}")
    if study.ranked:
        names = list(study.trials[0]["parameters"])
        rows = [("trial", entry.metric, *names)]
        for index in study.ranked[:_SHOWN_TRIALS]:
            row, status = study.trials[index], study.statuses[index]
            values = (_cell(row["parameters"].get(name, "")) for name in names)
            rows.append((str(row["trial"]), _cell(status["objective"]), *values))
        _print_table(rows)
    for launch in adoptions.read(study.path):
        print(f"Launched {launch.text}")
    print(f"Started by: {entry.reproduction or 'not started'}")
    if study.ranked:
        again = ["scripts/reproduce.py", f"--trial={study.trial_directory(study.ranked[0])}"]
        print(f"The best trial again: {shlex.join(again)} --workdir=NEW")
    print(f"Code: {entry.code}")


def compare(new: ledger.Study, old: ledger.Study) -> None:
    """Prints in what two studies differ, and the best of each."""
    for line in config_lib.differences(old.specification, new.specification):
        print(f"  {line}")
    entries = [ledger.entry(study) for study in (old, new)]
    if entries[0].metric != entries[1].metric:
        print("Their objectives differ, so their best values can't be compared.")
        return
    rows = [("directory", "trials", "infeasible", "failed", entries[0].metric)]
    for study, entry in zip((old, new), entries, strict=True):
        best = "" if entry.best_validation is None else _cell(entry.best_validation)
        counts = (entry.trials, str(entry.infeasible), str(entry.failed))
        rows.append((str(study.path), *counts, best))
    _print_table(rows)


def write_comparison(directories: list[str], report: str) -> None:
    """Writes the page on what came of the changes."""
    from playbook_jax.analysis.reports import comparison, comparison_report

    print(f"Report: {comparison_report.write(comparison.load(directories), report)}")


def adopt(study: ledger.Study) -> None:
    """Adopts a trial, and says what can be done with it."""
    launch = adoptions.adopt(
        study, FLAGS.trial or "best", FLAGS.evidence, FLAGS.note or "", FLAGS.force or ""
    )
    conclusion.write_ledger(study.path)
    print(f"Launched {launch.text}")
    print(f"Its config, the base of what follows: {study.path / adoptions.CONFIG_NAME}")
    print(f"What to try next: scripts/analyze.py --study={shlex.quote(str(study.path))}")


def prune(study: ledger.Study) -> None:
    """Removes the checkpoints of all finished trials but the best one; all else stays."""
    lock = Lock(study.path / ".lock")  # no launcher may be at work in it
    study = ledger.read(study.path)
    kept, freed = study.ranked[:1], 0
    for index, status in enumerate(study.statuses):
        directory = study.trial_directory(index) / "checkpoints"
        if index in kept or status["state"] not in trial.FINISHED or not directory.is_dir():
            continue
        freed += sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        shutil.rmtree(directory)
    lock.release()
    print(f"Freed {freed / 2**20:.1f} MiB; the best trial keeps its checkpoints.")


def _in_words(space: Any) -> str:
    if not isinstance(space, dict):
        return str(space)
    if isinstance(space.get("values"), list):
        return " | ".join(str(value) for value in space["values"])
    if not all(isinstance(space.get(bound), int | float) for bound in ("low", "high")):
        return str(space)
    return f"{space['low']:g} to {space['high']:g} ({space.get('scale')})"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if bool(FLAGS.root) == bool(FLAGS.study):
        raise UsageError("give either --root=DIR, to list studies, or --study=DIR, for one of them")
    if not FLAGS.study and (FLAGS.compare or FLAGS.prune or FLAGS.adopt):
        raise UsageError("--compare, --prune and --adopt need --study=DIR")
    for name in ("trial", "evidence", "note", "force"):
        if FLAGS[name].value is not None and not FLAGS.adopt:
            raise UsageError(f"--{name} is for --adopt")
    if FLAGS.report and not FLAGS.compare:
        raise UsageError("--report is the page of --compare=DIR")
    if FLAGS.root:
        list_all(FLAGS.root)
        return 0
    study = ledger.read(FLAGS.study)
    if FLAGS.prune:
        prune(study)
    elif FLAGS.adopt:
        adopt(study)
    elif FLAGS.compare:
        compare(study, ledger.read(FLAGS.compare))
        if FLAGS.report:
            write_comparison([FLAGS.compare, FLAGS.study], FLAGS.report)
    else:
        show(study)
    return 0


if __name__ == "__main__":
    command_line.run(main)
