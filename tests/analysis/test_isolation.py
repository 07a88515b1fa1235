import itertools
import math

import numpy as np
import pytest

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import groups, study as study_lib
from playbook_jax.analysis.data.proposals import ADD, EXTEND, Proposal
from playbook_jax.analysis.figures import isolation as figure
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK, isolation as finding
from playbook_jax.analysis.reports import report
from playbook_jax.analysis.stats import fairness, isolation
from playbook_jax.studies.space import samplers, search_space
from tests import synthetic_study as synthetic
from tests.html_page import Page

NORM, RATE, DECAY = "model.norm", "hparams.learning_rate", "hparams.weight_decay"
TWO = {NORM: {"values": ["pre", "post"]}, RATE: synthetic.LEARNING_RATE}
PLAYBOOK = pytest.mark.playbook("isolation-plot")


def made(pre, post, mode="min", **fields):
    """A study of two values; None is a trial that diverged."""
    rows = [
        {"at": [index, (i + 0.5) / len(values)], "objective": value, **fields}
        for index, values in enumerate((pre, post))
        for i, value in enumerate(values)
    ]
    return synthetic.made(rows, spaces=TWO, scientific=(NORM,), mode=mode, metric="validation/loss")


def slices(study):
    return isolation.slices(study, study.hyperparameters[0])


def compared(study):
    scores = {t.number: t.objective * (-1 if study.maximize else 1) for t in study.learned}
    return isolation.compare(*slices(study), scores)


def drawn(values, rng, count=40_000):
    """The best of bootstrap samples, by drawing them."""
    values = np.array([math.inf if v is None else v for v in values])
    return values[rng.integers(len(values), size=(count, len(values)))].min(axis=1)


@PLAYBOOK
def test_intervals_are_those_of_many_bootstrap_samples():
    rng = np.random.default_rng(0)
    pre, post = rng.normal(1, 0.3, 12).tolist(), [*rng.normal(2.5, 0.5, 7).tolist(), None, None]
    study = made(pre, post)
    bests = [drawn(pre, rng), drawn(post, rng)]
    for part, values, sample in zip(slices(study), (pre, post), bests, strict=True):
        low, high = np.quantile(sample, [0.025, 0.975], method="inverted_cdf")
        assert part.interval == (low, high)
        assert low == min(v for v in values if v is not None)
        assert part.best.objective == low
    gain = compared(study)
    low, high = np.quantile(bests[1] - bests[0], [0.025, 0.975], method="inverted_cdf")
    # Between two neighbouring gains, of which there are many, sampling decides.
    assert gain.interval == pytest.approx((low, high), abs=0.03)
    assert gain.gain == pytest.approx(min(v for v in post if v) - min(pre))


def test_where_more_is_better_all_is_mirrored():
    pre, post = [3.0, 2.0, 1.0, 0.5], [4.0, 5.0, 4.5, 2.5]
    down = compared(made(pre, post))
    up = compared(made([-v for v in pre], [-v for v in post], mode="max"))
    for c in (down, up):
        assert (c.better.label, c.gain, c.ahead) == ("pre", 2.0, 3)
        assert c.chance == down.chance
        assert c.interval == down.interval
    # All four draws are among the two worst with probability (2/4)⁴ = 6 %, the worst with (1/4)⁴ = 0.4 %.
    assert slices(made([-v for v in pre], [-v for v in post], mode="max"))[0].interval == (
        -2.0,
        -0.5,
    )


def test_failures_count_as_draws():
    few = slices(made([1.0, 2.0, None, None, None, None], [1.0] * 6))[0]
    assert few.ended == 6
    assert few.interval == (1.0, math.inf)  # all six draws fail with probability (4/6)⁶ = 9 %
    (found,) = finding.check(made([1.0, 2.0, *[None] * 4], [3.0] * 6))
    assert "pre is ahead of post by 2 (1 against 3;" in found.answer
    assert found.answer.endswith("interval −∞ to 2), which may be luck.")
    unlearned = made([1.0, 2.0], [1.5, 2.5], unlearned=True)
    assert [len(part.complete) for part in slices(unlearned)] == [0, 0]


def test_the_chance_is_that_of_all_ways_to_deal_out_the_values():
    pre, post = [1.0, 2.0, 3.0, 6.0], [4.0, 5.0, 7.0]
    c = compared(made(pre, post))
    assert c.ahead == 3
    values = sorted(pre + post)
    same = [
        {values[i] for i in chosen} >= set(values[:3])
        or not {values[i] for i in chosen} & set(values[:3])
        for chosen in itertools.combinations(range(7), 4)
    ]
    assert c.chance == pytest.approx(np.mean(same))


