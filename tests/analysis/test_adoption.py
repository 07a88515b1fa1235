import json
import math
import statistics as stdlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import adoption
from playbook_jax.analysis.data.adoption import ADOPT, CANNOT_TELL, DO_NOT, Chosen, Comparison, Side
from playbook_jax.analysis.reports import adoption_report, adoption_text
from playbook_jax.analysis.stats import replicates as statistics
from playbook_jax.errors import UsageError

LOSS = "validation/loss"
CASES = 200


def side(objectives, **values):
    return Side(
        "somewhere", {"hparams": {"learning_rate": 0.1}}, np.array(objectives, float), **values
    )


def comparison(candidate, baseline, metric=LOSS, maximize=False, worth=None, vary="seed"):
    sides = [s if s is None or isinstance(s, Side) else side(s) for s in (candidate, baseline)]
    return Comparison(metric, maximize, vary, *sides, worth)


def decide(*arguments, **values):
    return adoption.decide(comparison(*arguments, **values))


@pytest.fixture
def few_deals(monkeypatch):
    """A tenth of the time, and p-values that are the same up to their own noise of ± 0.007."""
    monkeypatch.setattr(statistics, "MOST_DEALS", 999)


def results(rng, kind, n):
    """Replicates' results with mean 0 and deviation 1."""
    if kind == "skewed":
        return rng.exponential(size=n) - 1
    x = rng.normal(size=n)
    return np.round(2 * x) / 2 if kind == "counted" else x  # as error rates of few examples are


def p_no_better(candidate, baseline):
    return statistics.PermutationTest(candidate, baseline, most=999).p_values()[0]


@pytest.mark.playbook("adopt-if-better")
def test_without_a_difference_one_in_twenty_at_most_is_adopted(few_deals):
    rng = np.random.default_rng(0)
    wrong = []
    for kind in ("normal", "skewed", "counted"):
        for case in range(CASES):
            n = (3, 5, 6, 10)[case % 4]
            decision = decide(results(rng, kind, n), results(rng, kind, n))
            wrong.append(decision.verdict == ADOPT)
        assert np.mean(wrong[-CASES:]) <= 0.05 + 2 * math.sqrt(0.0475 / CASES)
    assert np.mean(wrong) <= 0.05


@pytest.mark.parametrize("kind", ["normal", "skewed", "counted"])
@pytest.mark.parametrize(("m", "n", "scatter"), [(3, 3, 1), (5, 5, 1), (10, 10, 2), (4, 8, 1)])
def test_the_rate_of_false_alarms_of_the_test_alone(kind, m, n, scatter):
    rng = np.random.default_rng(m)
    count = 1_000
    false = sum(
        p_no_better(results(rng, kind, m), scatter * results(rng, kind, n)) <= statistics.LEVEL
        for _ in range(count)
    )
    # Exact where both sides vary alike; of skewed results that do not, 6 to 7 % were measured.
    level = 0.07 if kind == "skewed" and scatter > 1 else 0.05
    assert false / count <= level + 3 * math.sqrt(0.0475 / count)


@pytest.mark.playbook("adopt-if-better")
def test_three_standard_errors_are_adopted_and_seldom_missed(few_deals):
    rng = np.random.default_rng(0)
    missed = {True: 0, False: 0}
    for maximize in missed:
        sign = -1 if maximize else 1
        for case in range(CASES):
            n = (10, 20)[case % 2]
            effect = 3 * math.sqrt(2 / n)
            a, b = rng.normal(size=n) - effect, rng.normal(size=n)
            missed[maximize] += decide(sign * a, sign * b, maximize=maximize).verdict != ADOPT
    # With known deviations the best test would miss Φ(1.645 − 3) = 8.8 % of them.
    assert sum(missed.values()) / (2 * CASES) <= 0.088 + 3 * math.sqrt(0.08 / (2 * CASES))
    assert min(missed.values()) / CASES <= 0.1


def test_an_improvement_worth_having_is_seldom_turned_down(few_deals):
    rng = np.random.default_rng(1)
    verdicts = [
        decide(rng.normal(size=10) - 1, rng.normal(size=10), worth=1.0).verdict
        for _ in range(CASES)
    ]
    assert verdicts.count(DO_NOT) / CASES <= 0.05
    # And one that is worth nothing mostly is.
    verdicts = [decide(rng.normal(size=30), rng.normal(size=30)).verdict for _ in range(CASES)]
    assert verdicts.count(DO_NOT) / CASES >= 0.9


