"""The report of a group of studies: the winner, the page, what is damaged."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import groups, retrain_noise
from playbook_jax.analysis.findings import CANNOT_TELL, FINE
from playbook_jax.analysis.reports import group_findings, group_report, report
from playbook_jax.analysis.stats import isolation, replicates
from playbook_jax.errors import UsageError
from tests import synthetic_group as synthetic
from tests.html_page import Page
from tests.small import ROOT

RATE, BETA = synthetic.RATE, synthetic.BETA
HOSTILE = "<script>alert(1)</script> & \"'"
FAIR = pytest.mark.playbook("fair-comparison")
REPORT = pytest.mark.playbook("best-trials-are-compared")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return synthetic.pair(tmp_path_factory.mktemp("groups") / "pair")


@pytest.fixture
def copy(pair, tmp_path):
    return shutil.copytree(pair, tmp_path / "pair")


@pytest.fixture(scope="module")
def reading(pair):
    return group_findings.read(groups.load(pair))


@REPORT
@FAIR
def test_a_fair_group_has_a_winner(reading):
    fair, answer = reading.together
    assert fair.question == "Is the comparison fair?"
    assert fair.verdict == FINE, (fair.answer, fair.evidence)
    assert fair.evidence == (
        "nesterov: 20 trials of 200 steps for 2 hyperparameters (learning_rate and momentum).",
        "adam: 20 trials of 200 steps for 2 hyperparameters (learning_rate and beta1).",
    )
    assert answer.verdict == FINE
    bests = [m.study.best.objective for _, m in reading.group.read]
    gain = 100 * (bests[1] - bests[0])
    assert answer.answer.replace("\u00a0", " ").startswith(
        f"nesterov beats adam by {gain:.2f} % ({100 * bests[0]:.2f} % against {100 * bests[1]:.2f} %;"
    )


@REPORT
def test_what_is_alike_has_no_winner(tmp_path):
    # Twelve groups without a difference: 5 % of such may be told apart.
    told = []
    for seed in range(12):
        path = tmp_path / str(seed)
        truths = {"nesterov": synthetic.good(noise=0.3), "adam": synthetic.good(noise=0.3)}
        synthetic.write(path, truths, num_trials=12, seed=10 * seed)
        answer = group_findings.read(groups.load(path)).together[-1]
        told += [answer] if " beats " in answer.answer else []
        assert "may be luck" in answer.answer or told
    assert len(told) <= 2


def test_the_page_is_whole(pair, reading):
    path, _ = group_report.write(pair, alone=False)
    page = Page(path.read_text())
    page.check(path.parent)
    assert page.one("h1").text == "Which optimizer is better?"
    lede = page.one("p", "lede").text
    assert lede.startswith("nesterov beats adam by")
    assert lede.endswith("The comparison is fair, as far as the checks can see.")
    links = {e.get("href") for e in page.all("a")}
    assert {f"optimizer%3D{name}/report.html" for name in ("nesterov", "adam")} <= links
    assert all(
        (synthetic.member(pair, name) / "report.html").exists() for name in ("nesterov", "adam")
    )
    # The best trial of each study is what the isolation plot and the curves show.
    bests = [(i + 1) * groups.SPAN + m.study.best.number for i, m in reading.group.read]
    marks = page.all("circle", "isolated", within="isolation-optimizer")
    assert [e.trial for e in marks] == bests
    curves = page.all("path", "front", within="curve-validation-error_rate")
    assert [(e.trial, e.classes[1]) for e in curves] == list(zip(bests, ("m0", "m1"), strict=True))
    assert len(page.all("tr", within="trials")) == 41


def test_shared_axes_hold_all_trials_and_conditional_ones_those_of_their_study(tmp_path):
    nuisance = dict(synthetic.TWO) | {
        "hparams.weight_decay": {"scale": "log", "low": 1e-6, "high": 1}
    }
    truths = {name: synthetic.good(floor) for name, floor in (("nesterov", 0.02), ("adam", 0.03))}
    path = synthetic.write(tmp_path / "g", truths, num_trials=6, nuisance=nuisance)
    page = Page(group_report.write(path)[0].read_text())
    page.check(path)

    def places(figure):
        marks = [e for e in page.all("path", within=figure) if e.trial and e.get("data-x")]
        return sorted(e.trial // groups.SPAN for e in marks)

    assert places("axis-hparams.weight_decay") == [1] * 6 + [2] * 6
    assert places(f"axis-{RATE}@optimizer=nesterov") == [1] * 6
    assert places(f"axis-{RATE}@optimizer=adam") == [2] * 6
    assert places(f"axis-{BETA}@optimizer=adam") == [2] * 6
    # One vertical axis for all: the same objective is as high up everywhere.
    ticks = [
        [
            (e.get("y"), e.text)
            for e in page.all("text", "end", within=figure)
            if "tick" in e.classes
        ]
        for figure in ("axis-hparams.weight_decay", f"axis-{BETA}@optimizer=adam")
    ]
    assert ticks[0] == ticks[1]
    assert len(ticks[0]) > 1


def test_findings_of_the_group_and_of_each_study_are_there_for_programs(pair, reading):
    group_report.write(pair)
    stored = json.loads((pair / "findings.json").read_text())
    assert stored["study"] == "pair"
    assert [f["question"] for f in stored["findings"]] == [
        "Is the comparison fair?",
        "Which optimizer is best?",
    ]
    assert stored["trials"] == {"COMPLETE": 40}
    best = reading.group.members[0].study.best
    assert stored["best"]["directory"] == "optimizer=nesterov"
    assert (stored["best"]["trial"], stored["best"]["objective"]) == (best.number, best.objective)
    assert [s["values"] for s in stored["studies"]] == [
        {"optimizer": "nesterov"},
        {"optimizer": "adam"},
    ]
    own = reading.found["optimizer=adam"]
    assert stored["studies"][1]["verdicts"]["fine"] == sum(f.verdict == FINE for f in own)
    assert len(stored["studies"][1]["findings"]) == len(own)


def test_several_scientific_hyperparameters_are_compared_by_each_and_by_their_combinations(
    tmp_path,
):
    scientific = synthetic.OPTIMIZERS | {"batch_size": {"values": [64, 128]}}
    nuisance = {RATE: synthetic.WIDE}
    truths = {
        f"{name}, {size}": synthetic.good(floor)
        for (name, size), floor in zip(
            [("nesterov", 64), ("nesterov", 128), ("adam", 64), ("adam", 128)],
            (0.08, 0.04, 0.06, 0.02),
            strict=True,
        )
    }
    path = synthetic.write(tmp_path / "g", truths, scientific=scientific, nuisance=nuisance)
    path, reading = group_report.write(path)
    fair, *answers = reading.together
    assert fair.verdict == FINE, fair  # the batch size is asked about
    assert [a.question for a in answers] == [
        "Which optimizer is best?",
        "Which batch_size is best?",
        "Which combination is best?",
    ]
    assert answers[0].answer.startswith("adam beats nesterov")
    assert answers[1].answer.startswith("batch_size 128 beats batch_size 64")
    assert answers[2].answer.startswith("adam, batch_size 128 is best")
    page = Page(path.read_text())
    page.check(path.parent)
    assert len(page.all("circle", "isolated", within="isolation-combination")) == 4


@pytest.mark.parametrize("gone", [("adam",), ("adam", "nesterov")])
def test_a_group_of_which_studies_are_gone_has_a_page(copy, gone):
    for name in gone:
        shutil.rmtree(synthetic.member(copy, name))
    path, reading = group_report.write(copy)
    page = Page(path.read_text())
    page.check(copy)
    assert reading.together[-1].verdict == CANNOT_TELL
    assert len(reading.doubts) >= len(gone)
    rows = page.all("tr", within="answer")
    assert sum("not compared: " in row.text for row in rows) == len(gone)
    assert group_report.text(reading)


def test_a_group_in_which_all_diverge_has_a_page(tmp_path):
    bad = synthetic.good(infeasible=lambda units: True)
    path = synthetic.write(tmp_path / "g", {"nesterov": bad, "adam": bad}, num_trials=4)
    path, reading = group_report.write(path)
    Page(path.read_text()).check(path.parent)
    assert reading.together[-1].answer == "No trial is complete."
    one = synthetic.write(tmp_path / "h", {"nesterov": synthetic.good(), "adam": bad}, num_trials=4)
    path, reading = group_report.write(one)
    Page(path.read_text()).check(path.parent)
    assert reading.together[-1].answer == "Of optimizer, only nesterov has a complete trial."


def test_a_group_that_has_not_begun_has_a_page(tmp_path):
    truths = {"nesterov": synthetic.good(), "adam": synthetic.good()}
    path = synthetic.write(tmp_path / "g", truths, num_trials=3, started={"nesterov": 0, "adam": 0})
    path, reading = group_report.write(path)
    Page(path.read_text()).check(path.parent)
    assert reading.doubts[0].text == (
        "The group is not over: 3 trials of nesterov and 3 trials of adam to go."
    )


@pytest.mark.parametrize("text", ["[1", '{"studies": 3}', '{"studies": [{"directory": "a"}]}'])
def test_a_damaged_group_is_told_in_a_line(copy, text):
    (copy / "group.json").write_text(text)
    with pytest.raises(UsageError, match=r"group\.json is damaged"):
        groups.load(copy)
    with pytest.raises(UsageError, match="holds no group"):
        groups.load(copy.parent)


def test_markup_in_a_group_is_shown_as_text(copy):
    stored = trial_lib.read_json(copy / "group.json")
    stored |= {"goal": HOSTILE, "name": HOSTILE}
    stored["scientific"]["optimizer"]["values"][1] = HOSTILE
    stored["studies"][1]["values"]["optimizer"] = HOSTILE
    trial_lib.write_json(copy / "group.json", stored)
    status = trial_lib.new_status(trial_lib.FAILED, HOSTILE, 3)
    trial_lib.write_json(synthetic.member(copy, "adam") / "trials" / "003" / "status.json", status)
    own = trial_lib.read_json(synthetic.member(copy, "adam") / "study.json")
    own["specification"]["fixed"][HOSTILE] = HOSTILE
    trial_lib.write_json(synthetic.member(copy, "adam") / "study.json", own)
    text = group_report.write(copy)[0].read_text()
    page = Page(text)
    page.check(copy)
    assert page.one("h1").text == HOSTILE
    assert text.count("<script>") == 1
    assert HOSTILE in page.one("table", "sortable", within="trials").text


def test_the_launcher_and_analyze_write_it(pair, tmp_path):
    path, told = report.conclude(pair)
    assert path == pair / "report.html"
    assert told.startswith("fine ")
    shutil.copytree(pair, tmp_path / "g")
    for old in tmp_path.rglob("report.html"):
        old.unlink()
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/analyze.py", f"--study={tmp_path / 'g'}"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stderr
    assert "pair: 2 studies" in done.stdout
    assert "nesterov beats adam by" in done.stdout
    assert done.stdout.endswith(f"Report: {tmp_path / 'g' / 'report.html'}\n")
    assert len(list(tmp_path.rglob("report.html"))) == 3


def noisy(study, sd):
    """The study with a retrain noise of five runs."""
    objectives = study.best.objective + sd * np.array([-1.0, -0.5, 0.0, 0.5, 1.0]) * np.sqrt(1.6)
    spread = replicates.spread(objectives)
    assert np.isclose(spread.sd, sd)
    noise = retrain_noise.RetrainNoise(study.best.number, "trial 4", "there", objectives, spread)
    return dataclasses.replace(study, retrain=noise)


@pytest.mark.parametrize(("part", "within"), [(0.4, True), (0.3, False)])
def test_a_difference_is_held_against_the_largest_retrain_noise(reading, part, within):
    # Two runs that are alike differ by √2 standard deviations: twice that is 0.85 and 1.13 times as much as
    # the difference, whose part each standard deviation is.
    bests = [m.study.best.objective for _, m in reading.group.read]
    members = [
        dataclasses.replace(m, study=noisy(m.study, (0.5 + i / 2) * part * (bests[1] - bests[0])))
        for i, m in enumerate(reading.group.members)
    ]
    group = dataclasses.replace(reading.group, members=tuple(members))
    assert group.joined.retrain.name == "the best of adam"
    answer = group_findings.read(group).together[-1]
    assert ("one run of each does not, within retrain noise" in answer.answer) == within
    (told,) = [line for line in answer.evidence if "the best of adam again, 5 runs" in line]
    times = 1 / (np.sqrt(2) * part)
    assert f"nesterov is ahead of adam by {times:.1f} times that." in told


def test_baselines_take_no_part_in_the_comparison(tmp_path):
    truths = {"nesterov": synthetic.good(), "adam": synthetic.good(0.04)}
    path = synthetic.write(tmp_path / "g", truths, num_trials=8, baseline=True)
    parts = isolation.slices(*groups.load(path).arms)
    assert [part.ended for part in parts] == [7, 7]
    assert all(groups.number(t) > 0 for part in parts for t in part.complete)
    Page(group_report.write(path)[0].read_text()).check(path)


def test_levels_of_a_grid_are_values_of_their_own(tmp_path):
    scientific = {"hparams.dropout_rate": {"scale": "linear", "low": 0.0, "high": 0.5, "points": 3}}
    truths = {str(v): synthetic.good(0.02 * (2 + i)) for i, v in enumerate((0.0, 0.25, 0.5))}
    path = synthetic.write(
        tmp_path / "g", truths, scientific=scientific, nuisance={RATE: synthetic.WIDE}
    )
    group = groups.load(path)
    parts = isolation.slices(*group.arms)
    assert [part.label for part in parts] == [f"dropout_rate {v}" for v in (0, 0.25, 0.5)]
    assert [part.label for part in parts] == [m.label for m in group.members]
    assert [part.ended for part in parts] == [20] * 3


def test_a_group_reads_each_trial_as_its_study_does(reading):
    group = reading.group
    for index, one in group.read:
        joined = [t for t in group.joined.trials if groups.place(t) == index]
        assert [groups.number(t) for t in joined] == [t.number for t in one.study.trials]
        assert np.array_equal(
            [t.objective for t in joined], [t.objective for t in one.study.trials]
        )
        assert all(t.parameters["optimizer"] == one.label for t in joined)
