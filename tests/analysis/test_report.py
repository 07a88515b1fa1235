import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from playbook_jax import trial as trial_lib
from playbook_jax.analysis import findings
from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.figures import training_curves
from playbook_jax.analysis.reports import next_draft, report
from playbook_jax.errors import UsageError
from tests import synthetic_study as synthetic
from tests.html_page import Page
from tests.small import ROOT

RATE = "hparams.learning_rate"
TRUTH = synthetic.Truth(synthetic.bowl({RATE: 0.5}), infeasible=lambda units: units[RATE] > 0.85)
HOSTILE = "<script>alert(1)</script>\"'&<b>"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("study") / "s", TRUTH, num_trials=12)


@pytest.fixture
def directory(written, tmp_path):
    return shutil.copytree(written, tmp_path / "s")


def page(directory):
    """The report of a study directory, read and checked."""
    read = Page(report.write(directory).read_text())
    read.check()
    return read


def change(path, **values):
    trial_lib.write_json(path, trial_lib.read_json(path) | values)


@pytest.mark.playbook("checklist-before-the-goal", "plots-come-by-themselves")
def test_findings_come_first_then_figures_then_tables(written):
    read = page(written)
    sections = [e.get("id") for e in read.all("section")]
    in_order = [
        "answer",
        "findings",
        "hyperparameter-axes",
        "training-curves",
        "gradient-norm-figures",
        "best-step-figures",
        "best-of-k-figures",
        "trials",
        "space",
        "commands",
    ]
    assert [name for name in sections if name in in_order] == in_order
    # Optimization failures first, as the playbook has it.
    questions = [
        "Is training unstable?",
        "Are there outlier gradients?",
        "How many trials are infeasible?",
        "Is the search space wide enough?",
        "Have enough trials been run?",
        "Is the number of training steps right?",
        "Do trials overfit?",
    ]
    assert [e.text for e in read.all("p", "question") if e.text in questions] == questions
    assert read.one("h1").text.startswith("Which learning rate, momentum and weight decay")
    sources = [e.text for e in read.all("p", "source")]
    assert all(text.startswith("Playbook: ") for text in sources)


def test_the_answer_is_in_the_first_lines(written):
    study = study_lib.load(written)
    best = study.best
    read = page(written)
    lede = read.one("p", "lede").text
    assert f"The best of {len(study.ranked)} complete trials is trial {best.number}," in lede
    assert f"{100 * best.objective:.2f}\u00a0%" in lede
    assert f"at step {best.best_step} of 200" in lede
    values = read.one("ul", "values").text
    assert f"learning_rate {best.parameters[RATE]:.3g}" in values
    counts = read.one("ul", "counts").text
    assert counts == f"{len(study.ranked)} complete{12 - len(study.ranked)} infeasible"


def test_trials_that_came_to_the_same_are_named(directory):
    study = study_lib.load(directory)
    for trial in study.ranked[1:3]:
        path = directory / "trials" / f"{trial.number:03d}" / "status.json"
        change(path, objective=study.best.objective)
    even = sorted(t.number for t in study.ranked[:3])
    lede = page(directory).one("p", "lede").text
    assert f"is trial {even[0]}," in lede
    assert f"Trials {even[1]} and {even[2]} reached the same" in lede


def test_every_finding_is_in_the_page_with_evidence_and_action(written):
    study = study_lib.load(written)
    read = page(written)
    found = findings.check(study)
    articles = read.all("article")
    assert len(articles) == len(found)
    for article, finding in zip(articles, found, strict=True):
        for text in (finding.verdict, finding.answer, *finding.evidence, finding.action):
            assert text in article.text
    # What to do is one line a hyperparameter, and what findings ask for beside that.
    box, table = read.one("div", "next").text, next_draft.decided(study, found)
    assert all(decision.text in box for decision in table if decision.sure)
    places = {place for decision in table for place in decision.findings}
    todo = [f for f in findings.to_do(found) if found.index(f) not in places]
    assert all(finding.action in box for finding in todo)