@pytest.mark.playbook("adopt-if-better")
@pytest.mark.parametrize(("effect", "deviations"), [(1.0, (1, 1)), (2.0, (1, 1)), (0.7, (0.3, 1))])
def test_as_many_replicates_as_are_said_to_be_needed_show_the_effect(effect, deviations):
    rng = np.random.default_rng(7)
    n = statistics.replicates_needed(effect, *deviations)
    count = 2_000
    shown = sum(
        p_no_better(deviations[0] * rng.normal(size=n) - effect, deviations[1] * rng.normal(size=n))
        <= statistics.LEVEL
        for _ in range(count)
    )
    # POWER; a little more as n is rounded up, or less as p-values of four and four are discrete.
    assert 0.75 <= shown / count <= 0.88


def test_it_is_said_how_many_more_replicates_would_tell(few_deals):
    rng = np.random.default_rng(11)
    told = 0
    for _ in range(CASES):
        a, b = rng.normal(size=5) - 0.5, rng.normal(size=5)
        decision = decide(a, b, worth=1.0)
        if decision.verdict != CANNOT_TELL:
            assert decision.more is None
            continue
        # The truth be as it looks: then so many more mostly bring one of the two verdicts.
        n = 5 + decision.more
        if n > 60:
            continue
        looks = decision.difference.mean
        more = [x.std(ddof=1) * rng.normal(size=n) for x in (a, b)]
        told += 1 if decide(more[0] - looks, more[1], worth=1.0).verdict != CANNOT_TELL else -1
    assert told > 0
    even = decide([1.0, 1.1, 0.9], [1.0, 1.1, 0.9], worth=0.1)
    # Nothing between them, so it is `worth` that is to be excluded: the effect is 0.1, each deviation 0.1.
    assert (even.verdict, even.more) == (
        CANNOT_TELL,
        statistics.replicates_needed(0.1, 0.1, 0.1) - 3,
    )


def test_too_few_replicates_cannot_tell_and_say_how_many_would():
    for n, more in ((0, 3), (1, 2), (2, 1)):
        decision = decide(np.zeros(n) + np.arange(n) / 10, 5 + np.arange(n) / 10)
        assert (decision.verdict, decision.more) == (CANNOT_TELL, more)
    assert decide([1, 1.1, 1.2], [2, 2.1, 2.2]).verdict == ADOPT
    assert decide([1, 1.1, 1.2], None).verdict == CANNOT_TELL
    assert decide([1, 1.1, 1.2], [2, 2.1, 2.2], vary="nothing").verdict == CANNOT_TELL


def test_results_without_any_scatter():
    # 0.1 and 1/75 have means that rounding makes others than they are.
    x, y = 0.1, 1 / 75
    for a, b, verdict in ((y, x, ADOPT), (x, y, DO_NOT), (x, x, CANNOT_TELL), (y, y, CANNOT_TELL)):
        decision = decide([a] * 10, [b] * 10)
        assert side([a] * 10).spread.sd == 0
        assert (decision.verdict, decision.more) == (verdict, None)
        assert decision.difference.interval == pytest.approx((b - a, b - a))


def test_a_candidate_that_diverges_more_often_is_not_adopted():
    good, bad = [1.0, 1.01, 1.02, 1.03], [2.0, 2.01, 2.02, 2.03]
    decision = decide(side(good, infeasible=2), side(bad, infeasible=1))
    assert decision.verdict == DO_NOT
    assert decision.reason.startswith("2 of its 6 replicates diverge, and 1 of 5 of the baseline")
    assert "warmup or gradient clipping" in decision.reason
    assert decide(side(good, infeasible=1), side(bad, infeasible=1)).verdict == ADOPT
    assert decide(side(good), side(bad, infeasible=1)).verdict == ADOPT
    assert decide(side([], infeasible=3), side(bad)).verdict == DO_NOT


def write_replicates(directory, name, objectives, states=None):
    """A study of replicates as the launcher leaves it."""
    states = states or ["COMPLETE"] * len(objectives)
    rows = [{"trial": i, "parameters": {"seed": i + 1}} for i in range(len(states))]
    specification = {
        "name": name,
        "goal": "?",
        "objective": {"metric": "validation/error_rate", "mode": "min"},
        "nuisance": {"seed": {"scale": "linear", "low": 0, "high": 9, "type": "int"}},
    }
    study = {"format": 1, "specification": specification, "trials": rows}
    for i, (state, value) in enumerate(zip(states, objectives, strict=True)):
        path = directory / name / "trials" / f"{i:03d}"
        path.mkdir(parents=True)
        status = trial_lib.new_status(state, step=10) | {"best_step": 10, "objective": value}
        trial_lib.write_json(path / "status.json", status)
    trial_lib.write_json(directory / name / "study.json", study)


