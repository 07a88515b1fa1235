import collections
import itertools
import json
import math

import numpy as np
import pytest

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.studies import launcher, specification, trial_points
from playbook_jax.studies.space import samplers, search_space
from playbook_jax.studies.store.directory import StudyDirectory
from tests.studies.test_specification import RATE, write

UNIT = {"scale": "linear", "low": 0.0, "high": 1.0}


def parsed(**spaces):
    return {name: search_space.parse(name, space) for name, space in spaces.items()}


def listed(k):
    return {"values": [f"v{i}" for i in range(k)]}


@pytest.fixture
def load(tmp_path):
    return lambda **changes: specification.load(write(tmp_path / "study.py", **changes))


@pytest.mark.playbook("studies-are-reproducible")
def test_the_points_of_the_digits_study_stay_what_they_were():
    from scipy.stats import qmc

    points = qmc.Halton(4, scramble=True, rng=0).random(20)
    spec = specification.load("configs/studies/digits_mlp.py")
    for row, (a, b, c, d) in zip(trial_points.points(spec), points, strict=True):
        expected = {
            "hparams.learning_rate": 1e-2 * 1e4**a,
            "hparams.momentum": 1 - 0.5 * 0.02**b,
            "hparams.weight_decay": 1e-6 * 1e4**c,
            "hparams.clip_norm": 0.1 * 100**d,
        }
        assert list(row) == list(expected)
        # The formulas above round otherwise than exp(log(…) + …).
        assert row == pytest.approx(expected, rel=1e-12)


@pytest.mark.playbook("scientific-values-sampled-evenly")
@pytest.mark.parametrize(("place", "prime"), [(0, 2), (1, 3), (2, 5), (3, 7)])
@pytest.mark.parametrize("k", [2, 3, 4, 5, 6, 7, 10])
def test_listed_values_are_within_one_of_even_at_powers_of_their_prime(k, place, prime):
    names = ["a", "b", "c"]
    names.insert(place, "x")
    spaces = parsed(**dict.fromkeys(names, UNIT) | {"x": listed(k)})
    powers = [prime**m for m in range(1, 9) if prime**m <= 400]
    for seed in range(5):
        values = [row["x"] for row in samplers.sample("halton", spaces, powers[-1], seed)]
        for n in powers:
            counts = collections.Counter(values[:n])
            assert max(abs(counts[v] - n / k) for v in spaces["x"].values) < 1, (n, counts)


@pytest.mark.playbook("scientific-values-sampled-evenly", "joint-study")
@pytest.mark.parametrize("k", [2, 3, 5])
def test_listed_values_are_nearly_even_at_any_number_of_trials(k):
    for seed in range(10):
        spaces = parsed(x=listed(k), a=UNIT, b=UNIT)
        values = [row["x"] for row in samplers.sample("halton", spaces, 200, seed)]
        # Random draws are off by 8 or more somewhere, in half of the studies.
        for n in range(1, 200):
            counts = collections.Counter(values[:n])
            assert max(abs(counts[v] - n / k) for v in spaces["x"].values) <= 3


def test_two_lists_and_small_integers_are_not_tied_to_one_another():
    spaces = parsed(
        x=listed(3), y=listed(3), n={"scale": "linear", "low": 1, "high": 3, "type": "int"}
    )
    rows = samplers.sample("halton", spaces, 270, seed=0)
    for one, two in itertools.combinations(spaces, 2):
        pairs = collections.Counter((row[one], row[two]) for row in rows)
        assert len(pairs) == 9
        assert max(abs(count - 30) for count in pairs.values()) <= 4
    # Each learning-rate half sees each value: taken in turn, two values would see a half each.
    spaces = parsed(x=listed(2), a=UNIT)
    rows = samplers.sample("halton", spaces, 36, seed=0)
    quarters = collections.Counter((row["x"], row["a"] < 0.5) for row in rows)
    assert set(quarters.values()) == {9}


@pytest.mark.playbook("halton-sequence", "low-discrepancy-points")
def test_stored_points_are_ten_times_as_even_as_random_ones(load, tmp_path):
    from scipy.stats import qmc

    spec = load(
        num_trials=100,
        nuisance={"hparams.learning_rate": UNIT, "hparams.label_smoothing": UNIT | {"high": 0.5}},
    )
    study = StudyDirectory(tmp_path / "s")
    study.write(spec, launcher.extend([], spec))
    study.release()
    rows = trial.read_json(tmp_path / "s" / "study.json")["trials"]
    points = np.array([list(row["parameters"].values()) for row in rows]) * [1, 2]
    rng = np.random.default_rng(0)
    random = np.median([qmc.discrepancy(rng.random((100, 2))) for _ in range(50)])
    assert qmc.discrepancy(points) < random / 10


