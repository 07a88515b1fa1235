"""The report in a real browser: sorting, pointing, clicking, choosing what is shown, and no errors.

Needs Chromium, and is skipped where there is none: the page works without script.
"""

import html
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.figures import hyperparameter_axes
from playbook_jax.analysis.render import metric_picker
from playbook_jax.analysis.reports import report
from tests import synthetic_study as synthetic
from tests.html_page import Page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
RATE = "hparams.learning_rate"
TRUTH = synthetic.Truth(
    synthetic.bowl({RATE: 0.5, "hparams.momentum": 0.5}), infeasible=lambda units: units[RATE] > 0.8
)
# Before all other scripts.
CATCH = """<script>
window.problems = [];
window.addEventListener("error", (event) => problems.push(String(event.message)));
for (const kind of ["error", "warn"]) console[kind] = (...words) => problems.push(words.join(" "));
</script>"""
STEPS = f"<script>\n{Path(__file__).with_name('browser_steps.js').read_text()}</script>"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("b") / "s"
    synthetic.write(path, TRUTH, num_trials=24)
    report.write(path)
    return path


def browse(page, *arguments):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,2400"]
    command += [*arguments, f"file://{page}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def told(study):
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: nothing runs the page's script")
    text = (study / report.NAME).read_text()
    text = text.replace("<body>", f"{CATCH}<body>", 1).replace("</body>", f"{STEPS}</body>", 1)
    page = study / "tried.html"
    page.write_text(text)
    (found,) = re.findall(r'<pre id="told">(.*?)</pre>', browse(page, "--dump-dom"), re.DOTALL)
    return json.loads(html.unescape(found))


def test_nothing_goes_wrong(told):
    assert told["problems"] == []


def test_pointing_at_a_trial_shows_it_everywhere(told):
    trial, lit, tip = told["hover"]
    assert set(lit) == {trial}
    assert len(lit) > 5  # in each plot, in the table, in the text
    assert tip.startswith(f"trial{trial}") or tip.startswith(f"trial {trial}")
    assert "learning_rate" in tip
    assert told["away"] == [[], None, ""]
    trial, lit = told["row"]
    assert set(lit) == {trial}


def test_a_click_keeps_a_trial_and_another_or_escape_lets_it_go(told):
    trial, lit = told["click"]
    assert set(lit) == {trial}
    assert told["again"] == told["escape"] == []


def test_columns_are_sorted_both_ways_with_gaps_last(told):
    numbers = {}
    for way in ("up", "down"):
        cells, kind = told[way]
        assert kind == {"up": "ascending", "down": "descending"}[way]
        known = [float(cell.rstrip("\u00a0%")) for cell in cells if re.match(r"-?[\d.]", cell)]
        assert cells[: len(known)] == [c for c in cells if re.match(r"-?[\d.]", c)]
        numbers[way] = known
    assert 0 < len(numbers["up"]) <= 24
    assert numbers["up"] == sorted(numbers["up"])
    assert numbers["down"] == numbers["up"][::-1]


def test_another_objective_can_be_chosen(told, study):
    assert told["shown"] == [False, True]
    assert told["options"][0] == "validation error rate, best"
    assert "validation loss, final" in told["options"]
    found, read = told["chosen"], study_lib.load(study)
    values = {str(t.number): float(t.evaluations["train/error_rate"][-1]) for t in read.ranked}
    assert found["values"] == pytest.approx(values, rel=1e-4)
    assert (found["title"], found["titles"]) == ("train error rate, final (%)", 1)
    own = {t: x for t, x, *_ in told["places"]}
    shown = {t: (x, y) for t, x, y, _ in found["places"]}
    assert set(own) == set(values)
    # Without the logarithm, which has no place for zero, all are there; and heights are what ticks say.
    linear, log = found["places"], found["other"]
    ticks, other = found["ticks"], found["ticks2"]
    if found["log"]:
        (linear, log), (ticks, other) = (log, linear), (other, ticks)
    assert {t for t, *_ in linear} == set(values)
    assert {t for t, *_ in log} == {t for t, value in values.items() if value > 0}
    for places, scale, turn in ((linear, ticks, float), (log, other, np.log)):
        labelled = np.array([[turn(float(text)), y] for text, y in scale])
        slope, start = np.polyfit(*labelled.T, 1)
        highest = min(y for _, _, y, _ in places)  # where what lies beyond the axis is
        for trial, _, y, _ in places:
            assert y == pytest.approx(
                max(highest, start + slope * turn(100 * values[trial])), abs=2.5
            )
    # In the same columns, and the higher the larger; the same trials are starred.
    assert {t: x for t, (x, _) in shown.items()} == pytest.approx(
        {t: own[t] for t in shown}, abs=0.6
    )
    stars = [
        {t for t, _, _, star in places if star} for places in (told["places"], found["places"])
    ]
    assert stars[0] & set(shown) == stars[1]
    for places in (found["places"], found["other"]):
        at = {t: y for t, _, y, _ in places}
        ordered = sorted(at, key=lambda t: values[t])
        heights = [at[t] for t in ordered]
        assert all(a >= b - 1.5 for a, b in pairwise(heights))
        assert np.ptp(heights) > 50
    assert found["ticks"] != found["ticks2"]
    trial, lit = told["hover of chosen"]
    assert set(lit) == {trial}
    # And back.
    assert told["restored"] == [told["places"], 0, []]


def test_without_script_the_study_s_own_objective_is_all_there_is(study):
    page = Page((study / report.NAME).read_text())
    (choice,) = [e for e in page.elements if e.classes == ["choose"]]
    assert choice.get("hidden") is not None


def test_values_that_may_be_chosen():
    steps = np.array([10.0, 20.0, 30.0])
    accuracy, loss = np.array([0.5, 0.9, 0.8]), np.array([3.0, np.nan, np.nan])
    rows = [
        {
            "at": [0.5],
            "objective": 0.1,
            "evaluations": {"step": steps, "validation/accuracy": accuracy},
        },
        {"at": [0.6], "objective": 0.2, "evaluations": {"step": steps, "</script>/loss": loss}},
    ]
    study = synthetic.made(rows, spaces={RATE: synthetic.LEARNING_RATE})
    found = {m["label"]: m for m in metric_picker._of(study, study.ranked, "validation/accuracy")}
    assert {label: m["values"] for label, m in found.items()} == {
        "validation accuracy, best": {"0": 0.9},
        "validation accuracy, final": {"0": 0.8},
    }
    assert all(m["rising"] for m in found.values())
    (best,) = metric_picker._of(study, study.ranked, "</script>/loss")  # its last one is not finite
    assert best["values"] == {"1": 3.0}
    text = hyperparameter_axes.draw(study).controls
    assert text.count("</script>") == 1
    nothing = synthetic.made(
        [{"at": [0.5], "objective": 0.1}], spaces={RATE: synthetic.LEARNING_RATE}
    )
    assert hyperparameter_axes.draw(nothing).controls == ""
