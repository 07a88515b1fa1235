"""Advice that was wrong: on a stored study, and on random ones with a known truth."""

import dataclasses
import json

import numpy as np
import pytest

from playbook_jax import trial as trial_lib
from playbook_jax.analysis import findings
from playbook_jax.analysis.data import failed, step_records, study as study_lib
from playbook_jax.analysis.data.proposals import ADD, EXTEND, NARROW, SET, Proposal
from playbook_jax.analysis.findings import (
    ACT,
    CANNOT_TELL,
    LOOK,
    Finding,
    best_step,
    infeasible,
    instability,
    overfitting,
    works,
)
from playbook_jax.analysis.reports import next_draft, report, summary
from playbook_jax.analysis.stats import decisions, feasible, stability_fixes
from playbook_jax.analysis.stats.decisions import CUT, FIX, REMOVE, TUNE, WIDEN
from playbook_jax.studies import specification
from playbook_jax.studies.store import ledger
from tests import advice_cases, finding_studies, synthetic_study as synthetic, wrong_studies
from tests.finding_studies import plain
from tests.html_page import Page
from tests.small import ROOT

RATE, MOMENTUM, DECAY, CLIP = synthetic.FOUR
PLAYBOOK = pytest.mark.playbook("infeasible-fraction")


# --- The quickstart's space, 60 trials: without clipping its best configuration does not train ---


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    directory = tmp_path_factory.mktemp("quickstart") / "s"
    study = study_lib.load(wrong_studies.unpack("quickstart_60", directory))
    return study, findings.check(study)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)  # where the base configs are


def test_clipping_cannot_go_where_trials_fail(quickstart):
    study, found = quickstart
    assert len(study.failures) == 27
    table = {d.name: d for d in next_draft.decided(study, found)}
    assert CLIP not in table or table[CLIP].kind not in (REMOVE, FIX)
    for finding in found:
        assert "clip_norm" not in finding.answer.partition(" can go:")[0] or (
            " can go:" not in finding.answer
        )
        assert "Set clip_norm" not in finding.action
        assert not [p for p in finding.proposals if p.name == CLIP and p.kind == SET]


@PLAYBOOK
def test_what_decides_whether_training_works_is_seen_together_with_clipping(quickstart):
    (told,) = works.check(quickstart[0])
    assert told.verdict == ACT
    assert plain(told.answer).startswith(
        "Training works for learning_rate · min(clip_norm, 0.59) up to 0.762: outside all 26 trials fail"
    )


def test_the_next_study_ends_where_training_does(quickstart):
    study, found = quickstart
    report.save(study, found)
    spec = specification.load(study.directory / "next_study.py")
    rates = [t.parameters[RATE] for t in study.learned]
    assert spec.nuisance[RATE].high <= max(rates)
    # Of the trials that lie in the new range, at least 85 % trained.
    inside = [t for t in study.trials if t.parameters[RATE] <= spec.nuisance[RATE].high]
    assert np.mean([not t.failed for t in inside]) >= 0.85


def test_the_list_the_file_and_the_next_study_show_one_table(quickstart):
    study, found = quickstart
    path = report.save(study, found)
    stored = json.loads((study.directory / "findings.json").read_text())
    box = Page(path.read_text()).one("div", "next").text
    text = " ".join((study.directory / "next_study.py").read_text().replace("#", "").split())
    names = [d["name"] for d in stored["decisions"]]
    assert len(names) == len(set(names)) >= 2
    for decision in stored["decisions"]:
        words = decision["text"]
        assert words in box or f"{words[0].lower()}{words[1:]}" in box
        assert words in text or f"{words[0].lower()}{words[1:]}" in text
    assert stored["failed"] == [t.number for t in study.failures]


def test_no_finding_asks_for_what_is_decided_otherwise(quickstart):
    study, found = quickstart
    assert not advice_cases.contradicts(study)
    (unstable,) = (f for f in found if f.question == instability.QUESTION)
    assert "do not just search smaller ones" not in unstable.action
    assert unstable.evidence[-1].startswith("Not followed: Narrow learning_rate: its high bound")
    assert "decided already by" in unstable.evidence[-1]


