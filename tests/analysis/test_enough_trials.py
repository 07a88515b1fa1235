"""How many trials are enough: the good region, and the best of k by bootstrap."""

import itertools

import numpy as np
import pytest

from playbook_jax.analysis.figures import best_of_k
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK, enough_trials
from playbook_jax.analysis.stats import best_of
from tests import finding_studies as made, synthetic_study as synthetic
from tests.finding_studies import plain
from tests.html_page import Page


def test_the_bootstrap_is_that_of_all_draws():
    costs = np.array([1.0, 2.0, 5.0, 7.0])
    for failures, size in itertools.product((0, 1), (1, 2, 3)):
        trials = [*costs, *[np.inf] * failures]
        best = np.sort([min(drawn) for drawn in itertools.product(trials, repeat=size)])
        places = np.ceil(np.array(best_of.QUANTILES) * len(best) - 1e-9).astype(int) - 1
        np.testing.assert_array_equal(best_of.bootstrap(costs, failures, size), best[places])


def test_the_mean_of_the_best_is_that_of_all_subsets():
    costs = np.array([1.0, 2.0, 5.0, 7.0, 7.5])
    for failures, size in itertools.product((0, 2), (1, 2, 4)):
        trials = [*costs, *[np.inf] * failures]
        best = np.array([min(drawn) for drawn in itertools.combinations(trials, size)])
        mean = best[np.isfinite(best)].mean()
        assert best_of.expected(costs, failures, size) == pytest.approx(mean)


def test_what_twice_as_many_gain_is_right_on_average():
    rng = np.random.default_rng(0)

    def costs(n):
        return np.sort(((rng.random((n, 4)) - 0.5) ** 2).sum(axis=1))

    told = [best_of.growth(costs(40), 0).gain for _ in range(300)]
    gain = np.mean([costs(40)[0] for _ in range(3000)]) - np.mean(
        [costs(80)[0] for _ in range(3000)]
    )
    # A study tells it to a factor of two; 300 of them to 5 %; a power of n is not all of the truth.
    assert np.mean(told) == pytest.approx(gain, rel=0.2)
    growth = best_of.growth(np.arange(20.0), 0)
    assert 0 <= growth.gain <= growth.gained
    assert best_of.growth(np.ones(8), 4).gain == 0


def levels(values, noise=0.002, **options):
    rng = np.random.default_rng(0)
    rows = [made.trial(rng, made.falling(rng, v, noise=noise)) | {"objective": v} for v in values]
    return made.study(rows, **options)


@pytest.mark.playbook("points-in-the-good-region")
def test_a_good_region_that_is_hardly_sampled():
    study = levels([0.1, 0.103, 0.12, 0.13, 0.14, 0.15, 0.2, 0.3])
    (finding,) = enough_trials.check(study)
    assert finding.verdict == LOOK
    assert (
        finding.answer == "Only trials 0 and 1 of 8 are in the good region: it is hardly sampled."
    )
    late = [t.evaluations["validation/error_rate"][20:] for t in study.leaders]
    off = [v[1:-1] - (v[:-2] + v[2:]) / 2 for v in late]
    width = 2 * np.median([np.sqrt(np.mean(o**2) / 1.5) for o in off])
    assert f"Within {100 * width:.2f} % of the best" in plain(finding.evidence[0])
    half = np.mean([min(c) for c in itertools.combinations([t.objective for t in study.trials], 4)])
    assert f"half as many trials is {100 * half:.2f} % on average" in plain(finding.evidence[1])
    assert finding.action.startswith("Run more trials (num_trials = 16 in the same study goes on)")
    assert finding.open_question


def test_a_good_region_with_some_trials():
    (finding,) = enough_trials.check(levels([0.1, 0.101, 0.102, 0.103, 0.15, 0.2]))
    assert (finding.verdict, finding.action) == (FINE, "")
    assert finding.answer == "4 trials of 6 are in the good region."


