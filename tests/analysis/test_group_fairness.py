"""The report of a group of studies: what makes the comparison unfair."""

import dataclasses
import shutil

import pytest

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import groups
from playbook_jax.analysis.findings import (
    ACT,
    CANNOT_TELL,
    FINE,
    LOOK,
    Finding,
    enough_trials,
    infeasible,
)
from playbook_jax.analysis.reports import group_fairness, group_findings, group_report
from tests import synthetic_group as synthetic
from tests.html_page import Page

RATE = synthetic.RATE
FAIR = pytest.mark.playbook("fair-comparison")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return synthetic.pair(tmp_path_factory.mktemp("groups") / "pair")


@pytest.fixture
def copy(pair, tmp_path):
    return shutil.copytree(pair, tmp_path / "pair")


@pytest.fixture(scope="module")
def reading(pair):
    return group_findings.read(groups.load(pair))


def change(path, **values):
    """Changes values of the base config in a study.json."""
    stored = trial_lib.read_json(path / "study.json")
    stored["specification"]["base_config"] |= values
    trial_lib.write_json(path / "study.json", stored)


def doubts(path):
    group = groups.load(path)
    return [doubt.text for doubt in group_findings.read(group).doubts]


@FAIR
def test_a_group_that_still_runs_says_so(tmp_path):
    truths = {"nesterov": synthetic.good(), "adam": synthetic.good(0.04)}
    path = synthetic.write(tmp_path / "g", truths, started={"nesterov": 20, "adam": 8})
    path, reading = group_report.write(path)
    assert reading.together[0].verdict == LOOK
    assert [d.text for d in reading.doubts[:2]] == [
        "The group is not over: 12 trials of adam to go.",
        "adam was tried with 8 trials, nesterov with 20: of more trials the best is better, whatever "
        "the value.",
    ]
    page = Page(path.read_text())
    page.check(path.parent)
    assert "Let the group go on: 12 trials to go." in page.one("div", "next").text
    assert "Continue the group: 12 trials to go." in [e.text for e in page.all("p", "command")]
    assert reading.together[-1].verdict != FINE


@FAIR
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            lambda path: (synthetic.member(path, "adam") / "study.json").unlink(),
            "adam is not compared: ",
        ),
        (
            lambda path: (synthetic.member(path, "adam") / "study.json").write_text('{"spec'),
            "adam is not compared: ",
        ),
        (
            lambda path: change(synthetic.member(path, "adam"), max_train_steps=400),
            "max_train_steps is not the same: 200 for nesterov and 400 for adam.",
        ),
        (
            lambda path: change(synthetic.member(path, "adam"), schedule="constant"),
            "The studies differ in what is not asked about: schedule.",
        ),
        (
            lambda path: [
                shutil.rmtree(synthetic.member(path, "adam") / "trials" / f"00{i}")
                for i in range(3)
            ],
            "The group is not over: 3 trials of adam to go.",
        ),
        (
            lambda path: [
                trial_lib.write_json(
                    synthetic.member(path, "adam") / "trials" / f"00{i}" / "status.json",
                    trial_lib.new_status(trial_lib.FAILED, "out of memory", 10),
                )
                for i in range(2)
            ],
            "Nothing is known of 2 trials of adam: failed, or gone.",
        ),
    ],
)
def test_what_makes_a_comparison_unfair(copy, spoil, expected):
    assert doubts(copy) == []
    spoil(copy)
    found = doubts(copy)
    assert [text for text in found if text.startswith(expected)], found
    path, reading = group_report.write(copy)
    assert reading.together[0].verdict == LOOK
    assert "But the comparison is not fair yet" in reading.together[-1].answer or (
        reading.together[-1].verdict == CANNOT_TELL
    )
    Page(path.read_text()).check(copy)


@FAIR
def test_a_best_trial_at_a_bound_makes_a_comparison_unfair(tmp_path):
    edge = dataclasses.replace(
        synthetic.good(0.03), cost=lambda units: 6 * (units[RATE] - 1.1) ** 2
    )
    path = synthetic.write(tmp_path / "g", {"nesterov": synthetic.good(), "adam": edge})
    found = doubts(path)
    assert "adam: learning_rate: the best trials crowd the high bound, 0.1." in found
    assert not [text for text in found if text.startswith("nesterov")]


@FAIR
def test_what_is_as_bad_for_all_values_is_no_matter_of_fairness(reading):
    def found(*names):
        few = Finding(enough_trials.QUESTION, LOOK, "Only trials 1 and 3 are good.", action="Run.")
        half = Finding(infeasible.QUESTION, ACT, "10 of 20 trials are infeasible.", action="Leave.")
        return {m.name: [few, half] if m.label in names else [] for _, m in reading.group.read}

    assert group_fairness.doubts(reading.group, found("adam", "nesterov")) == []
    told = group_fairness.doubts(reading.group, found("adam"))
    assert [doubt.text for doubt in told] == [
        "adam: 10 of 20 trials are infeasible.",
        "adam: Only no. 1 and 3 are good.",
    ]


def test_a_study_of_another_objective_is_left_out(copy):
    stored = trial_lib.read_json(synthetic.member(copy, "adam") / "study.json")
    stored["specification"]["objective"] = {"metric": "validation/accuracy", "mode": "max"}
    trial_lib.write_json(synthetic.member(copy, "adam") / "study.json", stored)
    (told, *_) = doubts(copy)
    assert "adam is not compared" in told
    assert "has another objective, validation/accuracy" in told
    assert not (copy / "next_study.py").exists()