def test_all_of_a_finding_is_shown_and_leads_to_its_figures(written):
    study = study_lib.load(written)
    finding = findings.Finding(
        question="Why?",
        verdict=findings.ACT,
        answer="Because of trials 3 and 4.",
        evidence=("One.", "Two."),
        action="Do this.",
        advice="Advice.",
        section="Identifying bad search space boundaries",
        open_question="Who knows.",
        figures=(f"axis-{RATE}", "not-drawn"),
    )
    fine = findings.Finding("What?", findings.FINE, "Fine.")
    read = Page(report.render(study, [fine, finding]))
    read.check()
    article = read.all("article")[1]
    for text in ("act", "Why?", "Because of", "One.", "Two.", "Do this.", "Advice.", "Who knows."):
        assert text in article.text
    links = [e.get("href") for e in read.all("a", within=article.get("id"))]
    assert links == [
        "https://github.com/google-research/tuning_playbook"
        "#identifying-bad-search-space-boundaries",
        f"#axis-{RATE}",
    ]
    assert [e.trial for e in read.all("b", "t", within=article.get("id"))] == [3, 4]
    # What to do is said at the top, and leads to the finding.
    todo = next(e for e in read.all("a", within="answer") if e.text == "Do this.")
    assert todo.get("href") == f"#{article.get('id')}"


def test_where_nothing_is_to_be_done_the_answer_alone_is_shown_at_first(written):
    study = study_lib.load(written)
    fine = findings.Finding("What?", findings.FINE, "Fine.", evidence=("Why.",))
    todo = findings.Finding("So?", findings.LOOK, "Look.", evidence=("There.",), action="Do it.")
    read = Page(report.render(study, [fine, todo]))
    (folded,) = read.all("details")
    assert "Why." in folded.text
    assert "Fine." not in folded.text
    assert [e.get("id") for e in read.all("article", "quiet")] == ["finding-0"]


def test_the_table_of_trials(written):
    study = study_lib.load(written)
    rows = [e for e in page(written).all("tr", within="trials") if e.trial is not None]
    order = [t.number for t in study.ranked]
    order += [t.number for t in study.trials if t.number not in order]
    assert [row.trial for row in rows] == order
    best = study.best
    assert rows[0].text.startswith(f"{best.number}complete{100 * best.objective:.2f}")
    assert "the loss is not finite" in rows[-1].text


def hostile(directory):
    """Puts markup wherever a study has text."""
    spaces = {
        RATE: synthetic.LEARNING_RATE,
        f"model.{HOSTILE}": {"values": [HOSTILE, "b", [HOSTILE, 1]]},
    }
    synthetic.write(directory, TRUTH, spaces=spaces, num_trials=12, goal=HOSTILE)
    stored = json.loads((directory / "study.json").read_text())
    specification = stored["specification"]
    specification |= {"name": HOSTILE, "algorithm": HOSTILE, "notes": HOSTILE, "goal": HOSTILE}
    specification["fixed"] = {HOSTILE: HOSTILE, "notes": HOSTILE}
    specification["base_config"] |= {"workload": HOSTILE, "optimizer": HOSTILE}
    specification["objective"]["metric"] = metric = f"validation/{HOSTILE.replace('/', '')}"
    (directory / "study.json").write_text(json.dumps(stored))
    for path in directory.glob("trials/*"):
        change(path / "status.json", reason=HOSTILE)
        change(path / "provenance.json", commit=HOSTILE)
        summary = trial_lib.read_json(path / "summary.json")
        evaluations = summary["evaluations"]
        evaluations[metric] = evaluations["validation/error_rate"]
        evaluations[f"train/{HOSTILE.replace('/', '')}"] = evaluations["train/error_rate"]
        trial_lib.write_json(path / "summary.json", summary)
    return directory


