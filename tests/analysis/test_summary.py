import dataclasses
import os
import subprocess
import sys

import pytest

from playbook_jax.analysis import findings
from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, Finding
from playbook_jax.analysis.reports import summary
from tests import synthetic_study as synthetic
from tests.html_page import Page
from tests.small import ROOT

SPACES = {"hparams.learning_rate": synthetic.LEARNING_RATE}


def made(number=3):
    rows = [{"at": [0.5], "objective": 0.2 - i / 100, "step": 2000} for i in range(number)]
    return synthetic.made([*rows, {"at": [0.9], "objective": None}], spaces=SPACES)


def test_the_whole_summary():
    found = [
        Finding(
            "A?", ACT, "It is so.", ("evidence",), action="Do this. And that.", advice="Advice."
        ),
        Finding("B?", FINE, "All well: 20\u00a0%."),
        Finding("C?", CANNOT_TELL, "Too few."),
    ]
    assert summary.text(made(), found) == (
        "made: 4 trials, 3 complete, 1 infeasible\n"
        "Best: trial 2, validation error rate 18.00 % at step 50 of 2,000\n"
        "act          It is so.\n"
        "             Next: Do this. And that.\n"
        "fine         All well: 20 %.\n"
        "cannot tell  Too few."
    )


def test_long_lines_are_broken_below_their_words():
    found = [Finding("A?", ACT, "word " * 40 + "--flag=a-b-c", action="deed " * 40)]
    lines = summary.text(made(), found, 60).splitlines()[2:]
    assert all(len(line) <= 60 for line in lines)
    assert all(line.startswith(" " * 13) for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == (
        "act " + "word " * 40 + "--flag=a-b-c Next: " + "deed " * 39 + "deed"
    )


def test_a_launch_says_in_one_line_how_much_is_fine():
    told = [
        Finding("?", FINE, "Good."),
        Finding("?", ACT, "Bad.", action="Mend it."),
        Finding("?", FINE, "Very good."),
    ]
    assert summary.brief(made(), told).splitlines() == [
        "fine         2 questions",
        "act          Bad.",
        "             Next: Mend it.",
    ]


def test_a_study_that_has_not_begun():
    study = dataclasses.replace(made(), trials=())
    assert summary.text(study, []) == "made: 0 trials, none"


def analyze(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "analyze.py"), *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "100"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_command_prints_findings_and_where_the_report_is(tmp_path):
    truth = synthetic.Truth(synthetic.bowl({"hparams.learning_rate": 0.5}))
    directory = synthetic.write(tmp_path / "s", truth, num_trials=12)
    result = analyze(f"--study={directory}")
    assert (result.returncode, result.stderr) == (0, "")
    study = study_lib.load(directory)
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"synthetic: 12 trials, {len(study.ranked)} complete")
    assert lines[1].startswith(f"Best: trial {study.best.number}, validation error rate ")
    assert lines[-1] == f"Report: {directory / 'report.html'}"
    shown = [
        line for line in lines[:-1] if not line.startswith("Next study: ")
    ]  # a command stays whole
    assert max(map(len, shown)) <= 100
    told = " ".join(result.stdout.split())
    for finding in findings.check(study):
        answer = f"{finding.verdict} {finding.answer}".replace("\u00a0", " ")
        assert answer in told
        assert finding.action.replace("\u00a0", " ") in told
    Page((directory / "report.html").read_text()).check()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--study={}/nothing",
            "/nothing does not exist; give the --workdir of scripts/launch_study",
        ),
        ("--study={}", " holds no study: it has no study.json; give the --workdir"),
        ("--study=", "--study=DIR is missing"),
        ("--studi=x", "unknown flag --studi; did you mean --study?"),
        ("study", "'study' is not a flag"),
    ],
)
def test_bad_arguments_are_told_in_one_line(tmp_path, argument, message):
    result = analyze(argument.format(tmp_path))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