@pytest.mark.playbook("uniform-search-instead")
def test_uniform_points_are_independent_and_have_prefixes():
    spaces = parsed(a=UNIT, b=UNIT, x=listed(4))
    rows = samplers.sample("uniform", spaces, 400, seed=5)
    assert samplers.sample("uniform", spaces, 100, seed=5) == rows[:100]
    assert samplers.sample("uniform", spaces, 100, seed=6) != rows[:100]
    a, b = np.array([[row["a"], row["b"]] for row in rows]).T
    # Four standard errors each: of a mean, 1/√(12·400); of a correlation, 1/√400.
    assert abs(a.mean() - 0.5) < 4 * 0.0144
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 * 0.05
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 4 * 0.05
    # Unlike Halton points, which have one in each half of every pair, some pairs share a half.
    assert any(
        (first < 0.5) == (second < 0.5) for first, second in zip(a[::2], a[1::2], strict=True)
    )


@pytest.mark.playbook("grid-in-two-dimensions")
def test_a_grid_has_all_combinations_bounds_included(load):
    spec = load(
        algorithm="grid",
        num_trials=None,
        nuisance={
            "hparams.learning_rate": RATE | {"points": 4},
            "hparams.warmup_steps": {"scale": "linear", "low": 0, "high": 20, "type": "int", "points": 3},
            "optimizer": {"values": ["adam", "sgd"]},
        },
    )  # fmt: skip
    assert spec.num_trials == 24
    rows = trial_points.points(spec)
    assert [row["optimizer"] for row in rows[:4]] == ["adam", "sgd", "adam", "sgd"]
    rates = sorted({row["hparams.learning_rate"] for row in rows})
    assert rates == pytest.approx([1e-3, 1e-2, 1e-1, 1.0], rel=1e-12)
    assert (rates[0], rates[-1]) == (1e-3, 1.0)  # exactly
    expected = set(itertools.product(rates, (0, 10, 20), ("adam", "sgd")))
    assert {tuple(row.values()) for row in rows} == expected


@pytest.mark.playbook("study-as-a-list")
def test_a_listed_study_takes_its_points_as_they_are(load, tmp_path):
    points = [
        {"hparams.learning_rate": 0.1, "model.hidden_sizes": [64]},
        {"model.hidden_sizes": [64, 64], "hparams.learning_rate": 1},
    ]
    spaces = {
        "hparams.learning_rate": RATE,
        "model.hidden_sizes": {"values": [[64], [64, 64]]},
        "dataset.source": {"values": ["memory", "tf_data"]},
    }
    points = [p | {"dataset.source": "memory"} for p in points]
    spec = load(algorithm="list", num_trials=None, nuisance=spaces, points=points)
    assert trial_points.points(spec) == [
        {
            "hparams.learning_rate": rate,
            "model.hidden_sizes": sizes,
            "dataset.source": "memory",
        }
        for rate, sizes in ((0.1, (64,)), (1.0, (64, 64)))
    ]
    (tmp_path / "points.csv").write_text(
        'hparams.learning_rate,model.hidden_sizes,dataset.source\n0.1,[64],memory\n1,"[64, 64]",memory\n'
    )
    from_file = load(algorithm="list", num_trials=2, nuisance=spaces, points="points.csv")
    assert trial_points.points(from_file) == trial_points.points(spec)


def test_a_listed_study_grows_at_its_end(load, tmp_path):
    points = [{"hparams.learning_rate": rate} for rate in (0.1, 0.2, 0.3)]
    study = StudyDirectory(tmp_path / "s")
    spec = load(algorithm="list", num_trials=None, points=points[:2])
    study.write(spec, launcher.extend([], spec))
    study.trial_directory(0).mkdir(parents=True)
    longer = load(algorithm="list", num_trials=None, points=points)
    trials = launcher.extend(study.stored_trials(longer), longer)
    assert [row["parameters"] for row in trials] == points
    for other in (points[::-1], [points[2], points[1]]):
        turned = load(algorithm="list", num_trials=None, points=other)
        with pytest.raises(UsageError, match="trial 0 of the list is not what the study has start"):
            launcher.extend(study.stored_trials(turned), turned)
    study.release()


