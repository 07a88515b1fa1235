"""Studies over time: what was changed, what came of it, and whether that is more than luck."""

import os
import subprocess
import sys

import pytest

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import groups, study_changes
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK
from playbook_jax.analysis.reports import comparison, comparison_report
from playbook_jax.errors import UsageError
from tests import synthetic_group, synthetic_study as synthetic
from tests.html_page import Page
from tests.small import ROOT

RATE, MOMENTUM = "hparams.learning_rate", "hparams.momentum"
SPACES = {RATE: synthetic.LEARNING_RATE, MOMENTUM: synthetic.MOMENTUM}
WIDER = {RATE: synthetic.LEARNING_RATE | {"high": 100.0}, MOMENTUM: synthetic.MOMENTUM}
HOSTILE = "<script>alert(1)</script> & \"'"
OVER_TIME = pytest.mark.playbook("studies-over-time")


def truth(floor=0.02, **changes):
    return synthetic_group.good(floor, **changes)


def change(path, **values):
    """Changes values of the specification in a study.json; those of the base config by `base_config`."""
    stored = trial_lib.read_json(path / "study.json")
    stored["specification"]["base_config"] |= values.pop("base_config", {})
    stored["specification"] |= values
    trial_lib.write_json(path / "study.json", stored)


@pytest.fixture
def two(tmp_path):
    """A study, and a later one in a wider space that is twice as good."""
    return [
        synthetic.write(tmp_path / "a", truth(0.04), spaces=SPACES),
        synthetic.write(tmp_path / "b", truth(0.02), spaces=WIDER, num_trials=30, seed=1),
    ]


@OVER_TIME
def test_what_was_changed_is_told_by_kind(two):
    change(
        two[1],
        fixed={"optimizer": "adam", "batch_size": 64},
        base_config={"optimizer": "adam", "batch_size": 64, "schedule": "cosine", "seed": 7},
    )
    compared = comparison.load(two)
    found = study_changes.changes(*(m.study for m in compared.group.members))
    assert [(c.path, c.before, c.after, c.kind) for c in found] == [
        (RATE, "0.001 to 10, log", "0.001 to 100, log", study_changes.SPACE),
        ("optimizer", "nesterov", "adam", study_changes.FIXED),
        ("batch_size", "128", "64", study_changes.LENGTH),
        ("num_trials", "20", "30", study_changes.LENGTH),
        ("schedule", "constant", "cosine", study_changes.ELSE),
    ]


@OVER_TIME
def test_what_is_tuned_from_now_on_or_no_longer_is_told(tmp_path):
    one = synthetic.write(tmp_path / "a", truth(), spaces=SPACES)
    two = synthetic.write(
        tmp_path / "b",
        truth(),
        spaces={RATE: SPACES[RATE], "hparams.clip_norm": synthetic.CLIP_NORM},
    )
    compared = comparison.load([one, two])
    found = study_changes.changes(*(m.study for m in compared.group.members))
    kinds = {c.path: c.kind for c in found}
    assert kinds == {"hparams.clip_norm": study_changes.TUNED, MOMENTUM: study_changes.LEFT}


@OVER_TIME
def test_the_later_study_is_better_beyond_noise(two):
    compared = comparison.load(two)
    same, better = comparison.check(compared)
    assert same.verdict == FINE
    assert better.verdict == FINE
    assert better.question == "Is b better than a?"
    assert better.answer.startswith("b beats a by")
    # Of equally many trials: the first twenty of thirty, whose points are a study of their own.
    bests = [
        min(t.objective for t in m.study.trials[:20] if t.objective is not None)
        for m in compared.group.members
    ]
    assert f"{100 * bests[1]:.2f}" in better.answer
    assert better.evidence[0] == "Compared are the first 20 trials of each that ended."


@OVER_TIME
def test_a_luckier_study_is_not_said_to_be_better(tmp_path):
    told = []
    for seed in range(12):
        paths = [
            synthetic.write(
                tmp_path / f"{seed}{name}", truth(noise=0.3), spaces=SPACES, seed=2 * seed + i
            )
            for i, name in enumerate("ab")
        ]
        found = comparison.check(comparison.load(paths))[-1]
        told += [found] if " beats " in found.answer else []
        if found not in told:
            assert found.verdict == CANNOT_TELL
            assert "Run more trials of both" in found.action
    assert len(told) <= 2


@OVER_TIME
def test_another_base_config_is_another_question(two):
    change(two[1], base_config={"schedule": "cosine"})
    same, better = comparison.check(comparison.load(two))
    assert same.verdict == LOOK
    assert "it is not the same question: schedule (constant → cosine)." in same.answer
    assert better.verdict == LOOK
    assert "not fair yet" in better.answer


@OVER_TIME
def test_more_steps_alone_may_make_a_study_better(two):
    change(two[1], base_config={"max_train_steps": 400})
    same, _ = comparison.check(comparison.load(two))
    assert same.answer == (
        "max_train_steps is 400 and was 200: that alone may change the objective."
    )


