import numpy as np
import pytest
import scipy.stats

from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.data.proposals import NARROW, SET
from playbook_jax.analysis.figures import sensitivity as figure
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, sensitivity as finding
from playbook_jax.analysis.reports import report
from playbook_jax.analysis.stats import sensitivity
from playbook_jax.studies.space import samplers, search_space
from tests import synthetic_study as synthetic
from tests.html_page import Page

NAMES = list(synthetic.FOUR)
RATE, MOMENTUM, DECAY, CLIP = NAMES
PLAYBOOK = pytest.mark.playbook("what-matters")


def simulated(cost, trials=20, seed=0, noise=0.33, spaces=synthetic.FOUR, **options):
    """A Halton study; the cost takes where each hyperparameter lies."""
    parsed = {name: search_space.parse(name, space) for name, space in spaces.items()}
    rng = np.random.default_rng(seed)
    rows = []
    for point in samplers.sample("halton", parsed, trials, seed):
        units = [synthetic.unit(space, point[name]) for name, space in spaces.items()]
        at = [
            units[i]
            if "scale" in space
            else [str(v) for v in space["values"]].index(str(point[name]))
            for i, (name, space) in enumerate(spaces.items())
        ]
        rows.append({"at": at, "objective": float(np.exp(cost(units) + noise * rng.normal()))})
    return synthetic.made(rows, spaces=spaces, metric="validation/loss", **options)


def effects(study):
    found = sensitivity.analyze(study)
    return {e.hyperparameters[0].name: e for e in found.effects}, found


def test_the_chance_is_that_of_the_f_distribution():
    rng = np.random.default_rng(0)
    for _ in range(300):
        degrees, freedom, f = rng.integers(1, 9), rng.integers(1, 1000), rng.exponential(3)
        expected = scipy.stats.f.sf(f, degrees, freedom)
        assert sensitivity.chance(f, int(degrees), int(freedom)) == pytest.approx(
            expected, abs=1e-10
        )
    assert sensitivity.chance(0.0, 2, 10) == 1.0
    assert sensitivity.chance(1.0, 2, 0) == 1.0


def test_shares_quality_and_chances_are_those_of_a_fit_by_hand():
    study = simulated(lambda u: 4 * (u[0] - 0.4) ** 2 + u[1], 30)
    # Ranks as normal scores (Blom), parabolas in each axis, least squares, in float64.
    costs = np.array([t.objective for t in study.trials])
    y = scipy.stats.norm.ppf((scipy.stats.rankdata(costs) - 0.375) / (len(costs) + 0.25))
    places = np.array(
        [[h.unit(t.parameters[h.name]) for h in study.hyperparameters] for t in study.trials]
    )
    blocks = [np.stack([x, x**2], axis=1) for x in places.T]
    found, whole = effects(study)
    assert whole.pairs == ()

    def fit(kept):
        x = np.concatenate([np.ones((len(y), 1)), *kept], axis=1)
        hat = x @ np.linalg.pinv(x)
        return y - hat @ y, np.diag(hat), x.shape[1]

    residuals, leverage, columns = fit(blocks)
    freedom = len(y) - columns
    noise = residuals @ residuals / freedom
    total = np.sum((y - y.mean()) ** 2)
    left_out = np.sum((residuals / (1 - leverage)) ** 2)
    mean_left_out = sum((y[i] - np.delete(y, i).mean()) ** 2 for i in range(len(y)))
    assert whole.quality == pytest.approx(1 - left_out / mean_left_out, rel=1e-9)
    for i, name in enumerate(NAMES):
        rest, _, _ = fit([b for j, b in enumerate(blocks) if j != i])
        lost = rest @ rest - residuals @ residuals
        assert found[name].share == pytest.approx(max(0, (lost - 2 * noise) / total), abs=1e-9)
        views = [(lost / 2 / noise, 2, freedom)]
        # Its parabola alone, and its line beside the other lines.
        for kept, others, degrees in (
            ([blocks[i]], [], 2),
            ([b[:, :1] for b in blocks], [b[:, :1] for j, b in enumerate(blocks) if j != i], 1),
        ):
            (left, _, used), (rest, _, _) = fit(kept), fit(others)
            lost = rest @ rest - left @ left
            views.append((lost / degrees / (left @ left / (len(y) - used)), degrees, len(y) - used))
        expected = min(scipy.stats.f.sf(*view) for view in views)
        assert found[name].chance == pytest.approx(expected, rel=1e-6)


@PLAYBOOK
def test_one_that_dominates_and_three_that_do_nothing():
    study = simulated(lambda u: 16 * (u[0] - 0.5) ** 2, 40)
    found, whole = effects(study)
    assert whole.told
    assert next(iter(found)) == RATE
    assert found[RATE].matters
    assert found[RATE].share > 0.5
    assert found[RATE].best == pytest.approx(0.5, abs=0.05)
    assert [found[name].matters for name in (MOMENTUM, DECAY, CLIP)] == [False] * 3
    (told,) = finding.check(study)
    assert told.verdict == FINE
    assert told.answer.startswith("learning_rate matters; ")
    could = [name for name in (MOMENTUM, DECAY, CLIP) if found[name].noise]
    assert could
    narrowed, *fixed = told.proposals
    # To within a tenth of its range, 0.5², a parabola is good for √0.1 / 2 to both sides, and a tenth more.
    low, high = (synthetic.unit(synthetic.LEARNING_RATE, v) for v in narrowed.value)
    assert (narrowed.kind, narrowed.name, narrowed.sure) == (NARROW, RATE, False)
    assert (low, high) == pytest.approx((0.24, 0.76), abs=0.06)
    assert {p.name for p in fixed} == set(could)
    for proposal in fixed:
        assert (proposal.kind, proposal.sure) == (SET, False)
        assert proposal.value == pytest.approx(study.best.parameters[proposal.name], rel=0.01)