@pytest.mark.playbook("study-as-a-list")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": None}, "algorithm 'list' needs 'points'"),
        ({"points": []}, "points lists no trial"),
        ({"points": 3}, "points must be a list like"),
        ({"points": "no.csv"}, "no.csv cannot be read"),
        ({"points": [{"hparams.learning_rate": 0.1}] * 2}, "trials 0 and 1 are the same"),
        ({"points": [{}]}, "points[0] lacks hparams.learning_rate"),
        ({"points": [{"hparams.learning_rate": 2.0}]}, "points[0]: hparams.learning_rate = 2.0 is n"),
        ({"points": [{"hparams.learning_rate": True}]}, "= True is not in its space"),
        (
            {"points": [{"hparams.learning_rat": 0.1}]},
            "which is neither scientific nor nuisance; did you mean 'hparams.learning_rate'?",
        ),
        (
            {"points": [{"hparams.learning_rate": 0.1}], "num_trials": 2},
            "the list has 1 trials, which is smaller than num_trials 2",
        ),
        (
            {"points": [{"hparams.learning_rate": 0.1}, {"hparams.learning_rate": 0.2}], "num_trials": 1},
            "the list has 2 trials, which is larger than num_trials 1",
        ),
        ({"algorithm": "halton"}, "the study config lacks 'num_trials'"),
        (
            {"algorithm": "halton", "num_trials": 3, "points": [{}]},
            "'points' are for algorithm 'list', not for 'halton'",
        ),
        ({"algorithm": "grid"}, "hparams.learning_rate: a grid needs the number of its values"),
        (
            {
                "algorithm": "grid",
                "nuisance": {"hparams.learning_rate": RATE | {"points": 9}},
                "num_trials": 8,
            },
            "the grid has 9 trials, which is larger than num_trials 8",
        ),
        (
            {
                "algorithm": "grid",
                "nuisance": {
                    "batch_size": {"scale": "linear", "low": 1, "high": 3, "type": "int", "points": 4}
                },
            },
            "4 points from 1 to 3 are not different ones",
        ),
        ({"baseline": 1}, "baseline must be True or False; it is 1"),
        (
            {"points": [{"hparams.learning_rate": 0.2}, {"hparams.learning_rate": 0.1}], "baseline": True},
            "trials 0 and 2 are the same",
        ),
    ],
)  # fmt: skip
def test_bad_points_end_with_one_line(load, changes, message):
    with pytest.raises(UsageError) as error:
        trial_points.points(load(**{"algorithm": "list", "num_trials": None} | changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hparams.learning_rate\n0.1,0.2\n", "row 1 has not as many cells"),
        ("hparams.learning_rate,optimizer\n0.1\n", "row 1 has not as many cells"),
        ("hparams.learning_rate\nmuch\n", "hparams.learning_rate = 'much' is not in its space"),
        ("hparams.learning_rate\nNaN\n", "hparams.learning_rate = nan is not in its space"),
        ("", "points lists no trial"),
    ],
)
def test_bad_csv_files_end_with_one_line(load, tmp_path, text, message):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(UsageError) as error:
        load(algorithm="list", num_trials=None, points="points.csv")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_baseline_is_trial_0_and_outside_of_the_sequence(load, tmp_path):
    changes = {
        "fixed": {"hparams.momentum": 0.8},
        "nuisance": {
            "hparams.learning_rate": RATE,
            "hparams.clip_norm": {"scale": "log", "low": 0.1, "high": 10.0},
            "model.hidden_sizes": {"values": [[64], [64, 64]]},
        },
    }
    with_baseline = load(baseline=True, num_trials=9, **changes)
    rows = trial_points.points(with_baseline)
    assert len(rows) == 9
    # The base config's own values, though its clip_norm of 0 lies outside of the space.
    assert rows[0] == {
        "hparams.learning_rate": 0.1,
        "hparams.clip_norm": 0.0,
        "model.hidden_sizes": (128, 128),
    }
    assert rows[1:] == trial_points.points(load(num_trials=8, **changes))
    study = StudyDirectory(tmp_path / "s")
    study.write(with_baseline, launcher.extend([], with_baseline))
    study.trial_directory(0).mkdir(parents=True)
    longer = load(baseline=True, num_trials=20, **changes)
    grown = launcher.extend(study.stored_trials(longer), longer)
    assert [row["parameters"] for row in grown] == trial_points.points(longer)
    assert [row["parameters"] for row in grown[:9]] == rows
    with pytest.raises(UsageError, match="baseline: True →"):
        study.stored_trials(load(num_trials=20, **changes))
    study.release()