# --- Failed to train is one thing ---


@pytest.fixture(scope="module")
def three_ways(tmp_path_factory):
    """A study on disk: one of 16 trials diverged, one ended where it began, and one is far outside."""
    directory = tmp_path_factory.mktemp("failed") / "s"
    truth = synthetic.Truth(lambda u: 0.5 * u[RATE], infeasible=lambda u: u[RATE] > 0.95)
    synthetic.write(directory, truth, num_trials=16)
    complete = [t.number for t in study_lib.load(directory).ranked]
    still, far = complete[0], complete[5]
    path = directory / "trials" / f"{still:03d}" / "summary.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"initial_loss": stored["curves"]["loss"][-1]}))
    path = directory / "trials" / f"{far:03d}" / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"objective": 0.48}))
    return directory, still, far


def test_what_failed_to_train_is_counted_ranked_and_drawn_as_one_thing(three_ways):
    directory, still, far = three_ways
    study = study_lib.load(directory)
    diverged = [t.number for t in study.of_state(trial_lib.INFEASIBLE)]
    failures = {still, far, *diverged}
    assert {t.number for t in study.failures} == failures
    assert study.trials[far].reason == failed.REASONS["outlying"]
    # The one that lost all again was the best on paper.
    assert study.best.number not in failures
    found = findings.check(study)
    page = Page(report.save(study, found).read_text())
    told = f"{16 - len(failures)} complete, {len(failures)} failed to train ({len(diverged)} infeasible)"
    assert told in summary.text(study, found)
    assert f"{len(failures)} failed to train" in page.one("ul", "counts").text
    rows = [e.text for e in page.all("tr") if "failed to train" in e.text]
    assert len(rows) == 2
    crosses = {int(e.get("data-t")) for e in page.all("path", "x", within=f"axis-{RATE}")}
    hollow = {int(e.get("data-t")) for e in page.all("path", "hollow", within=f"axis-{RATE}")}
    assert (crosses, hollow) == (failures, {still, far})
    (fraction,) = infeasible.check(study)
    assert plain(fraction.answer).startswith(f"{len(failures)} of 16 trials")
    assert ledger.entry(ledger.read(directory)).infeasible == len(failures)


def test_the_launcher_counts_the_same(three_ways):
    directory, *_ = three_ways
    study = study_lib.load(directory)
    directories = {t.number: directory / "trials" / f"{t.number:03d}" for t in study.trials}
    statuses = {n: trial_lib.read_json(path / "status.json") for n, path in directories.items()}
    objective = study.specification["objective"]
    assert failed.numbers(directories, statuses, objective) == {t.number for t in study.failures}


@pytest.mark.parametrize(
    ("metric", "maximize", "values", "far"),
    [
        (
            "validation/error_rate",
            False,
            [0.02, 0.025, 0.03, 0.02, 0.04, 0.05, 0.03, 0.02, 0.48],
            1,
        ),
        ("validation/accuracy", True, [0.98, 0.975, 0.97, 0.98, 0.96, 0.95, 0.97, 0.98, 0.52], 1),
        ("validation/loss", False, [1, 1.1, 1.3, 1.7, 2.2, 3, 4, 5.5, 7, 9], 0),  # no gap
        ("validation/loss", False, [1.0] * 9 + [1.1], 0),  # nothing scatters, so nothing is far
        (
            "validation/loss",
            False,
            [1, 1.1, 1.2, 1.3, 1.2, 1.1, 30, 31, 32, 33],
            0,
        ),  # a level of its own
        ("validation/loss", False, [1, 1.1, 30], 0),  # too few
    ],
)
def test_far_outside_is_beyond_a_gap(metric, maximize, values, far):
    assert sum(failed.outlying(metric, maximize, values, {})) == far


# --- Failures have sides ---


def sides(unlearned=5, diverged=5, trials=20):
    """The lowest rates end where they began, the highest diverge; in between a bowl."""
    rows = []
    for i in range(trials):
        low, high = i < unlearned, i >= trials - diverged
        value = 0.9 if low else 0.02 * np.exp(4 * ((i + 0.5) / trials - 0.5) ** 2)
        rows.append(
            {
                "at": [(i + 0.5) / trials],
                "objective": None if high else float(value),
                "unlearned": low,
            }
        )
    return synthetic.made(rows, spaces={RATE: synthetic.LEARNING_RATE})


