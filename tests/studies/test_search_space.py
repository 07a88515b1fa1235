import collections
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, strategies as st

from playbook_jax.errors import UsageError
from playbook_jax.studies.space import samplers, search_space

SPACES = {
    "hparams.learning_rate": {"scale": "log", "low": 1e-4, "high": 1.0},
    "hparams.momentum": {"scale": "one_minus_log", "low": 0.5, "high": 0.999},
    "hparams.dropout_rate": {"scale": "linear", "low": 0.0, "high": 0.5},
    "hparams.warmup_steps": {"scale": "linear", "low": 0, "high": 9, "type": "int"},
    "batch_size": {"scale": "log", "low": 8, "high": 512, "type": "int"},
    "optimizer": {"values": ["adam", "nesterov", "sgd"]},
    "model.hidden_sizes": {"values": [[64], [64, 64]]},
}
GRID = ((np.arange(20_000) + 0.5) / 20_000).tolist()
# As near to 0 and 1 as Halton points come.
UNIT = st.floats(0, 1, exclude_max=True)


def parse(name):
    return search_space.parse(name, SPACES[name])


def parsed(names=SPACES):
    return {name: parse(name) for name in names}


@pytest.mark.playbook("search-spaces-in-real-units")
@given(UNIT)
def test_values_stay_within_the_bounds_and_are_plain_python(u):
    for name, given_space in SPACES.items():
        value = parse(name).value(u)
        if "values" in given_space:
            assert value in [search_space.freeze(v) for v in given_space["values"]]
        else:
            assert given_space["low"] <= value <= given_space["high"]
            assert type(value) is (int if given_space.get("type") == "int" else float)


def test_rounding_does_not_lead_out_of_bounds():
    # exp(log(1e-5)) < 1e-5, and 1 − exp(…) comes to 0.30000000000000004 here.
    assert search_space.parse("x", {"scale": "log", "low": 1e-5, "high": 0.2}).value(0.0) == 1e-5
    space = search_space.parse("x", {"scale": "one_minus_log", "low": 1e-5, "high": 0.3})
    assert space.value(1 - 2**-53) == 0.3


@pytest.mark.playbook("search-spaces-in-real-units")
@pytest.mark.parametrize(
    ("name", "middle"),
    [
        ("hparams.learning_rate", 1e-2),  # the geometric mean of the bounds
        ("hparams.momentum", 1 - math.sqrt(0.5 * 0.001)),
        ("hparams.dropout_rate", 0.25),
    ],
)
def test_scales_in_real_units(name, middle):
    space = parse(name)
    assert space.value(0.0) == pytest.approx(SPACES[name]["low"], rel=1e-12)
    assert space.value(0.5) == pytest.approx(middle, rel=1e-12)
    assert space.value(1 - 1e-15) == pytest.approx(SPACES[name]["high"], rel=1e-9)


def test_momentum_leaves_equal_shares_to_each_decade_of_one_minus_momentum():
    space = search_space.parse("m", {"scale": "one_minus_log", "low": 0.9, "high": 0.9999})
    decades = collections.Counter(math.floor(math.log10(1 - space.value(u))) for u in GRID)
    for count in (decades[-2], decades[-3], decades[-4]):
        assert count == pytest.approx(len(GRID) / 3, rel=1e-3)