def test_booleans_and_tuples_reach_the_config_as_they_are(load):
    spec = load(
        nuisance={
            "record_group_norms": {"values": [True, False]},
            "model.hidden_sizes": {"values": [[32], [32, 32]]},
        }
    )
    configs = [
        specification.trial_config(spec.base_config, t, json.loads(json.dumps(p)), False)
        for t, p in enumerate(trial_points.points(spec))
    ]
    assert {(c.record_group_norms, c.model.hidden_sizes) for c in configs} == set(
        itertools.product((True, False), ((32,), (32, 32)))
    )
    assert all(type(c.record_group_norms) is bool for c in configs)
    assert math.isclose(sum(c.record_group_norms for c in configs), 10)


@pytest.mark.playbook("halton-sequence", "quasi-random-exploration", "low-discrepancy-points")
@pytest.mark.parametrize("seed", [0, 1])
def test_each_dimension_has_the_prime_base_of_halton(seed):
    # Of the first pᵐ points, one is in each pᵐ-th of the dimension with the prime p. Of Sobol's only the
    # dimensions of base 2 would be so even.
    spaces = parsed(a=UNIT, b=UNIT, c=UNIT, d=UNIT)
    rows = samplers.sample("halton", spaces, 125, seed)
    for name, size in (("a", 64), ("b", 81), ("c", 125), ("d", 49)):
        parts = [int(row[name] * size) for row in rows[:size]]
        assert sorted(parts) == list(range(size)), name


@pytest.mark.playbook("scientific-values-sampled-evenly", "joint-study")
@pytest.mark.parametrize("algorithm", ["halton", "uniform"])
@pytest.mark.parametrize("sizes", [(5,), (2, 2), (3, 3), (4, 6), (2, 4, 3)])
def test_no_scientific_value_is_ever_more_than_one_trial_ahead(algorithm, sizes):
    names = [f"s{i}" for i in range(len(sizes))]
    spaces = parsed(**{n: listed(k) for n, k in zip(names, sizes, strict=True)}, a=UNIT, b=UNIT)
    length = 3 * math.prod(sizes) + 1
    rows = samplers.sample(algorithm, spaces, length, 4, names)
    assert list(rows[0]) == list(spaces)
    for n in range(1, length + 1):
        if n % 7 == 0:
            assert samplers.sample(algorithm, spaces, n, 4, names) == rows[:n]
        for columns in (*([name] for name in names), names):
            counts = collections.Counter(tuple(row[c] for c in columns) for row in rows[:n])
            size = math.prod(len(spaces[c].values) for c in columns)
            lowest = min(counts.values()) if len(counts) == size else 0
            assert max(counts.values()) - lowest <= 1, (n, columns, counts)


@pytest.mark.playbook("scientific-values-sampled-evenly", "low-discrepancy-points")
@pytest.mark.parametrize("k", [2, 3, 5])
def test_each_scientific_value_sees_nuisance_points_as_even_as_a_study_of_its_own(k):
    from scipy.stats import qmc

    spaces = parsed(x=listed(k), a=UNIT, b=UNIT)
    alone, own, before, together, random = ([] for _ in range(5))
    for seed in range(10):
        alone += [qmc.discrepancy(coordinates(samplers.sample("halton", spaces, 20, seed), "ab"))]
        for scientific, found in ((["x"], own), ([], before)):
            rows = samplers.sample("halton", spaces, 20 * k, seed, scientific)
            for value in spaces["x"].values:
                found.append(
                    qmc.discrepancy(coordinates([r for r in rows if r["x"] == value], "ab"))
                )
        rows = samplers.sample("halton", spaces, 20 * k, seed, ["x"])
        together.append(qmc.discrepancy(coordinates(rows, "ab")))
        random.append(qmc.discrepancy(np.random.default_rng(seed).random((20 * k, 2))))
    assert np.mean(own) < 1.1 * np.mean(alone)
    assert np.mean(own) <= np.mean(before)
    assert np.mean(together) < np.mean(random) / 3