def test_buckets_are_even_on_the_hyperparameters_own_scale():
    spaces = {DECAY: synthetic.WEIGHT_DECAY, RATE: synthetic.LEARNING_RATE}
    rows = [{"at": [i / 23, 0.5], "objective": abs(i - 13) + 1.0} for i in range(24)]
    study = synthetic.made(rows, spaces=spaces, scientific=(DECAY,))
    parts = slices(study)
    # 24 trials make four buckets of a decade each: 1e-6 to 1e-2.
    assert [part.label for part in parts] == [
        "1e-6 to 1e-5",
        "1e-5 to 0.0001",
        "0.0001 to 0.001",
        "0.001 to 0.01",
    ]
    assert [part.ended for part in parts] == [6, 6, 6, 6]
    assert [part.best.number for part in parts] == [5, 11, 13, 18]
    assert [len(isolation.buckets(n)) - 1 for n in (2, 17, 18, 48, 1000)] == [2, 2, 3, 8, 8]


def test_few_whole_numbers_and_bools_are_values_of_their_own():
    spaces = {
        "model.layers": {"scale": "linear", "low": 1, "high": 3, "type": "int"},
        "model.bias": {"values": [False, True]},
    }
    rows = [{"at": [(i % 3) / 2, i % 2], "objective": i + 1.0} for i in range(12)]
    study = synthetic.made(rows, spaces=spaces, scientific=tuple(spaces))
    layers, bias = (isolation.slices(study, h) for h in study.hyperparameters)
    assert [part.label for part in layers] == ["layers 1", "layers 2", "layers 3"]
    assert [part.best.number for part in layers] == [0, 1, 2]
    assert [(part.label, part.best.number) for part in bias] == [
        ("bias false", 0),
        ("bias true", 1),
    ]


@PLAYBOOK
def test_a_clear_difference_is_told_and_an_unclear_one_is_not():
    pre, post = [1.0 + i / 10 for i in range(8)], [2.0 + i / 10 for i in range(8)]
    (found,) = finding.check(made(pre, post))
    assert (found.verdict, found.action) == (FINE, "")
    assert found.answer.replace("\u00a0", " ") == (
        "pre beats post by 1 (1 against 2; 95 % bootstrap interval 0.8 to 1.2)."
    )
    # Eight of eight ahead: 2 / C(16, 8) = 1 in 6,435.
    assert any(
        "The best 8 of their 16 trials have pre: by chance 1 in 6,435" in e for e in found.evidence
    )
    mixed = [1.0, 1.3, 1.5, 1.7, 2.0, 2.1, 2.2, 2.3], [1.1, 1.2, 1.4, 1.6, 1.8, 1.9, 2.4, 2.5]
    (found,) = finding.check(made(*mixed))
    assert found.verdict == CANNOT_TELL
    assert found.answer.endswith("which may be luck.")
    assert found.action.startswith("Run more trials of each value")
    (found,) = finding.check(made([1.0, 2.0, 3.0], [1.0, 2.5, 3.5]))
    assert found.answer == "pre and post reach the same, 1."
    assert found.action.startswith("Choose by something else")


def test_of_several_values_each_is_told_or_not():
    spaces = {NORM: {"values": ["pre", "res", "post"]}, RATE: synthetic.LEARNING_RATE}
    start = {0: 1.0, 1: 1.05, 2: 3.0}
    rows = [
        {"at": [k, ((7 * i + 5) % 10 + 0.5) / 10], "objective": start[k] + i / 10}
        for k in range(3)
        for i in range(10)
    ]
    study = synthetic.made(rows, spaces=spaces, scientific=(NORM,), metric="validation/loss")
    (found,) = finding.check(study)
    assert found.answer == "pre is best, with 1. It beats post, and cannot be told from res."


@pytest.mark.parametrize(
    ("study", "answer"),
    [
        (made([], []), "No trial is complete."),
        (made([None, None], []), "No trial is complete."),
        (made([1.0], [None]), "Of model.norm, only pre has a complete trial."),
        (made([1.0], [2.0]), "pre is ahead of post by 1 (1 against 2;"),
        (synthetic.made([], spaces=TWO), "Nothing is compared: all that varies is nuisance."),
    ],
)
def test_what_cannot_be_said(study, answer):
    (found,) = finding.check(study)
    assert found.answer.startswith(answer)
    assert found.verdict == (FINE if answer.startswith("Nothing") else CANNOT_TELL)
    assert (figure.draw(study) is None) == (not study.ranked or answer.startswith("Nothing"))