def test_listed_points_are_not_cut(tmp_path):
    # The first points of a grid are a corner of it.
    paths = [
        synthetic.write(tmp_path / name, truth(), spaces=SPACES, num_trials=number)
        for name, number in (("a", 8), ("b", 16))
    ]
    change(paths[1], algorithm="grid")
    compared = comparison.load(paths)
    assert [len(m.study.trials) for m in compared.pairs[0].equal.members] == [8, 16]
    same, better = comparison.check(compared)
    assert "One has 8 trials and another 16" in same.answer
    assert better.evidence[0] == "Compared are 8 and 16 trials."


@OVER_TIME
def test_studies_of_groups_are_compared_with_those_of_the_same_values(tmp_path):
    old = synthetic_group.write(tmp_path / "old", {"nesterov": truth(), "adam": truth(0.08)})
    new = synthetic_group.write(
        tmp_path / "new", {"adam": truth(0.04), "nesterov": truth()}, num_trials=10, seed=9
    )
    compared = comparison.load([old, new])
    labels = [m.label for m in compared.group.members]
    pairs = [(labels[pair.old], labels[pair.new]) for pair in compared.pairs]
    assert pairs == [("old, nesterov", "new, nesterov"), ("old, adam", "new, adam")]
    found = comparison.check(compared)
    assert found[2].answer.startswith("new, adam beats old, adam by")
    single = synthetic.write(tmp_path / "s", truth(), spaces=SPACES)
    compared = comparison.load([old, single])
    # One study is compared with the best of a group.
    assert [(p.old, p.new) for p in compared.pairs] == [(0, 2)]


def test_axes_hold_the_spaces_of_all_studies(two):
    common = comparison.with_common_axes(comparison.load(two).group)
    assert groups.shared(common) == [RATE, MOMENTUM]
    assert {m.study.hyperparameters[0].space.high for m in common.members} == {100.0}


@OVER_TIME
def test_the_page(two):
    compared = comparison.load(two)
    path = comparison_report.write(compared, two[1] / "comparison.html")
    page = Page(path.read_text())
    page.check(two[1])
    assert page.one("h1").text == "Is b better than a?"
    bests = [min(t.objective for t in m.study.ranked) for m in compared.group.members]
    first, second = page.all("tr", within="answer")[1:]
    assert all(f"{100 * b:.2f}" in row.text for b, row in zip(bests, (first, second), strict=True))
    bounds = page.all("path", "own", within=f"axis-{RATE}")
    assert [e.classes[-1] for e in bounds] == ["m0", "m0", "m1", "m1"]
    (rows,) = page.all("table", within="good-region")
    assert "[0.001 to 10]" in rows.text
    assert "[0.001 to 100]" in rows.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: [p[0]], "two or more different"),
        (lambda p: [p[0], p[0] / ".." / "a"], "two or more different"),
        (lambda p: [p[0], p[0].parent / "nowhere"], "does not exist"),
        (lambda p: [p[0], p[0].parent / "max"], "the objectives differ"),
    ],
)
def test_what_cannot_be_compared_is_told_in_a_line(two, make, message):
    synthetic.write(
        two[0].parent / "max", truth(), spaces=SPACES, mode="max", metric="validation/accuracy"
    )
    with pytest.raises(UsageError, match=message):
        comparison.load(make(two))


@pytest.mark.parametrize("started", [0, 2])
def test_studies_that_have_hardly_begun_have_a_page(tmp_path, started):
    paths = [
        synthetic.write(tmp_path / name, truth(), spaces=SPACES, started=started) for name in "ab"
    ]
    compared = comparison.load(paths)
    Page(comparison_report.render(compared, tmp_path)).check(tmp_path)
    assert comparison_report.text(compared)


def test_markup_in_studies_is_shown_as_text(tmp_path):
    paths = [synthetic.write(tmp_path / name, truth(), spaces=SPACES) for name in ("a", "<b>&")]
    change(paths[1], base_config={"notes": HOSTILE, HOSTILE: HOSTILE}, fixed={HOSTILE: HOSTILE})
    text = comparison_report.render(comparison.load(paths), tmp_path)
    page = Page(text)
    page.check(tmp_path)
    assert page.one("h1").text == "Is <b>& better than a?"
    assert text.count("<script>") == 1
    assert HOSTILE in page.one("table", within="study-changes").text


def run(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "100"},
    )


@OVER_TIME
def test_the_command_lines(two, tmp_path):
    done = run(ROOT / "scripts/analyze.py", "--compare", *two, f"--report={tmp_path / 'c.html'}")
    assert done.returncode == 0, done.stderr
    assert (
        "hparams.learning_rate: 0.001 to 10, log → 0.001 to 100, log  (search space)" in done.stdout
    )
    assert done.stdout.endswith(f"Report: {tmp_path / 'c.html'}\n")
    assert (tmp_path / "c.html").exists()
    done = run(
        ROOT / "scripts/studies.py",
        f"--study={two[1]}",
        f"--compare={two[0]}",
        f"--report={tmp_path / 'd.html'}",
    )
    assert done.returncode == 0, done.stderr
    title = Page((tmp_path / "d.html").read_text()).one("title").text
    assert title == "Is b better than a?"
    for words in (["--compare", two[0]], ["--compare", two[0], f"--study={two[1]}"]):
        done = run(ROOT / "scripts/analyze.py", *words)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