@PLAYBOOK
def test_failures_on_both_sides_are_named_and_both_ends_left_out():
    study = sides()
    (told,) = works.check(study)
    assert told.verdict == ACT
    low, high = 10 ** (-3 + 4 * 5.5 / 20), 10 ** (-3 + 4 * 14.5 / 20)
    assert plain(told.answer) == (
        f"Training works for learning_rate from {low:.3g} to {high:.3g}: outside all 10 trials fail, inside "
        "none of 10."
    )
    assert any("(none of them diverged)" in e for e in told.evidence)
    assert any("(5 of them diverged)" in e for e in told.evidence)
    bounds = {p.side: p for p in told.proposals}
    assert all(p.kind == NARROW and p.sure and p.first for p in told.proposals)
    assert low <= bounds["low"].value <= 1.01 * low
    assert 0.99 * high <= bounds["high"].value <= high
    (table,) = next_draft.decided(study, [told])
    assert (table.kind, table.sure) == (CUT, True)
    assert table.text.startswith("Search learning_rate from ")
    # And the other finding does not suspect a bug.
    (fraction,) = infeasible.check(study)
    assert "bug" not in fraction.action
    assert {p.value for p in fraction.proposals} == {p.value for p in told.proposals}


def test_fishers_exact_probability():
    # 5 failures of 20, all in an end of 5: one of C(20, 5) = 15,504 choices.
    assert feasible.fisher(5, 5, 5, 20) == pytest.approx(1 / 15_504)
    # 2 or more of 3, where 4 of 8 fail: (C(4,2)·4 + C(4,3)) / C(8,3) = 28 / 56.
    assert feasible.fisher(2, 3, 4, 8) == pytest.approx(0.5)


def test_few_failures_without_a_side_cannot_be_told():
    rows = [{"at": [(i + 0.5) / 20], "objective": None if i in (4, 13) else 0.1} for i in range(20)]
    (told,) = works.check(synthetic.made(rows, spaces={RATE: synthetic.LEARNING_RATE}))
    assert (told.verdict, told.action, told.proposals) == (CANNOT_TELL, "", ())


@pytest.mark.playbook("best-at-the-edge-of-instability")
def test_two_highest_of_eight_rates_are_not_called_fine():
    study = advice_cases.two_highest_of_eight(np.random.default_rng(0), 8)
    (told,) = instability.check(study)
    assert told.verdict in (ACT, LOOK, CANNOT_TELL)
    # Where the evidence is short, it cannot be told.
    rows = [{"at": [(i + 0.5) / 8], "objective": None if i in (4, 7) else 0.1} for i in range(8)]
    (told,) = instability.check(synthetic.made(rows, spaces={RATE: synthetic.LEARNING_RATE}))
    assert told.verdict == CANNOT_TELL
    assert "cannot be told from so few" in told.answer


# --- One decision a hyperparameter ---


def asks(verdict, *proposals, answer="It is so."):
    return Finding("Why?", verdict, answer, action="Do it.", proposals=proposals)


def test_wishes_meet_in_one_decision_and_what_yields_says_so():
    study = sides()
    wider = asks(LOOK, Proposal(EXTEND, RATE, 30.0, "high"), answer="Wider.")
    fixed = asks(ACT, Proposal(SET, RATE, 0.1, sure=False), answer="Fix it.")
    fails = asks(LOOK, Proposal(NARROW, RATE, 1.0, "high", first=True), answer="It fails.")
    (decision,) = next_draft.decided(study, [wider, fixed, fails])
    assert (decision.kind, decision.sure, decision.reasons) == (CUT, True, ("It fails.",))
    assert len(decision.refused) == 2
    worded = decisions.worded(study, [wider, fixed, fails])
    assert [f.action for f in worded] == ["", "", "Do it."]
    assert all("decided already by “It fails.”" in f.evidence[-1] for f in worded[:2])
    # Without failures it is widened, and still not fixed.
    (decision,) = next_draft.decided(study, [fixed, wider])
    assert decision.kind == WIDEN


