"""Gradient norms: clipping, outliers by step, early instability, and their figures."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import step_records, study as study_lib
from playbook_jax.analysis.figures import gradient_norms
from playbook_jax.analysis.findings import (
    ACT,
    CANNOT_TELL,
    FINE,
    LOOK,
    clipping,
    early_instability,
    gradient_outliers,
)
from playbook_jax.analysis.reports import report
from tests import finding_studies as made, synthetic_study as synthetic
from tests.finding_studies import plain
from tests.html_page import Page

CLIP = {"hparams": {"clip_norm": 0.5}}


def recorded(*runs, base=None, fractions=None, **changes):
    """A study of trials with these losses and norms, the first one the best."""
    rows = []
    for i, (loss, norm) in enumerate(runs):
        fraction = fractions[i] if fractions else None
        rows.append(
            {
                "objective": 0.1 + i / 100,
                "step": len(loss),
                "records": made.records(loss, norm, fraction),
            }
            | changes
        )
    return made.study(rows, base=base)


def ordinary(seed=0, length=made.STEPS):
    return made.steps(np.random.default_rng(seed), length)


CHECKS = (clipping, gradient_outliers, early_instability)


@pytest.mark.parametrize("module", CHECKS, ids=lambda m: m.__name__.rsplit(".", 1)[-1])
def test_nothing_to_see_cannot_be_told(module):
    (finding,) = module.check(synthetic.made([], spaces=made.ONE))
    assert (finding.verdict, finding.answer) == (CANNOT_TELL, "No trial is complete.")
    blank = made.study([{"objective": 0.1}] * 4, base=CLIP)
    (finding,) = module.check(blank)
    assert (finding.verdict, finding.action) == (CANNOT_TELL, "")


# --- Clipping ---


@pytest.mark.playbook("aggressive-clipping", "clip-at-the-90th-percentile")
def test_aggressive_clipping():
    runs = [ordinary(i) for i in range(3)]
    (finding,) = clipping.check(recorded(*runs, base=CLIP, fractions=[0.6, 0.4, 0.7]))
    assert finding.verdict == ACT
    assert finding.answer == "Trials 0 and 2 have more than half of the updates clipped."
    assert finding.trials == (0, 2)
    ninety = np.percentile(runs[0][1], 90)
    assert finding.action.endswith(f"just above the typical norm, {ninety:.2g}.")
    assert plain(finding.evidence[0]) == (
        "Updates clipped: 60 % in trial 0 (clip_norm 0.5); 40 % in trial 1 (clip_norm 0.5); 70 % in trial 2 "
        "(clip_norm 0.5)."
    )
    assert f"is {ninety:.3g} (median {np.median(runs[0][1]):.3g}" in finding.evidence[1]
    (finding,) = clipping.check(recorded(*runs, base=CLIP, fractions=[0.4, 0.6, 0.4]))
    assert (finding.verdict, finding.trials) == (LOOK, (1,))


def test_clipping_in_measure_or_not_at_all():
    runs = [ordinary(i) for i in range(3)]
    (finding,) = clipping.check(recorded(*runs, base=CLIP, fractions=[0.5, 0.1, 0.0]))
    assert (finding.verdict, finding.action) == (FINE, "")  # half is not more than half
    (finding,) = clipping.check(recorded(*runs, fractions=[0.0] * 3))
    assert finding.answer == "The best trials do not clip gradients."
    assert "90th percentile" in finding.evidence[0]


def test_a_threshold_that_varies_is_the_trials_own():
    space = {"hparams.clip_norm": synthetic.CLIP_NORM}
    rows = [{"at": [u], "objective": 0.1 + u} for u in (0.0, 0.5)]
    study = synthetic.made(rows, spaces=space, base=CLIP)
    assert [clipping.threshold(study, t) for t in study.trials] == pytest.approx([0.1, 1.0])


# --- Outliers ---


def spiked(at, times, *, hurts, seed=0, length=made.STEPS):
    loss, norm = ordinary(seed, length)
    size = max(50, -(-length // 20))
    block = norm[at // size * size : at // size * size + size]
    norm[at] = times * np.percentile(block, 90)
    if hurts:
        loss[at + 1 : at + 15] += 5 * loss[at]
    return loss, norm


@pytest.mark.playbook("gradient-spikes-by-step", "gradient-norm-outliers")
def test_outliers_are_named_by_step_with_the_loss_around():
    loss, norm = spiked(437, 40, hurts=True)
    (finding,) = gradient_outliers.check(recorded((loss, norm), ordinary(1), ordinary(2)))
    assert finding.verdict == ACT
    assert finding.answer == "Training is shaken by outlier gradients: trial 0 (at step 437)."
    # The block of 50 steps has the spike in it: its own 90th percentile is a little above.
    times = norm[437] / np.percentile(norm[400:450], 90)
    before, after = loss[427:437].mean(), loss[437:448].max()
    assert finding.evidence == (
        f"Trial 0: step 437, {times:.2g} times the 90th percentile around it, the loss {before:.3g} before "
        f"and up to {after:.3g} after.",
    )
    assert finding.action.startswith("Clip gradients at the 90th percentile of their norms")
    (finding,) = gradient_outliers.check(recorded(spiked(437, 40, hurts=False)))
    assert finding.verdict == LOOK
    assert "harmless so far" in finding.answer
    assert finding.trials == (0,)


def test_ordinary_norms_have_no_outliers():
    (finding,) = gradient_outliers.check(recorded(*[ordinary(i, 10_000) for i in range(3)]))
    assert finding.verdict == FINE
    # Large first gradients; norms that vary wildly throughout.
    loss, norm = ordinary()
    norm[3:15] *= 100
    wild = np.exp(1.2 * np.random.default_rng(0).normal(size=made.STEPS))
    for run in ((loss, norm), (loss, wild)):
        assert gradient_outliers.check(recorded(run))[0].verdict == FINE
    first = norm / 100
    first[6] = norm[6] * 1000
    assert gradient_outliers.check(recorded((loss, first)))[0].verdict == FINE


@pytest.mark.parametrize(("times", "verdict"), [(4.7, FINE), (5.5, LOOK)])
def test_far_is_five_times(times, verdict):
    norm = 1 + 0.05 * np.random.default_rng(0).normal(size=made.STEPS)
    norm[420] = times * np.percentile(norm[400:450], 90)
    (finding,) = gradient_outliers.check(recorded((np.ones(made.STEPS), norm)))
    assert finding.verdict == verdict


def test_outliers_where_gradients_are_clipped_already():
    run = spiked(437, 40, hurts=True)
    (finding,) = gradient_outliers.check(recorded(run, base={"hparams": {"clip_norm": 9.0}}))
    assert finding.action.startswith("Clip harder")
    (finding,) = gradient_outliers.check(recorded(run, base={"hparams": {"clip_norm": 0.1}}))
    assert "try longer warmup" in finding.action


def test_numbers_that_are_not_finite_are_no_outliers():
    loss, norm = ordinary()
    norm[500] = loss[500] = np.nan
    norm[600] = np.inf
    assert gradient_outliers.check(recorded((loss, norm)))[0].verdict == FINE


# --- Early instability ---


def bumped(height, at=15, seed=0, length=made.STEPS):
    loss, norm = ordinary(seed, length)
    return loss + height * np.exp(-0.5 * ((np.arange(len(loss)) - at) / 6) ** 2), norm


@pytest.mark.playbook("early-instability-between-evaluations")
def test_early_instability_that_evaluations_miss():
    loss, norm = bumped(8.0)
    steps = np.arange(100.0, 1001, 100)
    evaluations = {"step": steps, "validation/error_rate": 0.5 - steps / 4000}
    study = recorded((loss, norm), ordinary(1), ordinary(2), evaluations=evaluations)
    (finding,) = early_instability.check(study)
    assert finding.verdict == ACT
    assert finding.answer == (
        "The training loss rises early and recovers: trial 0, unseen by the evaluations."
    )
    means = np.convolve(loss[:500], np.full(5, 0.2), mode="valid")
    at = int(np.argmax(means - np.minimum.accumulate(np.minimum(means, loss[0]))))
    assert finding.evidence == (
        f"Trial 0: the loss is {loss[0]:.3g} at first and {means[at]:.3g} at step {at + 2} (mean of 5 steps)"
        ", before any evaluation.",
    )
    assert "warmup" in finding.action
    often = {name: values[:1] for name, values in evaluations.items()} | {"step": np.array([10.0])}
    (finding,) = early_instability.check(recorded((loss, norm), evaluations=often))
    assert "unseen" not in finding.answer
    (finding,) = early_instability.check(recorded(bumped(2.0)))
    assert finding.verdict == LOOK


def test_a_loss_that_falls_at_once_is_stable():
    runs = [ordinary(i) for i in range(3)]
    assert early_instability.check(recorded(*runs))[0].verdict == FINE
    # Unstable, but not early: after 500 steps, or in the second half of a short run.
    for length, at in ((5000, 1500), (200, 150)):
        loss, norm = bumped(8.0, at=at, length=length)
        assert early_instability.check(recorded((loss, norm)))[0].verdict == FINE
    noisy = np.random.default_rng(0).lognormal(0, 0.5, 1000)
    assert early_instability.check(recorded((noisy, noisy)))[0].verdict == FINE


# --- Read from files ---


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    truth = synthetic.Truth(synthetic.bowl({made.RATE: 0.5}))
    return synthetic.write(tmp_path_factory.mktemp("s") / "s", truth, num_trials=6)


def test_records_are_read_from_the_trial_directory(written):
    study = study_lib.load(written)
    for trial in study.trials:
        steps = trial_lib.load(written / "trials" / f"{trial.number:03d}").steps
        norms = steps["gradient_norm"].to_numpy(float)
        assert trial.records.percentiles[90] == pytest.approx(np.percentile(norms, 90), rel=1e-6)
        assert trial.records.clipped_fraction == pytest.approx(steps["clipped"].mean())
        assert trial.records.counts.sum() == 200
        assert len(trial.records.edges) == len(trial.records.counts) + 1
        leader = trial in study.leaders
        assert (len(trial.records.every.get("loss", ())) == 200) == leader
        if leader:
            np.testing.assert_array_equal(trial.records.every["gradient_norm"], norms)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "damage",
    [
        {"gradient_norm": None, "curves": 3, "clipped_fraction": "half"},
        {
            "gradient_norm": {
                "percentiles": {"x": 1, "90": None},
                "histogram": {"edges": [1], "counts": 1},
            }
        },
        {"curves": {"step": [1, 2], "loss": ["a", 2], "gradient_norm": [1]}},
        {"curves": {"step": [], "loss": [], "gradient_norm": [], "gradient_norm_max": []}},
        {"gradient_norm": {"histogram": {"edges": [0, None], "counts": [1]}}},
        {"curves": {"step": [1, 2], "loss": [None, 1.0], "gradient_norm": [[1], [2]]}},
    ],
)
def test_damaged_summaries_and_records(written, tmp_path, damage):
    directory = shutil.copytree(written, tmp_path / "s")
    for path in directory.glob("trials/*"):
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps(summary | damage))
        (path / "steps.json").write_text("{}" if "curves" in damage else '{"columns": [1]}')
        (path / "timing.jsonl").write_text('{"interval_seconds": "x"}\n[1]\n')
    page = Page(report.write(directory).read_text())
    page.check()
    assert "NaN" not in (directory / "findings.json").read_text()


def test_no_records_are_made_of_anything_else():
    for summary in (None, [1], {}):
        records = step_records.parse(summary)
        assert (records.curves, records.percentiles, records.every) == ({}, {}, {})
        assert len(records.counts) == 0
        assert records.clipped_fraction is None


# --- The figures ---


@pytest.mark.playbook("gradient-norm-plots", "clip-at-the-90th-percentile")
def test_norms_are_drawn_by_step_and_as_a_histogram():
    runs = [spiked(437, 40, hurts=True), ordinary(1), ordinary(2), ordinary(3)]
    study = recorded(*runs, base=CLIP, fractions=[0.3] * 4)
    group = gradient_norms.draw(study)
    assert [figure.id for figure in group.figures] == ["gradient-norms", "gradient-norm-histogram"]
    by_step, histogram = (Page(figure.svg) for figure in group.figures)
    assert [e.trial for e in by_step.all("path", "front")] == [2, 1, 0]  # the best on top
    assert len(by_step.all("path", "band")) == 3
    ninety = f"90th percentile {np.percentile(runs[0][1], 90):.3g}"
    for page in (by_step, histogram):
        words = [e.text for e in page.all("text")]
        assert ninety in words
        assert "clip_norm 0.5" in words
        assert len(page.all("path", "level")) == 2
    assert "step 437" in [e.text for e in by_step.all("text")]
    assert [e.trial for e in by_step.all("path", "spike")] == [0]
    bars = histogram.all("rect", "hist")
    counts = study.best.records.counts
    assert len(bars) == np.count_nonzero(counts)
    heights = np.array([float(bar.get("height")) for bar in bars])
    expected = counts[counts > 0]
    np.testing.assert_allclose(heights / heights.max(), expected / expected.max(), atol=0.002)
    assert plain(group.figures[1].note) == "30 % of the updates were clipped."


def test_lines_are_means_and_bands_reach_to_the_largest():
    loss, norm = ordinary()
    study = recorded((loss, norm))
    drawn = gradient_norms._curves(study.best)
    assert len(drawn["step"]) <= gradient_norms.POINTS
    assert drawn["most"].max() == pytest.approx(norm.max())
    ends = np.concatenate([[0], drawn["step"].astype(int) + 1])
    for i, (a, b) in enumerate(itertools.pairwise(ends)):
        assert drawn["most"][i] == pytest.approx(norm[a:b].max())
        assert drawn["mean"][i] == pytest.approx(norm[a:b].mean(), rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_figures_of_odd_norms():
    loss = np.ones(100)
    assert gradient_norms.draw(synthetic.made([], spaces=made.ONE)) is None
    zeros = recorded((loss, np.full(100, 1e-30)))
    zeros = dataclasses.replace(
        zeros,
        trials=tuple(
            dataclasses.replace(
                t,
                records=step_records.parse(
                    {"curves": {"step": [1], "gradient_norm": [0], "gradient_norm_max": [0]}}
                ),
            )
            for t in zeros.trials
        ),
    )
    assert gradient_norms.draw(zeros) is None
    constant = gradient_norms.draw(recorded((loss, loss)))
    for figure in constant.figures:
        Page(figure.svg)
        assert "nan" not in figure.svg


@pytest.mark.playbook("aggressive-clipping")
def test_hardly_more_than_half_of_the_updates_is_aggressive():
    runs = [ordinary(i) for i in range(3)]
    (finding,) = clipping.check(recorded(*runs, base=CLIP, fractions=[0.51, 0.51, 0.3]))
    assert (finding.verdict, finding.trials) == (ACT, (0, 1))
    (finding,) = clipping.check(recorded(*runs, base=CLIP, fractions=[0.5, 0.5, 0.5]))
    assert finding.verdict == FINE


@pytest.mark.playbook("early-instability-between-evaluations")
def test_early_are_the_first_500_steps():
    for at, verdict in ((150, ACT), (470, ACT), (540, FINE)):
        study = recorded(bumped(8.0, at=at, length=2000))
        assert early_instability.check(study)[0].verdict == verdict, at