@PLAYBOOK
def test_a_value_that_is_tuned_less_well_makes_the_comparison_unfair():
    # The best learning rates of post lie beyond the bound, those of pre do not.
    rows = [
        {"at": [k, (i + 0.5) / 20], "objective": 1 + k + abs((i + 0.5) / 20 - (1.1 if k else 0.5))}
        for k in range(2)
        for i in range(20)
    ]
    study = synthetic.made(rows, spaces=TWO, scientific=(NORM,), metric="validation/loss")
    (found,) = finding.check(study)
    assert found.verdict == LOOK
    assert "pre beats post by 1.1" in found.answer
    assert found.answer.endswith(
        "But the comparison is not fair yet: post: its best trials crowd the high bound of learning_rate, 10."
    )
    assert found.action == "Search learning_rate to 100 for post."
    assert found.proposals == (Proposal(EXTEND, RATE, 100.0, "high"),)
    (doubt,) = fairness.doubts(
        made([1.0] * 10, [1.0] * 5), study.hyperparameters[0], slices(made([1.0] * 10, [1.0] * 5))
    )
    assert doubt.text.startswith("post was tried with 5 trials, pre with 10")
    assert not fairness.doubts(
        made([1.0] * 9, [1.0] * 6), study.hyperparameters[0], slices(made([1.0] * 9, [1.0] * 6))
    )


def test_instability_of_one_value_makes_it_unfair(tmp_path):
    def cost(u):
        return 0.5 * u[NORM] + 3 * (u[RATE] - (0.7 if u[NORM] else 0.5)) ** 2

    truth = synthetic.Truth(cost, infeasible=lambda u: u[NORM] == 1 and u[RATE] > 0.7)
    synthetic.write(tmp_path / "s", truth, spaces=TWO, scientific=(NORM,), num_trials=60)
    (found,) = finding.check(study_lib.load(tmp_path / "s"))
    assert found.verdict == LOOK
    assert "post: the best trials lie right below where training diverges" in found.answer
    assert found.proposals[0].kind == ADD
    assert found.proposals[0].name == "hparams.warmup_steps"


@PLAYBOOK
def test_the_figure_has_the_best_of_each_value_and_the_buckets(tmp_path):
    spaces = {DECAY: synthetic.WEIGHT_DECAY, **TWO}
    truth = synthetic.Truth(synthetic.bowl({DECAY: 0.6, RATE: 0.5}))
    synthetic.write(tmp_path / "s", truth, spaces=spaces, scientific=(DECAY, NORM), num_trials=24)
    read = Page(report.write(tmp_path / "s").read_text())
    read.check()
    study = study_lib.load(tmp_path / "s")
    for h, listed in zip(study.hyperparameters, (False, True), strict=False):
        parts = isolation.slices(study, h)
        marks = read.all("circle", "isolated", within=f"isolation-{h.name}")
        assert [e.trial for e in marks] == [part.best.number for part in parts]
        lines = read.all("path", "interval", within=f"isolation-{h.name}")
        assert len(lines) == 3 * len(parts)
        edges = read.all("path", "bound", within=f"isolation-{h.name}")
        assert len(edges) == (0 if listed else 5)
    assert f"#isolation-{DECAY}" in {e.get("href") for e in read.all("a")}


def test_hyperparameters_of_one_value_alone_are_not_taken_out():
    # Each value has a learning rate of its own, and the better it is tuned the same is reached. That the
    # one is worse in the middle of its space must not count.
    spaces = {
        NORM: TWO[NORM],
        **{f"{RATE}@{NORM}={value}": synthetic.LEARNING_RATE for value in ("pre", "post")},
    }
    rows = []
    for i in range(40):
        place = (7 * i % 20 + 0.5) / 20
        cost = (1 + 3 * (i % 2)) * (place - 0.3) ** 2 + 0.001 * (i % 7)
        rows.append({"at": [i % 2, place, place], "objective": 1 + cost})
    study = synthetic.made(rows, spaces=spaces, scientific=(NORM,), metric="validation/loss")
    for trial in study.trials:
        other = {"pre": "post", "post": "pre"}[trial.parameters[NORM]]
        del trial.parameters[f"{RATE}@{NORM}={other}"]
    (found,) = finding.check(study)
    assert found.verdict == CANNOT_TELL
    assert "taken out" not in " ".join(found.evidence)