def test_linear_integers_have_equal_shares():
    counts = collections.Counter(parse("hparams.warmup_steps").value(u) for u in GRID)
    assert sorted(counts) == list(range(10))
    # The two at the bounds too; rounding low + (high − low) u would give them half a share.
    assert set(counts.values()) == {len(GRID) // 10}


def test_log_integers_have_shares_in_proportion_to_one_over_their_value():
    space = search_space.parse("n", {"scale": "log", "low": 1, "high": 64, "type": "int"})
    counts = collections.Counter(space.value(u) for u in GRID)
    assert sorted(counts) == list(range(1, 65))
    # Exactly, the share of k is log((k + ½) / (k − ½)) = 1/k + 1/(12 k³) + …
    unit = len(GRID) / math.log(64.5 / 0.5)
    for k, count in counts.items():
        assert count == pytest.approx(unit * math.log((k + 0.5) / (k - 0.5)), abs=1.5)


@pytest.mark.parametrize("name", ["optimizer", "model.hidden_sizes"])
def test_listed_values_have_equal_shares(name):
    space = parse(name)
    counts = collections.Counter(space.value(u) for u in GRID)
    assert len(counts) == len(space.values)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_spaces_come_back_from_json():
    for name, space in parsed().items():
        assert search_space.parse(name, json.loads(json.dumps(space.to_dict()))) == space


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"scale": "log", "low": 1.0, "high": 0.1}, "low must be below high; they are 1.0 and 0.1"),
        ({"scale": "linear", "low": 1.0, "high": 1.0}, "low must be below high"),
        ({"scale": "log", "low": 0.0, "high": 0.1}, "low must be above 0 on a log scale"),
        ({"scale": "log", "low": -1.0, "high": 0.1}, "low must be above 0 on a log scale"),
        ({"scale": "one_minus_log", "low": 0.5, "high": 1.0}, "high must be below 1 under one_mi"),
        ({"scale": "one_minus_log", "low": 0, "high": 1, "type": "int"}, "so not for ints"),
        ({"scale": "linear", "low": math.nan, "high": 0.1}, "low must be finite; it is nan"),
        ({"scale": "linear", "low": 0.0, "high": math.inf}, "high must be finite; it is inf"),
        ({"scale": "linear", "low": "0", "high": 1.0}, "low must be a number; it is '0'"),
        ({"scale": "linear", "low": 0.5, "high": 2, "type": "int"}, "low of an int must be a who"),
        ({"scale": "logg", "low": 1, "high": 2}, "did you mean 'log'? (known: linear"),
        ({"scale": "log", "low": 1, "high": 2, "type": "integer"}, "did you mean 'int'?"),
        ({"scale": "log", "lower": 1, "high": 2}, "'lower'; did you mean 'low'?"),
        ({"scale": "log", "low": 1}, "the search space lacks 'high'"),
        ({"low": 1, "high": 2}, "the search space lacks 'scale'"),
        ({"values": []}, "'values' must list at least two values; it is []"),
        ({"values": "adam"}, "'values' must list at least two values; it is 'adam'"),
        ({"values": [0.1]}, "has one value, 0.1: put it under 'fixed'"),
        ({"values": [1, 2, 1]}, "the value 1 is listed twice"),
        ({"values": [0.1, math.nan]}, "nan is not finite"),
        ({"values": [None, 1]}, "None is no number, name, bool or tuple"),
        ({"values": [1, 2], "low": 1}, "has 'values' or bounds, not both"),
        ({"values": [1, 2], "when": ["adam"]}, "a condition is like {'when': {'optimizer': ['adam"),
        ({"values": [1, 2], "when": {"optimizer": "adam"}}, "that on optimizer is 'adam'"),
        ({"scale": "log", "low": 1, "high": 2, "points": 1}, "at least 2; it is 1"),
        (0.1, "one value belongs under 'fixed'"),
    ],
)
def test_bad_spaces_end_with_one_line(space, message):
    with pytest.raises(UsageError) as error:
        search_space.parse("hparams.x", space)
    assert message in str(error.value)
    assert "hparams.x" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.playbook("studies-are-reproducible", "parallel-or-sequential")
def test_points_of_a_shorter_study_are_the_first_of_a_longer_one():
    short = samplers.sample("halton", parsed(), 40, seed=3)
    assert samplers.sample("halton", parsed(), 100, seed=3)[:40] == short
    assert samplers.sample("halton", parsed(), 40, seed=4)[:40] != short


@pytest.mark.playbook("studies-are-reproducible")
def test_another_process_makes_the_same_bytes():
    code = (
        "import sys, json; from playbook_jax.studies.space import samplers, search_space\n"
        "spaces = {k: search_space.parse(k, v) for k, v in json.loads(sys.argv[1]).items()}\n"
        "print(json.dumps(samplers.sample('halton', spaces, 50, 7)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, json.dumps(SPACES)], capture_output=True, text=True, check=True
    ).stdout
    assert output == json.dumps(samplers.sample("halton", parsed(), 50, 7)) + "\n"


@pytest.mark.playbook("halton-sequence", "low-discrepancy-points", "quasi-random-exploration")
def test_points_are_spread_far_more_evenly_than_random_ones():
    from scipy.stats import qmc

    names = ["a", "b", "c", "d"]
    spaces = {n: search_space.parse(n, {"scale": "linear", "low": 0, "high": 1}) for n in names}

    def discrepancy(points):
        return qmc.discrepancy(points)

    rng = np.random.default_rng(0)
    random = [discrepancy(rng.random((100, 4))) for _ in range(20)]
    for seed in range(20):
        points = samplers.sample("halton", spaces, 100, seed)
        # The best of 20 random designs is still more than twice as uneven as any Halton one.
        assert discrepancy([list(p.values()) for p in points]) < min(random) / 2


@pytest.mark.playbook("scientific-values-sampled-evenly", "joint-study")
def test_listed_values_are_balanced_over_a_study():
    for seed in range(10):
        trials = samplers.sample("halton", parsed(["optimizer", "hparams.momentum"]), 60, seed)
        counts = collections.Counter(t["optimizer"] for t in trials)
        # 20 each, give or take one or two; random choice has a standard deviation of 3.7.
        assert all(abs(count - 20) <= 2 for count in counts.values()), counts


def test_an_unknown_algorithm_names_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown algorithm 'haltom'; did you mean 'halton'\?"):
        samplers.sample("haltom", parsed(), 3, 0)


def test_ten_thousand_trials_take_no_time():
    trials = samplers.sample("halton", parsed(), 10_000, 0)
    assert len({json.dumps(t) for t in trials}) == 10_000  # all different


def test_spaces_need_neither_jax_nor_numpy():
    code = (
        "import sys, playbook_jax.studies.space.search_space, playbook_jax.studies.execution.pool\n"
        "assert not {'jax', 'numpy', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