def write_workdir(directory, mine, theirs, states=None, **values):
    chosen = {"trial": 3, "objective": 0.01, "objectives": [0.01, 0.02, 0.05], "failures": 1}
    entry = {"replicates": None, "validation_examples": 300}
    config = {"workload": "digits", "dataset": {}, "notes": "a", "seed": 0, "hparams": {"x": 0.1}}
    other = config | {"notes": "b", "seed": 1, "hparams": {"x": 0.25}, "polyak": True}
    stored = {
        "format": 1,
        "objective": {"metric": "validation/error_rate", "mode": "min"},
        "vary": "seed",
        "worth": None,
        "candidate": entry | {"source": "trial 3 of s", "config": other, "chosen": chosen},
        "baseline": entry | {"source": "b.py", "config": config, "chosen": None},
    } | values
    trial_lib.write_json(directory / "replicates.json", stored)
    write_replicates(directory, "candidate", mine, states)
    write_replicates(directory, "baseline", theirs)
    return directory


@pytest.mark.playbook(
    "a-gain-may-vanish", "validation-set-is-a-sample", "study-variance", "gain-outweighs-complexity"
)
def test_a_workdir_is_read_decided_and_told(tmp_path):
    states = ["COMPLETE"] * 4 + ["FAILED", "RUNNING"]
    candidate = [6 / 300, 6 / 300, 9 / 300, 7 / 300, None, None]
    baseline = [12 / 300, 15 / 300, 18 / 300, 12 / 300]
    write_workdir(tmp_path, candidate, baseline, states)
    read = adoption.load(tmp_path)
    decision = adoption.decide(read)
    path = adoption_report.save(tmp_path, read, decision)
    found = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert found["verdict"] == decision.verdict == ADOPT

    counts = [6, 6, 9, 7]
    mine = found["candidate"]
    assert mine["objectives"] == pytest.approx([n / 300 for n in counts], rel=1e-15)
    assert mine["mean"] == pytest.approx(stdlib.mean(counts) / 300, rel=1e-12)
    assert mine["median"] == pytest.approx(stdlib.median(counts) / 300, rel=1e-12)
    assert mine["sd"] == pytest.approx(stdlib.stdev(counts) / 300, rel=1e-12)
    assert (mine["failed"], mine["unfinished"], mine["infeasible"]) == (1, 1, 0)
    # Of a rate of 7 in 300, counted on 300: the binomial's deviation.
    assert mine["sampling_error"] == pytest.approx(scipy.stats.binom(300, 7 / 300).std() / 300)
    # The study's 1 % was the best of three; fresh runs have 2.33 %.
    luck = mine["luck"]
    assert luck["luck"] == pytest.approx(7 / 300 - 0.01, rel=1e-12)
    assert (luck["trial"], luck["study_trials"]) == (3, 3)
    # The best of 4 drawn from {1 %, 2 %, 5 %, failed}: 1 % in 68 % of draws, 5 % or worse in 6 %.
    assert luck["study_interval"] == [0.01, 0.05]
    assert found["baseline"]["luck"] is None
    difference = found["difference"]
    assert difference["mean"] == pytest.approx((14.25 - 7) / 300, rel=1e-12)
    assert difference["median"] == pytest.approx((13.5 - 6.5) / 300, rel=1e-12)
    assert difference["wins"] == 1
    assert difference["interval"][0] > 0
    assert found["changes"] == ["hparams.x: 0.1 → 0.25", "polyak: absent → true"]

    text = adoption_text.text(read, decision, width=10_000)
    assert "The candidate had 1.00 % in its study, the best of 3: 1.33 points better than" in text
    assert "Of the candidate's replicates 1 failed, and are left out." in text
    assert "on the same 300 validation examples" in text
    assert "The candidate was tuned by 3 trials, the other side by none that are known" in text
    assert "Adopting it changes hparams.x: 0.1 → 0.25; polyak: absent → true." in text
    assert "That is yours to judge." in text
    assert text.splitlines()[-1].startswith("ADOPT: it is better than the baseline")
    assert max(map(len, adoption_text.text(read, decision, 80).splitlines())) <= 80