def group(path, truths):
    """A group of two studies, of which the second one searches other learning rates."""
    spaces = [{RATE: synthetic.LEARNING_RATE}, {RATE: {**synthetic.LEARNING_RATE, "low": 1e-5}}]
    names = ["norm=pre", "norm=post"]
    for name, truth, space in zip(names, truths, spaces, strict=True):
        synthetic.write(path / name, truth, spaces={**space, DECAY: synthetic.WEIGHT_DECAY})
    studies = [{"directory": name, "values": {NORM: name.removeprefix("norm=")}} for name in names]
    described = {
        "name": "norms",
        "goal": "Which?",
        "studies": studies,
        "scientific": {NORM: TWO[NORM]},
    }
    trial_lib.write_json(path / "group.json", described)
    return [path / name for name in names]


@pytest.mark.playbook("isolation-plot", "best-trials-are-compared")
def test_a_group_is_compared_in_the_report_of_each_of_its_studies(tmp_path):
    bowl = synthetic.bowl({RATE: 0.5, DECAY: 0.5})
    paths = group(tmp_path, [synthetic.Truth(bowl), synthetic.Truth(lambda u: 1.5 + bowl(u))])
    bests = [study_lib.load(path).best for path in paths]
    for path in paths:
        study = study_lib.load(path)
        (found,) = finding.check(study)
        assert found.question == "Which model.norm is best?"
        gain = 100 * (bests[1].objective - bests[0].objective)
        assert found.answer.startswith(f"pre beats post by {gain:.2f}")
        assert found.evidence[0].startswith("All studies of the group norms are compared")
        assert f"(no. {bests[1].number}; 20 trials)" in found.evidence[2]
        assert (found.trials, found.proposals) == ((), ())
        whole = study.group
        assert [h.name for h in whole.hyperparameters] == [
            NORM,
            DECAY,
            f"{RATE}@norm=pre",
            f"{RATE}@norm=post",
        ]
        report.conclude(tmp_path)  # it links the report of the group
        read = Page(report.write(path).read_text())
        read.check(path)
        labels = read.all("text", "label", within=f"isolation-{NORM}")
        assert [e.text for e in labels] == [str(t.number) for t in bests]
        # Only marks of this study's own trials are lit with them.
        assert [e.trial < groups.SPAN for e in labels] == [path is p for p in paths]


def test_a_group_of_which_a_study_is_gone_is_no_group(tmp_path):
    truth = synthetic.Truth(synthetic.bowl({RATE: 0.5}))
    paths = group(tmp_path, [truth, truth])
    (paths[1] / "study.json").unlink()
    (found,) = finding.check(study_lib.load(paths[0]))
    assert found.answer == "Nothing is compared: all that varies is nuisance."
    (tmp_path / "group.json").write_text("[1")
    assert study_lib.load(paths[0]).group is None


def simulated(effect, seed, trials=20, noise=0.1):
    """Two values and four nuisance hyperparameters, whose effects are larger than that of the values."""
    spaces = {NORM: TWO[NORM], **synthetic.FOUR}
    parsed = {name: search_space.parse(name, space) for name, space in spaces.items()}
    rng = np.random.default_rng(seed)
    rows = []
    for point in samplers.sample("halton", parsed, trials, seed):
        units = [synthetic.unit(synthetic.FOUR[name], point[name]) for name in synthetic.FOUR]
        index = TWO[NORM]["values"].index(point[NORM])
        cost = 2 * sum((u - 0.5) ** 2 for u in units) + effect * index + noise * rng.normal()
        rows.append({"at": [index, *units], "objective": cost})
    return synthetic.made(rows, spaces=spaces, scientific=(NORM,))


def told(study):
    (found,) = finding.check(study)
    return found.answer.split(" by ")[0] if " beats " in found.answer else ""


@PLAYBOOK
def test_differences_that_are_not_there_are_seldom_told():
    # 4 % of 200 studies; the seeds are fixed, so that this is no game of chance.
    assert sum(bool(told(simulated(0.0, seed))) for seed in range(80)) <= 4


@PLAYBOOK
def test_a_difference_of_three_times_the_noise_is_seldom_missed():
    answers = [told(simulated(0.3, seed)) for seed in range(60)]
    assert answers.count("pre beats post") >= 0.9 * 60
    assert set(answers) <= {"pre beats post", ""}