def test_what_is_removed_or_tuned_is_called_so():
    rows = [{"at": [0.5, 0.5], "objective": 0.1}] * 3
    study = synthetic.made(
        rows, spaces={RATE: synthetic.LEARNING_RATE, DECAY: synthetic.WEIGHT_DECAY}
    )
    gone = asks(LOOK, Proposal(SET, DECAY, 0.0, sure=False))
    best = asks(findings.FINE, Proposal(SET, DECAY, 1e-4, sure=False))
    (decision,) = next_draft.decided(study, [best, gone])
    assert (decision.kind, decision.sure) == (REMOVE, False)
    warmup = asks(
        ACT,
        Proposal(
            ADD, stability_fixes.WARMUP, {"scale": "linear", "low": 0, "high": 9, "type": "int"}
        ),
    )
    assert [d.kind for d in next_draft.decided(study, [warmup])] == [TUNE]


# --- What misled the chain of next studies ---


def test_overfitting_of_one_of_three_changes_nothing_without_asking():
    rng = np.random.default_rng(0)
    study = finding_studies.overfitting(rng, 20, True)
    flat = finding_studies.overfitting(rng, 20, False)
    best = {t.number for t in study.ranked[:3]}
    one = study.ranked[0].number
    trials = [
        dataclasses.replace(t, evaluations=flat.trials[t.number].evaluations)
        if t.number in best - {one}
        else t
        for t in study.trials
    ]
    base = {"hparams": {"dropout_rate": 0.0}}
    study.specification["base_config"] = base
    (all_,) = overfitting.check(study)
    assert (all_.verdict, [p.sure for p in all_.proposals]) == (ACT, [True])
    (few,) = overfitting.check(dataclasses.replace(study, trials=tuple(trials)))
    assert (few.verdict, [p.sure for p in few.proposals]) == (LOOK, [False])


def test_longer_training_waits_until_the_rate_is_tuned():
    study = finding_studies.still_improving(np.random.default_rng(0), 20, True)
    study.specification["base_config"] |= {"max_train_steps": 1000, "eval_every_steps": 25}
    late = dataclasses.replace(
        study, trials=tuple(dataclasses.replace(t, best_step=t.step) for t in study.trials)
    )
    (told,) = best_step.check(late)
    assert [p.sure for p in told.proposals] == [True, True]
    failing = tuple(
        dataclasses.replace(t, unlearned=True) if t.number % 3 == 0 else t for t in late.trials
    )
    (told,) = best_step.check(dataclasses.replace(late, trials=failing))
    assert [p.sure for p in told.proposals] == [False, False]
    assert plain(told.action).endswith(
        "but not before the learning rate is tuned: only 13 of 20 trials train."
    )


def test_clipping_does_not_widen_the_low_end_where_nothing_learns():
    records = step_records.StepRecords(
        percentiles={50: 2.0, 90: 10.0, 100: 30.0}, clipped_fraction=0.9
    )
    spaces = {RATE: synthetic.LEARNING_RATE}

    def proposed(places, bad):
        rows = [
            {"at": [u], "objective": 0.1 + i / 100, "unlearned": i in bad, "records": records}
            for i, u in enumerate(places)
        ]
        base = {"hparams": {"clip_norm": 0.5}}
        study = synthetic.made(rows, spaces=spaces, base=base)
        return {p.name for p in stability_fixes.clip_less(study, study.best)}

    places = [0.3, 0.35, 0.4, 0.5, 0.6, 0.2, 0.1, 0.05]
    assert RATE in proposed(places, ())
    assert RATE not in proposed(places, (6, 7))  # the lowest learn nothing
    assert RATE not in proposed([1 - u for u in places], ())  # the best lie high


# --- Random studies with a known truth; benchmarks/findings.py has more of them ---


@pytest.mark.parametrize("case", advice_cases.CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_advice_is_as_seldom_wrong_as_told(case):
    wrong = advice_cases.rate(case, 60, 8)
    assert wrong * 8 <= (0 if case.goal == 0 else 1) + 1e-9
