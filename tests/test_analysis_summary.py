import dataclasses

import synthetic_study as synthetic

from playbook_jax.analysis import summary
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, Finding

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


def test_a_study_that_has_not_begun():
    study = dataclasses.replace(made(), trials=())
    assert summary.text(study, []) == "made: 0 trials, none"
