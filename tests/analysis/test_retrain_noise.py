"""The retrain noise in a study's report; studies of replicates."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from playbook_jax import trial as trial_lib
from playbook_jax.analysis import findings
from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.data.retrain_noise import RetrainNoise
from playbook_jax.analysis.figures import best_of_k
from playbook_jax.analysis.findings import (
    ACT,
    CANNOT_TELL,
    FINE,
    LOOK,
    boundary,
    enough_trials,
    isolation,
    retrain_noise as finding,
    sensitivity,
)
from playbook_jax.analysis.reports import commands, report
from playbook_jax.analysis.stats import replicates as statistics, sensitivity as sensitivity_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies.store import replicated
from tests import finding_studies as made, synthetic_study as synthetic
from tests.finding_studies import plain
from tests.html_page import Page

RATE = "hparams.learning_rate"
NOISE = pytest.mark.playbook("retrain-noise-in-the-report")
BOWL = synthetic.Truth(synthetic.bowl({RATE: 0.5}))


def noise(objectives, trial=0):
    values = np.array(objectives, float)
    return RetrainNoise(trial, f"trial {trial}", "/r", values, statistics.spread(values))


def scattered(sd, mean=0.1, runs=8):
    """Replicates of this standard deviation."""
    values = np.linspace(-1, 1, runs)
    return noise(mean + sd * values / values.std(ddof=1))


def replicates(directory, study, objectives, trial=None, vary="seed", metric=None):
    """A workdir as scripts/replicate.py leaves it, of the best trial of a study."""
    best = study.best if trial is None else study.trials[trial]
    chosen = {"trial": best.number, "objective": best.objective, "objectives": [], "failures": 0}
    side = {
        "source": f"trial {best.number} of {study.directory}",
        "config": {},
        "chosen": chosen,
        "replicates": None,
        "validation_examples": None,
    }
    objective = dict(study.specification["objective"])
    values = {"format": 1, "objective": objective | ({"metric": metric} if metric else {})}
    values |= {"vary": vary, "worth": None, "candidate": side, "baseline": None}
    inner = directory / "candidate"
    inner.mkdir(parents=True)
    trial_lib.write_json(directory / "replicates.json", values)
    synthetic.write(
        inner, BOWL, spaces={"seed": {"scale": "linear", "low": 0, "high": 2**32 - 1, "type": "int"}},
        num_trials=len(objectives), started=0,
    )  # fmt: skip
    for i, value in enumerate(objectives):
        status = trial_lib.new_status(trial_lib.COMPLETE, "", 200)
        status |= {"objective": value, "best_step": 100}
        path = inner / "trials" / f"{i:03d}"
        path.mkdir()
        trial_lib.write_json(path / "status.json", status)
    return directory


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("noise") / "s", BOWL, num_trials=12)


@pytest.fixture
def directory(written, tmp_path):
    return shutil.copytree(written, tmp_path / "s")


# --- Where replicates are found ---


def test_replicates_are_found_where_the_study_says_and_beside_it(directory, tmp_path):
    study = study_lib.load(directory)
    assert study.retrain is None
    beside = replicates(tmp_path / "s_replicates", study, [0.02, 0.03, 0.025])
    found = study_lib.load(directory).retrain
    assert (found.trial, found.name) == (study.best.number, f"trial {study.best.number}")
    assert found.sd == pytest.approx(np.std([0.02, 0.03, 0.025], ddof=1))
    other = replicates(tmp_path / "other" / "r", study, [0.02, 0.03, 0.025, 0.026])
    replicated.note(directory, other)
    replicated.note(directory, other)
    stored = json.loads((directory / "replicated.json").read_text())
    assert stored["workdirs"] == ["../other/r"]  # relative, so that both can be moved
    assert len(study_lib.load(directory).retrain.objectives) == 4  # of more runs
    # Those of the best trial come before those of another one.
    replicated.note(
        directory, replicates(tmp_path / "third", study, [0.1] * 9, trial=study.ranked[1].number)
    )
    assert study_lib.load(directory).retrain.trial == study.best.number
    shutil.rmtree(other)
    assert len(study_lib.load(directory).retrain.objectives) == 3
    shutil.rmtree(beside)
    assert study_lib.load(directory).retrain.trial == study.ranked[1].number


def test_what_is_no_retrain_noise_of_the_study_is_left_alone_and_refused_if_asked_for(
    directory, tmp_path
):
    study = study_lib.load(directory)
    few = replicates(tmp_path / "few", study, [0.02, 0.03])
    part = replicates(tmp_path / "part", study, [0.02, 0.03, 0.04], vary="data")
    loss = replicates(tmp_path / "loss", study, [0.02, 0.03, 0.04], metric="validation/loss")
    for path, told in (
        (few, "has 2 complete replicates; it takes 3"),
        (part, "has replicates with --vary=data: that is not all of the retrain noise"),
        (loss, "has another objective, validation/loss"),
        (tmp_path / "none", "cannot be read"),
    ):
        replicated.note(directory, path)
        with pytest.raises(UsageError, match="--replicates") as error:
            study_lib.load(directory, replicates=str(path))
        assert told in str(error.value)
    assert study_lib.load(directory).retrain is None
    (directory / "replicated.json").write_text('{"workdirs": [1, {}]}')
    assert study_lib.load(directory).retrain is None


def test_another_studys_replicates_serve_if_they_are_asked_for(directory, tmp_path):
    other = synthetic.write(tmp_path / "other", BOWL, num_trials=6, seed=5)
    place = replicates(tmp_path / "r", study_lib.load(other), [0.02, 0.03, 0.04])
    replicated.note(directory, place)
    assert study_lib.load(directory).retrain is None  # it is no trial of this study
    asked = study_lib.load(directory, replicates=str(place))
    assert asked.retrain.trial is None
    assert asked.retrain.name.endswith(f"of {other}")
    (told,) = finding.check(asked)
    assert any("another study" in line for line in told.evidence)
    again = next(c for c in commands.commands(asked, []) if c.purpose.startswith("Write"))
    assert f"--replicates={place}" in again.words


# --- What it says ---


@NOISE
def test_without_replicates_it_is_said_once_and_how_to_measure_it(directory):
    study = study_lib.load(directory)
    (found,) = finding.check(study)
    assert found.verdict == CANNOT_TELL
    assert found.answer == (
        "No replicates: the retrain noise is not known; scripts/replicate.py "
        f"--study={directory} measures it."
    )
    assert not found.action  # it is no fault of the study
    told = [f for f in findings.check(study) if "replicate" in f.answer + " ".join(f.evidence)]
    assert len(told) == 1
    assert any("scripts/replicate.py" in c.words for c in commands.commands(study, []))
    known = dataclasses.replace(study, retrain=scattered(0.01))
    assert not any("scripts/replicate.py" in c.words for c in commands.commands(known, []))


def levels(values, sd=None, **options):
    study = made.study([{"objective": value} for value in values], **options)
    return study if sd is None else dataclasses.replace(study, retrain=scattered(sd, min(values)))


@NOISE
def test_trials_that_differ_no_more_than_runs_of_one_configuration():
    values = [
        0.1 + 0.001 * i for i in range(10)
    ]  # the better five: a standard deviation of 0.00158
    (alike,) = finding.check(levels(values, sd=0.0016))
    assert alike.verdict == LOOK
    assert "the better half of the trials differ no more" in alike.answer
    (apart,) = finding.check(levels(values, sd=0.0015))
    assert (apart.verdict, apart.action) == (FINE, "")
    assert "0.16 % apart (standard deviation): 1.1 times the noise" in plain(apart.evidence[2])
    mean, low, high = 0.1 + 0, *(apart.evidence[0].split("within ")[1].split(" (")[0].split(" to "))
    spread = scattered(0.0015, mean).spread
    assert plain(low) == f"{100 * spread.low:.2f} %"
    assert plain(high) == f"{100 * spread.high:.2f} %"


@NOISE
def test_the_good_region_is_that_within_the_retrain_noise():
    values = [0.1, 0.105, 0.11, 0.119, 0.121, 0.2, 0.3]
    (plain_one,) = enough_trials.check(levels(values))
    assert plain_one.trials == (0,)  # within 2 % of the best value
    (found,) = enough_trials.check(levels(values, sd=0.01))
    assert (found.verdict, found.trials) == (FINE, (0, 1, 2, 3))
    assert "Within 2.00 % (2 standard deviations of the retrain noise)" in plain(found.evidence[0])


@NOISE
def test_a_gain_of_a_value_is_held_against_two_runs():
    study = made.two_values(0.02)
    (found,) = isolation.check(study)
    assert found.verdict == FINE
    assert "Two runs" not in " ".join(found.evidence)
    small = dataclasses.replace(study, retrain=scattered(0.002, 0.2))
    (found,) = isolation.check(small)
    assert found.verdict == FINE
    assert "retrain" not in found.answer
    (line,) = [e for e in found.evidence if e.startswith("Two runs")]
    pre, post = (min(t.objective for t in study.trials[i::2]) for i in (0, 1))
    times = (post - pre) / (np.sqrt(2) * 0.002)
    assert f"by {times:.2g} times that" in line
    large = dataclasses.replace(study, retrain=scattered(0.02, 0.2))
    (found,) = isolation.check(large)
    assert "one run of each does not, within retrain noise" in found.answer


@NOISE
def test_what_changes_the_objective_by_less_than_the_noise_can_be_fixed():
    rng = np.random.default_rng(0)
    units = rng.random((60, 2))
    costs = 1 + 0.5 * units[:, 0] + 0.02 * units[:, 1] + 0.005 * rng.normal(size=60)
    spaces = {name: synthetic.FOUR[name] for name in list(synthetic.FOUR)[:2]}
    rows = [{"at": list(u), "objective": float(c)} for u, c in zip(units, costs, strict=True)]
    study = synthetic.made(rows, spaces=spaces, metric="validation/loss")
    known = dataclasses.replace(study, retrain=scattered(0.05, 1.0))
    effects = {e.label: e for e in sensitivity_lib.analyze(known).effects}
    # Scores and objectives have one scale in the middle, so that a straight effect keeps its size.
    assert effects["learning_rate"].size == pytest.approx(0.5, rel=0.25)
    assert effects["momentum"].size < 0.06
    assert (effects["learning_rate"].noise, effects["momentum"].noise) == (False, True)
    (found,) = sensitivity.check(known)
    assert found.answer == "learning_rate matters; momentum is within noise."
    (line,) = [e for e in found.evidence if e.startswith("momentum")]
    assert "momentum is within replicate noise: over its range the objective changes by" in line
    assert "trained again scatters by 0.05" in line
    assert "it can be fixed" in line
    exact = dataclasses.replace(study, retrain=scattered(0.001, 1.0))
    assert not any(e.noise for e in sensitivity_lib.analyze(exact).effects)


@NOISE
def test_a_bound_that_alike_trials_crowd_is_only_worth_a_look():
    places = (np.arange(20) + 0.5) / 20
    rows = [{"at": [u], "objective": float(0.2 - 0.05 * u)} for u in places]
    study = synthetic.made(rows, spaces={RATE: synthetic.LEARNING_RATE})
    (found,) = boundary.check(study)
    assert found.verdict == ACT
    known = dataclasses.replace(study, retrain=scattered(0.002, 0.15))
    (found,) = boundary.check(known)
    assert found.verdict == ACT
    # The best one outside of the outer 30 % is at 0.675, 0.3 of the axis from the best: 0.015.
    away = next(e for e in found.evidence if e.startswith("The best trial away"))
    assert "1.50 %, 7.5 standard deviations" in plain(away)
    alike = dataclasses.replace(study, retrain=scattered(0.05, 0.15))
    (found,) = boundary.check(alike)
    assert found.verdict == LOOK
    assert not found.proposals[0].sure


@NOISE
def test_the_figures_have_a_band(directory, tmp_path):
    study = study_lib.load(directory)
    bands = Page(report.write(directory).read_text()).all("rect", "retrain")
    assert not bands
    best = study.best.objective
    place = replicates(tmp_path / "r", study, [best, 1.2 * best, 1.1 * best])
    replicated.note(directory, place)
    text = report.write(directory).read_text()
    page = Page(text)
    page.check()
    # In the box plots and in the curves of the objective.
    assert len(page.all("rect", "retrain")) == 2
    assert f"trial {study.best.number} trained again, ± 1 SD" in text
    stored = json.loads((directory / "findings.json").read_text())["retrain"]
    assert stored["objectives"] == [best, 1.2 * best, 1.1 * best]
    assert stored["sd"] == pytest.approx(0.1 * best)


# --- Studies of replicates ---


def test_a_study_of_replicates_has_no_hyperparameter(directory, tmp_path):
    study = study_lib.load(directory)
    values = [0.02, 0.03, 0.025, 0.021, 0.027, 0.024]
    place = replicates(tmp_path / "r", study, values) / "candidate"
    runs = study_lib.load(place)
    assert runs.is_replicates
    assert runs.hyperparameters == ()
    (found,) = finding.check(runs)
    assert found.verdict == FINE
    mean, sd = np.mean(values), np.std(values, ddof=1)
    assert f"{100 * mean:.2f} % on average" in plain(found.answer)
    assert f"scatter by {100 * sd:.2f} %" in plain(found.answer)
    text = report.write(place).read_text()
    Page(text).check()
    assert "axis-seed" not in text
    assert not (place / "next_study.py").exists()
    assert best_of_k.draw(runs) is None
    assert not any("seed matters" in f.answer for f in findings.check(runs))


def test_runs_that_fail_are_told():
    study = levels([0.1, 0.11, 0.12], spaces={})
    spec = study.specification | {"nuisance": {"seed": {"values": [1, 2, 3]}}, "scientific": {}}
    failed = dataclasses.replace(study.trials[2], state="INFEASIBLE", objective=None)
    study = dataclasses.replace(
        study, specification=spec, trials=(*study.trials[:2], failed), hyperparameters=()
    )
    (found,) = finding.check(study)
    assert found.verdict == LOOK
    assert "Besides, 1 run failed: in no mean." in found.evidence
    assert found.action.startswith("Make it stable first")
    one = dataclasses.replace(study, trials=study.trials[:1])
    assert finding.check(one)[0].verdict == CANNOT_TELL
