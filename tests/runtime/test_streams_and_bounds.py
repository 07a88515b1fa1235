"""What is said to nobody, what cannot be written, and studies that are too large to be meant."""

import os
import subprocess
import sys

import pytest

from playbook_jax import trial
from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.reports import commands
from playbook_jax.errors import UsageError
from playbook_jax.studies import specification
from tests import small, synthetic_study
from tests.studies.test_specification import RATE, write

TRUTH = synthetic_study.Truth(cost=synthetic_study.bowl({"hparams.learning_rate": 0.5}))
SAY = """
import sys
sys.path.insert(0, {root!r})
from playbook_jax.runtime import command_line

def main(argv):
    for number in range(3):
        print(number, flush=True)
    open({mark!r}, "w").write("done")
    print("that is all", file=sys.stderr)
    return 3

command_line.run(main)
"""


def without_reader(*command):
    """Returns the exit code and standard error of a command whose output nobody reads."""
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    return done.returncode, done.stderr


def test_work_goes_on_and_its_exit_code_stays_where_nobody_reads(tmp_path):
    script = tmp_path / "say.py"
    script.write_text(SAY.format(root=str(small.ROOT), mark=str(tmp_path / "mark")))
    assert without_reader(sys.executable, script) == (3, "that is all\n")
    assert (tmp_path / "mark").read_text() == "done"
    with_head = f"{sys.executable} {script} 2>&1 | head -n 1"
    assert subprocess.run(with_head, shell=True, capture_output=True).stdout == b"0\n"


def test_a_report_that_nobody_reads_is_written(tmp_path):
    synthetic_study.write(tmp_path / "s", TRUTH, num_trials=3)
    script = small.ROOT / "scripts/analyze.py"
    assert without_reader(sys.executable, script, f"--study={tmp_path / 's'}") == (0, "")
    assert (tmp_path / "s/report.html").exists()


def test_findings_are_printed_though_the_report_cannot_be_written(tmp_path):
    synthetic_study.write(tmp_path / "s", TRUTH, num_trials=3)
    (
        tmp_path / "s/report.html"
    ).mkdir()  # as if the study were somebody else's; root may write all else
    script = small.ROOT / "scripts/analyze.py"
    done = subprocess.run(
        [sys.executable, script, f"--study={tmp_path / 's'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Best: trial " in done.stdout
    last = done.stdout.splitlines()[-1]
    path = tmp_path / "s/report.html"
    assert last.startswith(f"The report is not written: cannot write {path}: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_trials": 10**9}, "num_trials is 1,000,000,000; a study has at most 100,000, which"),
        (
            {
                "num_trials": None,
                "algorithm": "grid",
                "nuisance": {
                    f"hparams.{name}": RATE | {"low": 0.1, "high": 0.5, "points": 1000}
                    for name in ("learning_rate", "momentum", "weight_decay")
                },
            },
            "the grid has 1,000,000,000 trials; a study has at most 100,000: ",
        ),
    ],
)
def test_a_study_too_large_to_be_meant_is_refused_at_once(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        specification.load(write(tmp_path / "study.py", **changes))
    assert specification.load(write(tmp_path / "study.py", num_trials=10_000)).num_trials == 10_000


@pytest.mark.parametrize(
    ("algorithm", "advice", "command"),
    [
        ("halton", "(num_trials = 8 in the same study goes on)", "raise num_trials in its config"),
        (
            "list",
            "(new points at the end of the list, and the",
            "add points to the end of its list",
        ),
        ("grid", "(in a new study with algorithm 'halton': a grid", None),
    ],
)
def test_the_advice_to_run_more_trials_is_one_that_the_launcher_takes(
    tmp_path, algorithm, advice, command
):
    synthetic_study.write(tmp_path / "s", TRUTH, num_trials=4)
    stored = trial.read_json(tmp_path / "s/study.json")
    stored["specification"]["algorithm"] = algorithm
    trial.write_json(tmp_path / "s/study.json", stored)
    study = study_lib.load(tmp_path / "s")
    assert advice in f"({study.more_trials('8')})"
    purposes = [c.purpose for c in commands.commands(study, [])]
    more = [text for text in purposes if text.startswith("Add trials")]
    assert more == [
        f"Add trials to this study: {command}, then go on. The trials that exist stay as they are."
    ] * (command is not None)