def coordinates(rows, names):
    return np.array([[row[name] for name in names] for row in rows])


def test_a_study_begun_before_values_were_dealt_in_turn_goes_on_as_it_began(load):
    changes = {"scientific": {"model.hidden_sizes": {"values": [[8], [16], [32]]}}}
    spec = load(num_trials=30, **changes)
    old = samplers.sample("halton", spec.spaces, 30, spec.seed)
    assert old[:12] != trial_points.points(spec)[:12]
    assert trial_points.points(spec, old[:12]) == old
    new = trial_points.points(spec)
    assert trial_points.points(spec, new[:12]) == new
    assert trial_points.points(load(num_trials=50, **changes), new)[:30] == new


@pytest.mark.playbook("study-as-a-list")
def test_a_list_needs_no_bounds_and_may_outgrow_those_that_its_points_have(load, tmp_path):
    (tmp_path / "points.csv").write_text(
        "hparams.learning_rate,hparams.momentum,hparams.warmup_steps,model.hidden_sizes,optimizer,"
        "hparams.beta1@optimizer=adam,hparams.label_smoothing\n"
        "0.01,0.5,0,[64],nesterov,,0.1\n1,0.99,100,[64],nesterov,,0\n0.1,0.9,50,\"[8,8]\",adam,0.8,0.2\n"
        "0.1,0.9,50,\"[8,8]\",adam,0.9,0.2\n"
    )  # fmt: skip
    names = ["hparams.learning_rate", "hparams.momentum", "hparams.warmup_steps"]
    names += ["model.hidden_sizes", "optimizer", "hparams.label_smoothing"]
    nuisance = {name: {} for name in names} | {"hparams.beta1": {"when": {"optimizer": ["adam"]}}}
    nuisance["hparams.label_smoothing"] = {"scale": "linear"}
    changes = {"algorithm": "list", "num_trials": None, "nuisance": nuisance}
    spec = load(points="points.csv", **changes)
    bounds = {
        name: (space.scale, space.low, space.high, space.type)
        for name, space in spec.spaces.items()
        if isinstance(space, search_space.Range)
    }
    assert bounds == {
        "hparams.learning_rate": ("log", 0.01, 1.0, "float"),
        "hparams.momentum": ("one_minus_log", 0.5, 0.99, "float"),
        "hparams.warmup_steps": ("linear", 0, 100, "int"),
        "hparams.label_smoothing": ("linear", 0.0, 0.2, "float"),
        "hparams.beta1@optimizer=adam": ("linear", 0.8, 0.9, "float"),
    }
    assert spec.spaces["model.hidden_sizes"].values == ((64,), (8, 8))
    assert [len(point) for point in trial_points.points(spec)] == [6, 6, 7, 7]
    assert search_space.parse("x", spec.spaces["optimizer"].to_dict()).from_points

    study = StudyDirectory(tmp_path / "s")
    study.write(spec, launcher.extend([], spec))
    study.trial_directory(0).mkdir(parents=True)
    with (tmp_path / "points.csv").open("a") as file:
        file.write("3,0.9,200,[16],sgd,,0.2\n")
    longer = load(points="points.csv", **changes)
    assert len(launcher.extend(study.stored_trials(longer), longer)) == 5
    study.release()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([{"hparams.learning_rate": 0.1}], "hparams.learning_rate is always 0.1: put it under 'fixed'"),
        ([{"hparams.learning_rat": 0.1}], "hparams.learning_rate is never set"),
        ([{"hparams.learning_rate": 0.1}, {"hparams.learning_rate": "much"}],
         "'much' does not fit the config's 0.1"),
        ([{"hparams.learning_rate": {}}, {"hparams.learning_rate": 1}], "is no number, name, bool"),
        ([{"hparams.learning_rate": 0.1}, {}], "hparams.learning_rate is always 0.1"),
        ([{"hparams.learning_rate": 0.1}, {"hparams.learning_rate": -1}], "must not be negative"),
    ],
)  # fmt: skip
def test_a_list_without_bounds_whose_points_cannot_be_ends_with_one_line(load, points, message):
    with pytest.raises(UsageError) as error:
        load(
            algorithm="list", num_trials=None, points=points, nuisance={"hparams.learning_rate": {}}
        )
    assert message in str(error.value)
    assert "\n" not in str(error.value)