@PLAYBOOK
def test_an_interaction_is_seen_though_neither_matters_alone():
    study = simulated(lambda u: 6 * (u[0] - 0.5) * (u[1] - 0.5), 60)
    found, whole = effects(study)
    (pair,) = whole.pairs
    assert pair.label == "learning_rate × momentum"
    assert pair.share > 0.3
    assert found[RATE].matters
    assert found[MOMENTUM].matters
    assert found[RATE].best is None  # it depends on the other
    (told,) = finding.check(study)
    assert any("tune both, or neither" in e for e in told.evidence)


def test_names_are_levels_and_whatever_is_asked_about_is_not_fixed():
    spaces = {
        "optimizer": {"values": ["sgd", "adam", "nadam"]},
        "model.bias": {"values": [False, True]},
        RATE: synthetic.LEARNING_RATE,
    }
    study = simulated(lambda u: 3 * (u[0] == 0.5), 40, spaces=spaces, scientific=("model.bias",))
    found, _ = effects(study)
    assert found["optimizer"].matters
    assert found["optimizer"].best is None
    assert not found["model.bias"].matters
    (told,) = finding.check(study)
    assert "model.bias" not in {p.name for p in told.proposals}


@pytest.mark.parametrize(
    ("study", "answer"),
    [
        (synthetic.made([], spaces=synthetic.FOUR), "No trial is complete."),
        (
            simulated(lambda u: 0.0, 14),
            "14 complete trials cannot tell 4 hyperparameters apart: it takes 15.",
        ),
        (simulated(lambda u: 0.0, 40, seed=1), "What varies explains nothing of the objective."),
        (
            simulated(lambda u: 0.0, 40, noise=0),
            "The complete trials came to almost the same objectives.",
        ),
        (
            synthetic.made(
                [{"at": [0.5], "objective": i} for i in range(9)],
                spaces={RATE: synthetic.LEARNING_RATE},
            ),
            "No hyperparameter differs between the trials that learned.",
        ),
    ],
    ids=["none", "few", "noise", "same", "one point"],
)
def test_what_cannot_be_told(study, answer):
    (told,) = finding.check(study)
    assert (told.verdict, told.answer, told.proposals) == (CANNOT_TELL, answer, ())
    assert figure.draw(study) is None


def test_the_page_has_a_bar_for_each(tmp_path):
    truth = synthetic.Truth(synthetic.bowl({RATE: 0.5, MOMENTUM: 0.5}))
    synthetic.write(tmp_path / "s", truth, num_trials=30)
    read = Page(report.write(tmp_path / "s").read_text())
    read.check()
    found = sensitivity.analyze(study_lib.load(tmp_path / "s"))
    bars = read.all("rect", "hist", within="sensitivity-effects")
    drawn = sorted([*found.effects, *found.pairs], key=lambda e: -e.share)
    assert len(bars) == len(drawn)
    widths = [float(bar.get("width")) for bar in bars]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] / widths[1] == pytest.approx(drawn[0].share / drawn[1].share, rel=0.01)
    assert ["faint" in bar.classes for bar in bars] == [not e.matters for e in drawn]
    assert "#sensitivity-effects" in {e.get("href") for e in read.all("a")}


def told_of(cost, trials, studies):
    """For each study what matters and what is noise, of those in which anything is told."""
    results = [sensitivity.analyze(simulated(cost, trials, seed)) for seed in range(studies)]
    return [
        (
            {e.label for e in (*r.effects, *r.pairs) if e.matters} if r.told else set(),
            {e.label for e in r.effects if e.noise} if r.told else set(),
        )
        for r in results
    ]


@PLAYBOOK
@pytest.mark.parametrize("trials", [20, 100])
def test_what_does_nothing_is_seldom_said_to_matter(trials):
    # Nothing does, and one does. The seeds are fixed, so that this is no game of chance.
    assert sum(bool(matter) for matter, _ in told_of(lambda u: 0.0, trials, 200)) <= 10
    one = told_of(lambda u: 4 * (u[0] - 0.5) ** 2, trials, 200)
    assert sum(bool(matter - {"learning_rate"}) for matter, _ in one) <= 10
    # What does has three times the noise: it is seldom called noise, and with 100 trials always seen.
    assert sum("learning_rate" in noise for _, noise in one) <= 0.1 * 200
    if trials == 100:
        assert all("learning_rate" in matter for matter, _ in one)


def test_a_large_study_takes_a_moment():
    spaces = {f"hparams.x{i}": synthetic.WEIGHT_DECAY for i in range(30)}
    study = simulated(lambda u: u[0] + u[1], 1000, spaces=spaces)
    found, whole = effects(study)
    assert found["hparams.x0"].matters
    assert sum(e.matters for e in whole.effects) <= 3
