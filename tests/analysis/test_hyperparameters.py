import math

import pytest

from playbook_jax.analysis.data import hyperparameters
from playbook_jax.analysis.stats import directions
from tests import synthetic_study as synthetic


def parse(space, name="hparams.x"):
    return hyperparameters.parse(name, "nuisance", space)


@pytest.mark.parametrize(
    ("space", "values", "units"),
    [
        ({"scale": "linear", "low": -1.0, "high": 3.0}, [-1, 1, 3, 5], [0, 0.5, 1, 1.5]),
        (synthetic.LEARNING_RATE, [1e-3, 1e-1, 10, 100], [0, 0.5, 1, 1.25]),
        ({"scale": "one_minus_log", "low": 0.9, "high": 0.999}, [0.9, 0.99, 0.999], [0, 0.5, 1]),
        ({"scale": "linear", "low": 1, "high": 5, "type": "int"}, [1, 2, 5], [0, 0.25, 1]),
        ({"values": [256, 32, 64]}, [32, 64, 256], [0, 0.5, 1]),
    ],
)
def test_places_on_the_axis(space, values, units):
    axis = parse(space)
    assert [axis.unit(v) for v in values] == pytest.approx(units)
    if "scale" in space:
        assert [axis.value(u) for u in units] == pytest.approx(values)
    assert (axis.bound("low"), axis.bound("high")) == (values[0], max(values[: len(units)][:3]))


@pytest.mark.parametrize("value", [None, "adam", True, [64], float("nan")])
def test_what_has_no_place(value):
    assert math.isnan(parse(synthetic.LEARNING_RATE).unit(value))
    assert math.isnan(parse({"values": [1, 2]}).unit(value))


def test_values_that_the_scale_lacks_have_no_place():
    assert math.isnan(parse(synthetic.LEARNING_RATE).unit(0))
    assert math.isnan(parse(synthetic.MOMENTUM).unit(1.0))
    assert math.isnan(parse({"values": [1, 2]}).unit(3))


def test_names_have_no_order_and_keep_theirs():
    names = parse({"values": ["sgd", "adam"]}, "optimizer")
    assert not names.ordered
    assert names.levels == ["sgd", "adam"]
    assert names.label == "optimizer"
    assert parse({"values": [3, 1, 2]}).levels == [1, 2, 3]
    assert not parse({"values": [True, False]}).ordered
    assert parse(synthetic.MOMENTUM, "hparams.momentum").label == "momentum"


def test_the_effective_learning_rate():
    axes = [
        parse(synthetic.LEARNING_RATE, "hparams.learning_rate"),
        parse(synthetic.MOMENTUM, "hparams.momentum"),
    ]
    (ratio,) = directions.effective_learning_rates(axes)
    # 0.001 / 0.5 to 10 / 0.001: 6.7 decades.
    assert ratio.decades == pytest.approx(math.log10(1e4 / 2e-3))
    values = {"hparams.learning_rate": 0.1, "hparams.momentum": 0.9}
    assert ratio.place(values) == pytest.approx((0 - math.log10(2e-3)) / ratio.decades)
    assert ratio.show(ratio.place(values)) == "1"
    assert math.isnan(ratio.place({"hparams.learning_rate": 0.1}))
    assert math.isnan(ratio.place({"hparams.momentum": 0.1}))
    assert directions.effective_learning_rates(axes[:1]) == []
    linear = parse({"scale": "linear", "low": 0.0, "high": 1.0}, "hparams.learning_rate")
    assert directions.effective_learning_rates([linear, axes[1]]) == []


def test_a_direction_along_an_axis():
    rate = directions.along(parse(synthetic.LEARNING_RATE, "hparams.learning_rate"))
    assert (rate.label, rate.decades) == ("learning_rate", pytest.approx(4))
    assert rate.show(0.5) == "0.1"
    listed = directions.along(parse({"values": [32, 64, 256]}, "batch_size"))
    assert [listed.show(place) for place in (0, 0.5, 1)] == ["32", "64", "256"]
    assert listed.place({"batch_size": 64}) == 0.5