def test_without_curves_two_percent_of_the_best_value_count():
    rows = [{"objective": value} for value in (0.1, 0.1019, 0.1021, 0.2, 0.3)]
    (finding,) = enough_trials.check(made.study(rows))
    assert (finding.verdict, finding.trials) == (LOOK, (0, 1))


def test_too_few_to_tell():
    (finding,) = enough_trials.check(levels([0.1, 0.2, 0.3, 0.4]))
    assert finding.verdict == CANNOT_TELL
    assert finding.action.startswith("Run more trials")
    (finding,) = enough_trials.check(synthetic.made([], spaces=made.ONE))
    assert (finding.answer, finding.action) == ("No trial is complete.", "")
    rows = [{"objective": 0.1}] * 3 + [{"objective": None, "state": "PENDING"}]
    assert enough_trials.check(made.study(rows))[0].action == ""  # the study itself goes on


def test_accuracies():
    rows = [{"objective": value} for value in (0.9, 0.8, 0.7, 0.6, 0.5)]
    study = made.study(rows, metric="validation/accuracy", mode="max")
    (finding,) = enough_trials.check(study)
    assert finding.trials == (0,)
    half = np.mean([max(c) for c in itertools.combinations([t.objective for t in study.trials], 2)])
    assert f"{100 * half:.2f} % on average, of all 5 it is 90.00 %" in plain(finding.evidence[1])
    Page(best_of_k.draw(study).figures[0].svg)


# --- The figure ---


@pytest.mark.playbook("best-of-k-box-plots")
@pytest.mark.parametrize(("number", "mode"), [(5, "min"), (20, "min"), (20, "max"), (1000, "min")])
def test_box_plots(number, mode):
    rng = np.random.default_rng(0)
    values = 0.1 + 0.3 * rng.random(number)
    rows = [{"objective": float(v)} for v in values] + [{"objective": None}] * (number // 10)
    study = made.study(rows, mode=mode)
    group = best_of_k.draw(study)
    (figure,) = group.figures
    page = Page(figure.svg)
    boxes, medians = page.all("rect", "box"), page.all("path", "median")
    ended = number + number // 10
    sizes = best_of_k._sizes(ended)
    assert len(boxes) == len(medians) == len(sizes) <= best_of_k.BOXES + 1
    assert sizes[-1] == ended
    assert ended // 2 in sizes
    ticks = [e.text.replace(",", "") for e in page.all("text", "middle")][:-1]
    assert ticks == [str(size) for size in [*sizes, 2 * ended]]
    # The best of more trials is better: lower, or higher where more is better.
    heights = [float(m.get("d").split(" ")[1].split("L")[0]) for m in medians]
    assert np.ptp(heights) > 10
    assert (np.diff(heights) * (1 if mode == "min" else -1) >= -0.11).all()
    assert "nan" not in figure.svg
    assert "inf" not in figure.svg


def test_a_box_is_where_its_quartiles_are():
    values = np.arange(10, 30) / 100
    study = made.study([{"objective": float(v)} for v in values])
    page = Page(best_of_k.draw(study).figures[0].svg)
    sizes = best_of_k._sizes(20)
    box = page.all("rect", "box")[sizes.index(10)]
    draws = np.random.default_rng(0).choice(values, (20_000, 10)).min(axis=1)
    low, high = np.quantile(draws, [0.25, 0.75], method="inverted_cdf")
    places = {
        e.text: float(e.get("y")) - 3.7 for e in page.all("text", "tick") if "end" in e.classes
    }
    # Two labels of the vertical axis give its scale.
    (a, ya), (b, yb) = list(places.items())[:2]
    scale = (yb - ya) / (float(b) - float(a))
    top, height = float(box.get("y")), float(box.get("height"))
    assert height == pytest.approx(abs(100 * (high - low) * scale), abs=0.3)
    assert top == pytest.approx(ya + (100 * high - float(a)) * scale, abs=0.3)


def test_too_few_for_a_plot():
    assert best_of_k.draw(made.study([{"objective": 0.1}] * 4)) is None
    same = best_of_k.draw(made.study([{"objective": 0.1}] * 6))
    assert "nan" not in same.figures[0].svg