def test_markup_in_a_study_is_shown_as_text(tmp_path):
    read = page(hostile(tmp_path / HOSTILE.replace("/", "")))
    # The page's own, and the numbers that may be chosen.
    assert [e.get("type") for e in read.all("script")] == ["application/json", None]
    assert "alert" not in next(e.text for e in read.all("script") if e.get("type") is None)
    assert read.one("h1").text == HOSTILE
    assert not [e for e in read.all("b") if e.around[-1].name not in ("p", "li", "h3", "span")]
    for place in ("trials", "space", "commands", "hyperparameter-axes", "answer"):
        text = next(e for e in read.elements if e.get("id") == place).text
        assert "alert(1)" in text, place
    assert read.one("title").text == f"{HOSTILE}: study report"


def test_half_a_surrogate_pair_can_be_written(directory):
    stored = json.loads((directory / "study.json").read_text())
    stored["specification"]["goal"] = "\ud800 who?"
    (directory / "study.json").write_text(json.dumps(stored))
    assert page(directory).one("h1").text == "? who?"


# --- Studies in any state ---


def pending(directory):
    synthetic.write(directory, TRUTH, num_trials=5, started=0)


def single(directory):
    synthetic.write(directory, TRUTH, num_trials=1)


def all_infeasible(directory):
    truth = dataclasses.replace(TRUTH, infeasible=lambda units: True)
    synthetic.write(directory, truth, num_trials=6)


