import math

import numpy as np
import pytest

from playbook_jax.analysis.render import axes, objective_axis


def labels(axis):
    return [tick.label for tick in axis.ticks if tick.label]


def test_linear():
    axis = axes.linear(0, 50, "x")
    assert axis.place(np.array([0, 12.5, 50])) == pytest.approx([0, 0.25, 1])
    assert labels(axis) == ["0", "10", "20", "30", "40", "50"]
    assert [t.place for t in axis.ticks] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1000, ["0", "200", "400", "600", "800", "1,000"]),
        (0, 0.25, ["0", "0.05", "0.10", "0.15", "0.20", "0.25"]),
        (3, 3, ["2.7", "2.8", "2.9", "3.0", "3.1", "3.2", "3.3"]),
        (0, 0, ["-0.10", "-0.05", "0", "0.05", "0.10"]),
        (0, 5e7, ["0", "1e7", "2e7", "3e7", "4e7", "5e7"]),
        (0, 12.5, ["0.0", "2.5", "5.0", "7.5", "10.0", "12.5"]),
    ],
)
def test_linear_labels(low, high, expected):
    shown = labels(axes.linear(low, high, "x"))
    assert shown == ["0" if label == "0.0" else label for label in expected]


def test_log():
    axis = axes.log(1e-3, 10, "x")
    values = np.array([1e-3, 1e-1, 10])
    assert axis.place(values) == pytest.approx([0, 0.5, 1])
    assert labels(axis) == ["0.001", "0.01", "0.1", "1", "10"]
    # The minor ticks: 2 to 9 in each of the four decades.
    assert len(axis.ticks) == 5 + 4 * 8


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1e-6, 1e-2, ["10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²"]),
        (0.1, 10, ["0.1", "0.3", "1", "3", "10"]),
        (1, 20, ["1", "2", "5", "10", "20"]),
        (0.02, 0.05, ["0.02", "0.03", "0.04", "0.05"]),
        (0.5, 0.5, ["0.45", "0.50", "0.55", "0.60"]),
    ],
)
def test_log_labels(low, high, expected):
    assert labels(axes.log(low, high, "x")) == expected


def test_an_axis_of_many_decades_does_not_crowd_its_labels():
    for decades in (8, 15, 30, 300):
        assert 2 <= len(labels(axes.log(10.0**-decades, 1, "x"))) <= 9


def test_log_with_a_place_for_what_is_less():
    axis = axes.log(0.01, 1, "x", end="less")
    places = axis.place(np.array([0, -1, 1e-9, 0.01, 0.1, 1, np.nan]))
    band = axes.END_BAND
    assert places[:6] == pytest.approx([0, 0, 0, band, band + (1 - band) / 2, 1])
    assert math.isnan(places[6])
    assert labels(axis)[0] == "less"


def test_one_minus_log_is_in_the_units_of_the_hyperparameter():
    axis = axes.one_minus_log(0.9, 0.999, "momentum")
    assert axis.place(np.array([0.9, 0.99, 0.999])) == pytest.approx([0, 0.5, 1])
    assert labels(axis) == ["0.9", "0.97", "0.99", "0.997", "0.999"]
    assert labels(axes.one_minus_log(0.5, 0.999, "momentum"))[0] == "0.5"
    places = [tick.place for tick in axis.ticks]
    assert places == sorted(places)


def test_levels():
    axis = axes.levels(["a", "b", "c", "d"], "x")
    assert axis.place(np.arange(4)) == pytest.approx([0.125, 0.375, 0.625, 0.875])
    assert labels(axis) == ["a", "b", "c", "d"]
    long = labels(axes.levels(["x" * 80] * 3, "x"))
    assert all(len(label) <= 22 for label in long)
    assert len(labels(axes.levels([str(i) for i in range(100)], "x"))) <= 12


def test_padding_leaves_room_at_both_ends():
    axis = axes.padded(axes.linear(0, 10, "x"), 0.1)
    assert axis.place(np.array([0, 5, 10])) == pytest.approx([0.1, 0.5, 0.9])
    assert axis.ticks[0].place == pytest.approx(0.1)


def test_objectives_are_on_a_log_axis_where_their_range_is_wide():
    narrow = objective_axis.objectives("validation/loss", np.array([1.0, 2, 3]), False)
    assert not narrow.logarithmic
    wide = objective_axis.objectives("validation/loss", np.array([0.1, 1, 10]), False)
    assert wide.logarithmic
    assert (wide.low, wide.high) == pytest.approx((0.1, 10))
    # Where more is better, a log axis would spread out the worst.
    assert not objective_axis.objectives("x", np.array([0.1, 1, 10]), True).logarithmic
    assert not objective_axis.objectives("x", np.array([-0.1, 1, 10]), False).logarithmic


def test_a_terrible_trial_does_not_flatten_the_others():
    values = np.array([1.0, 1.1, 1.2, 1.3, 1e6])
    shown = objective_axis.objectives("validation/loss", values, False)
    assert shown.high < 1e3
    shown = objective_axis.objectives("validation/reward", -values, True)
    assert shown.low > -1e3
    assert shown.high == -1.0


def test_objectives_with_zeros_and_with_nothing():
    shown = objective_axis.objectives("validation/loss", np.array([0.0, 0.01, 1]), False)
    assert labels(shown.axis)[0] == "0"
    assert np.isfinite(shown.axis.place(np.array([0.0]))).all()
    bare = objective_axis.objectives("validation/loss", np.array([]), False)
    assert bare.axis.ticks == ()
    same = objective_axis.objectives("validation/loss", np.array([0.0, 0.0]), False)
    assert np.isfinite(same.axis.place(np.zeros(2))).all()


def test_rates_are_in_percent():
    shown = objective_axis.objectives("validation/error_rate", np.array([0.1, 0.2]), False)
    assert shown.axis.label == "validation error rate (%)"
    assert labels(shown.axis)[0] == "10"


def test_a_tiny_training_loss_leaves_room_for_the_validation_loss():
    validation = np.geomspace(0.05, 2, 50)
    train = np.geomspace(1e-12, 2, 50)
    values = np.concatenate([validation, train])
    shown = objective_axis.curves("validation/loss", values, validation, False)
    assert shown.low == pytest.approx(0.05 / objective_axis.BELOW)
    assert labels(shown.axis)[0] == "less"
    places = shown.axis.place(validation)
    assert places.max() - places.min() > 0.4
    assert np.ptp(shown.axis.place(train[train < shown.low])) == 0  # all at the low end


def test_curves_with_zeros_and_spikes():
    values = np.array([0.0, 0.1, 0.2, 1.0] * 100 + [np.nan, 1e9])
    shown = objective_axis.curves("train/loss", values, values, False)
    assert labels(shown.axis)[0] == "0"
    assert shown.high < 1e9
    rising = objective_axis.curves("validation/accuracy", np.array([0.01, 0.9]), np.array([]), True)
    assert not rising.logarithmic