def test_a_rate_that_is_no_count_has_no_known_sampling_error(tmp_path):
    # Of words, say: 300 validation examples of several words each.
    write_workdir(tmp_path, [0.0213, 0.0222, 0.0207], [0.04, 0.05, 0.06])
    read = adoption.load(tmp_path)
    assert read.candidate.examples is None
    assert read.candidate.sampling_error is None
    assert read.baseline.examples == 300
    text = adoption_text.text(read, adoption.decide(read))
    assert "unknown" in text
    assert "How much another validation set would change is not known" in text


def test_a_lucky_trial_is_found_out_by_fresh_replicates(tmp_path):
    # In its study it had 1 %, better than any run of the baseline; again and again, it has 5 %.
    write_workdir(tmp_path, [0.05, 0.04, 0.06, 0.05], [0.03, 0.02, 0.03, 0.02])
    decision = adoption.decide(adoption.load(tmp_path))
    assert (decision.verdict, decision.more) == (DO_NOT, None)
    assert decision.reason.startswith("it is worse than the baseline")


def test_worth_is_stored_or_given(tmp_path):
    write_workdir(tmp_path, [0.02, 0.03, 0.04], [0.03, 0.02, 0.04], worth=0.02)
    assert adoption.decide(adoption.load(tmp_path)).difference.worth == 0.02
    assert adoption.decide(adoption.load(tmp_path, 0.5)).difference.worth == 0.5


def test_repeats_with_the_same_seed_are_compared_bit_by_bit(tmp_path):
    write_workdir(tmp_path, [0.02] * 3, [0.02], vary="nothing", baseline=None)
    records = np.random.default_rng(0).normal(size=(10, 5)).astype("<f4")
    for i in range(3):
        (tmp_path / f"candidate/trials/{i:03d}/steps.f32").write_bytes(records.tobytes())
    read = adoption.load(tmp_path)
    assert adoption_report.repeats(read) == {"runs": 3, "distinct": 1, "first_difference": None}
    assert "All 3 repeats with the same seed are bit-identical" in adoption_text.text(
        read, adoption.decide(read)
    )
    records[6, 0] = np.nextafter(records[6, 0], np.float32(9))
    (tmp_path / "candidate/trials/001/steps.f32").write_bytes(records.tobytes())
    assert adoption_report.repeats(read) == {"runs": 3, "distinct": 2, "first_difference": 6}
    assert "from the update 6 on" in adoption_text.text(read, adoption.decide(read), 1_000)


def test_luck_of_an_objective_of_which_more_is_better_and_of_studies_that_may_end_without_result():
    chosen = Chosen(2, 0.9, np.array([0.9, 0.6]), failures=6)
    one = comparison(side([0.8, 0.84, 0.82], chosen=chosen), None, "validation/accuracy", True)
    found = adoption_report.luck(one.candidate, one)
    assert found["luck"] == pytest.approx(0.08, rel=1e-12)
    assert found["luck_if_alike"] == pytest.approx(0.02 * statistics.luck(2), rel=1e-12)
    # Of eight draws from two results and six failures all fail in 10 % of cases.
    assert found["study_interval"] == [-np.inf, 0.9]
    text = adoption_text.text(one, adoption.decide(one), 1_000)
    assert "had 90.00 % in its study, the best of 2: 8.00 points better than fresh runs" in text
    assert "90 % of such studies end at between no result and 90.00 %." in text


def test_points_that_were_tuned_alike_compare_points_and_no_more():
    chosen = Chosen(0, 1.0, np.arange(20.0))
    both = comparison(side([1, 1.1, 1.2], chosen=chosen), side([2, 2.1, 2.2], chosen=chosen))
    notes = adoption_report.caveats(both, adoption.decide(both))
    assert any("repeat both with another seed to see their study variance" in n for n in notes)
    assert not any("was tuned by" in n for n in notes)


def test_a_directory_without_replicates_or_with_damaged_ones_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no replicates; give the --workdir"):
        adoption.load(tmp_path)
    (tmp_path / "replicates.json").write_text('{"vary": "seed"}')
    with pytest.raises(UsageError, match=r"is damaged \(KeyError: 'objective'\); run"):
        adoption.load(tmp_path)


def test_the_analysis_imports_neither_jax_nor_pandas_nor_scipy():
    code = (
        "import sys; from playbook_jax.analysis.reports import adoption_text;"
        "print([m for m in ('jax', 'pandas', 'scipy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_replicates_in_which_one_seed_varies_say_so():
    both = comparison([1, 1.1, 1.2], [2, 2.1, 2.2], vary="data")
    notes = adoption_report.caveats(both, adoption.decide(both))
    assert "Only the seed of data varied: the full trial variance is larger." in notes