def running(directory):
    synthetic.write(directory, TRUTH, num_trials=8, started=6)
    for number, state in ((0, "RUNNING"), (1, "INTERRUPTED"), (2, "FAILED")):
        path = directory / "trials" / f"{number:03d}"
        (path / "summary.json").unlink()
        reason = "out of memory" if state == "FAILED" else ""
        change(path / "status.json", state=state, reason=reason, best_step=None, objective=None)
    lines = (directory / "trials/000/metrics.jsonl").read_text()
    (directory / "trials/000/metrics.jsonl").write_text(lines[: len(lines) // 2])
    (directory / "trials/001/metrics.jsonl").write_text("")


def thirty(directory):
    spaces = {f"hparams.h{i}": synthetic.WEIGHT_DECAY for i in range(29)}
    spaces[RATE] = synthetic.LEARNING_RATE
    synthetic.write(directory, TRUTH, spaces=spaces, num_trials=15)


def mixed(directory):
    spaces = synthetic.FOUR | {
        "optimizer": {"values": ["adam", "momentum", "nesterov"]},
        "model.hidden_sizes": {"values": [[64], [64, 64]]},
        "model.layers": {"scale": "linear", "low": 1, "high": 6, "type": "int"},
        "batch_size": {"values": [256, 32, 64]},
        "vary_seed": {"values": [True, False]},
    }
    scientific = ("optimizer",)
    metric = {"metric": "validation/accuracy", "mode": "max"}
    synthetic.write(directory, TRUTH, spaces=spaces, num_trials=15, scientific=scientific, **metric)
    stored = json.loads((directory / "study.json").read_text())
    for row in stored["trials"]:  # momentum is for two of the optimizers
        if row["parameters"]["optimizer"] == "adam":
            del row["parameters"]["hparams.momentum"]
    (directory / "study.json").write_text(json.dumps(stored))


def no_trials(directory):
    pending(directory)
    change(directory / "study.json", trials=[])


def nothing_varies(directory):
    single(directory)
    stored = json.loads((directory / "study.json").read_text())
    stored["specification"]["nuisance"] = {}
    stored["trials"][0]["parameters"] = {}
    (directory / "study.json").write_text(json.dumps(stored))


def perfect(directory):
    """Objectives that are all 0, and curves of no width."""
    synthetic.write(directory, dataclasses.replace(TRUTH, floor=0.0), num_trials=6)


def one_evaluation(directory):
    synthetic.write(directory, TRUTH, num_trials=6, steps=20, evaluations=1)


ODD = {
    pending: "No trial has ended yet, so there is no best validation error rate so far.",
    single: "The only complete trial, trial 0, reached a validation error rate of",
    all_infeasible: "All 6 trials that ended are infeasible, so there is no best",
    running: "complete trials is trial",
    thirty: "complete trials is trial",
    mixed: "with a validation accuracy of",
    no_trials: "The study has no trials.",
    nothing_varies: "The only complete trial, trial 0, reached",
    perfect: "with a validation error rate of 0.00\u00a0%",
    one_evaluation: "complete trials is trial",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_a_study_in_any_state_has_a_report(tmp_path, make):
    make(tmp_path / "s")
    read = page(tmp_path / "s")
    assert ODD[make] in read.one("p", "lede").text
    text = (
        (tmp_path / "s" / report.NAME)
        .read_text()
        .replace(next(e.text for e in read.all("script") if e.get("type") is None), "")
    )
    for word in ("NaN", ">nan", " nan", "inf<", "undefined", "None<", '"-inf'):
        assert word not in text
    study = study_lib.load(tmp_path / "s")
    assert len(read.all("figure", within="hyperparameter-axes")) == len(study.hyperparameters)
    assert len(read.all("article")) >= 4
    rows = [e for e in read.all("tr", within="trials") if e.trial is not None]
    assert len(rows) == len(study.trials)


def test_what_has_not_ended_is_told(tmp_path):
    running(tmp_path / "s")
    read = page(tmp_path / "s")
    assert "Let the study go on: 4 trials to go." in read.one("div", "next").text
    first = read.all("p", "command", within="commands")[0]
    assert first.text == "Continue the study: 4 trials to go."
    counts = read.one("ul", "counts").text
    assert "1 running" in counts.replace("\u00a0", " ")
    assert "2 pending" in counts
    assert "1 interrupted" in counts
    assert "1 failed" in counts
    assert "out of memory" in read.one("table", within="trials").text


# --- Size, imports ---


def test_the_page_of_a_thousand_trials_is_bounded():
    # With the longest curves that a summary holds. A curve's point takes up to 12 bytes ("432.1 198.7 "),
    # of the POINTS in each of four plots; a trial takes a row of the table and a mark in each of six
    # plots, 1.4 kB in all; the rest of the page is below 100 kB. In sum 3.4 MB: a photograph.
    rng = np.random.default_rng(0)
    names = ("validation/error_rate", "train/error_rate", "validation/loss", "train/loss")
    steps = np.arange(1, trial_lib.CURVE_POINTS + 1) * 50.0
    rows = []
    for at in rng.random((1000, 4)):
        curves = {name: rng.uniform(0.01, 0.9, len(steps)) for name in names}
        row = {"at": at, "objective": None if at[0] > 0.8 else float(rng.uniform(0.01, 0.9))}
        rows.append(row | {"step": 10_000, "evaluations": {"step": steps} | curves})
    study = synthetic.made(rows, spaces=synthetic.FOUR)
    text = report.render(study, findings.check(study))
    bound = 4 * 12 * training_curves.POINTS + 1000 * 1400 + 100_000
    assert len(text.encode()) < bound < 3.5e6
    read = Page(text)
    assert len([e for e in read.all("tr", within="trials") if e.trial is not None]) == 1000


RUN = """
import sys
from playbook_jax.analysis.reports import report
report.write(sys.argv[1])
print([m for m in ("jax", "flax", "optax", "tensorflow", "pandas", "scipy.stats", "matplotlib",
                   "playbook_jax.train", "playbook_jax.training.loop",
                   "playbook_jax.workload") if m in sys.modules])
"""


def test_imports_neither_jax_nor_training_code(directory):
    command = [sys.executable, "-c", RUN, str(directory)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_a_directory_that_cannot_be_written_is_told(directory, monkeypatch):
    def refuse(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(trial_lib, "write_text", refuse)
    with pytest.raises(UsageError, match=r"cannot write .*\.(py|html): Permission denied"):
        report.write(directory)
