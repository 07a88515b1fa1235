import re
from pathlib import Path

import numpy as np
import pytest

from playbook_jax.analysis import figures, findings
from playbook_jax.analysis.figures import best_steps, hyperparameter_axes, training_curves
from playbook_jax.analysis.render import page, svg
from playbook_jax.analysis.render.axes import PADDING
from playbook_jax.analysis.render.plot_frame import Panel
from tests import synthetic_study as synthetic
from tests.html_page import Page

RATE, MOMENTUM, DECAY = "hparams.learning_rate", "hparams.momentum", "hparams.weight_decay"
SPACES = {RATE: synthetic.LEARNING_RATE, MOMENTUM: synthetic.MOMENTUM}
LEFT, END = 58, 470 - 14  # of a panel


def study(number=20, *, infeasible=0.8, mode="min", spaces=SPACES, **fields):
    """Trials at equal distances; objectives from 0.5 up (or from 1 down), the best near the middle."""
    rows = []
    for i in range(number):
        u = (i + 0.5) / number
        value = 0.5 + abs(u - 0.51) if mode == "min" else 1 - abs(u - 0.51)
        row = {"at": [u] * len(spaces), "objective": value if u < infeasible else None}
        rows.append(row | {k: v(u) for k, v in fields.items()})
    return synthetic.made(rows, spaces=spaces, mode=mode, metric="validation/loss")


def marks(figure, kind):
    """The places of a figure's marks by trial: "dot", "star" or "x"."""
    elements = Page(figure.svg).elements
    if kind == "dot":
        return {e.trial: (float(e.get("cx")), float(e.get("cy"))) for e in elements if e.get("cx")}
    found = [e for e in elements if kind in e.classes and e.trial is not None]
    return {e.trial: (float(e.get("data-x")), float(e.get("data-y"))) for e in found}


@pytest.mark.playbook("hyperparameter-axis-plots")
def test_every_trial_is_at_its_place_on_every_axis():
    made = study()
    group = hyperparameter_axes.draw(made)
    assert [f.id for f in group.figures] == [f"axis-{RATE}", f"axis-{MOMENTUM}"]
    leaders = [t.number for t in made.leaders]
    for figure in group.figures:
        stars, dots, crosses = (marks(figure, kind) for kind in ("star", "dot", "x"))
        assert set(stars) == set(leaders)
        assert set(crosses) == {16, 17, 18, 19}
        assert set(dots) == set(range(16)) - set(stars)
        # Low bound left, high bound right, also on the axis of 1 − momentum.
        for number, (x, _) in (stars | dots | crosses).items():
            place = PADDING + (1 - 2 * PADDING) * (number + 0.5) / 20
            assert x == pytest.approx(LEFT + (END - LEFT) * place, abs=0.06)
        heights = {number: y for number, (_, y) in (stars | dots).items()}
        best_first = sorted(heights, key=heights.get, reverse=True)  # y grows downwards
        objectives = [made.trials[number].objective for number in best_first]
        assert objectives == sorted(objectives)
        above = min(heights.values())
        assert all(y < above - 10 for _, y in crosses.values())  # in their strip, on the worse side


def test_more_is_better_is_drawn_upwards():
    made = study(mode="max")
    figure = hyperparameter_axes.draw(made).figures[0]
    stars, dots, crosses = (marks(figure, kind) for kind in ("star", "dot", "x"))
    assert max(y for _, y in stars.values()) < min(y for _, y in dots.values())
    assert min(y for _, y in crosses.values()) > max(y for _, y in dots.values())
    assert min(y for _, y in stars.values()) < 48  # no room is left above for infeasible trials


@pytest.mark.playbook("hyperparameter-axis-plots")
def test_the_bounds_are_drawn():
    figure = hyperparameter_axes.draw(study(infeasible=2)).figures[0]
    found = [e for e in Page(figure.svg).elements if e.classes == ["bound"]]
    xs = [float(re.match(r"M([\d.]+) ", e.get("d"))[1]) for e in found]
    places = LEFT + (END - LEFT) * np.array([PADDING, 1 - PADDING])
    assert xs == pytest.approx(places, abs=0.06)


def test_a_terrible_trial_is_an_arrow_at_the_end():
    # Without a gap: what is far outside the others failed to train, and is a cross.
    values = (*np.linspace(0.4, 0.5, 17), 0.57, 0.66, 0.76)
    rows = [{"at": [0.5, 0.5], "objective": v} for v in values]
    made = synthetic.made(rows, spaces=SPACES, metric="validation/loss")
    figure = hyperparameter_axes.draw(made).figures[0]
    assert set(marks(figure, "far")) == {18, 19}
    assert figure.note.startswith("2 complete trials above ")
    assert figure.note.endswith(" are drawn as arrows.")


def test_listed_values_stand_side_by_side():
    spaces = {"optimizer": {"values": ["adam", "momentum", "sgd"]}}
    rows = [{"at": [i % 3], "objective": 0.1 + i / 10} for i in range(30)]
    made = synthetic.made(rows, spaces=spaces)
    figure = hyperparameter_axes.draw(made).figures[0]
    places = marks(figure, "dot") | marks(figure, "star")
    assert len(places) == 30
    for number, (x, _) in places.items():
        level = (x - LEFT) / (END - LEFT) * 3
        assert int(level) == number % 3  # each in the third of its value
    assert len({x for x, _ in places.values()}) > 20  # and not all on one another


def test_trials_without_the_hyperparameter_are_told():
    made = study()
    for trial in made.trials[:5]:
        del trial.parameters[MOMENTUM]
    rate, momentum = hyperparameter_axes.draw(made).figures
    assert momentum.note == "5 trials without this hyperparameter."
    assert rate.note == ""
    assert not set(range(5)) & set(marks(momentum, "dot"))


def test_an_axis_without_a_complete_trial_says_so():
    figure = hyperparameter_axes.draw(study(infeasible=0)).figures[0]
    assert "no complete trial yet" in figure.svg
    assert len(marks(figure, "x")) == 20


def curves(u):
    steps = np.arange(1, 11) * 10.0
    values = 0.3 + u + 1 / steps
    return {"step": steps, "validation/loss": values, "train/loss": values / 2}


@pytest.mark.playbook("training-curves")
def test_the_curves_of_all_trials_with_the_best_in_front():
    made = study(evaluations=curves)
    group = training_curves.draw(made)
    assert [f.id for f in group.figures] == ["curve-validation-loss", "curve-train-loss"]
    assert [f.starts_row for f in group.figures] == [True, False]
    for figure in group.figures:
        elements = [
            e for e in Page(figure.svg).elements if e.name == "path" and e.trial is not None
        ]
        lines = [e for e in elements if not {"star", "x"} & set(e.classes)]
        assert sorted(e.trial for e in lines) == list(range(20))
        front = [e.trial for e in lines if "front" in e.classes]
        assert front == [t.number for t in made.leaders][::-1]  # the best is drawn last, on top
        assert [e.trial for e in lines][-3:] == front
        assert {e.trial for e in lines if "bad" in e.classes} == {16, 17, 18, 19}
        assert all(len(re.findall(r"-?[\d.]+", e.get("d"))) == 2 * 10 for e in lines)
    # The best checkpoints, at step 50 of the validation curves.
    stars = marks(group.figures[0], "star")
    assert set(stars) == {t.number for t in made.leaders}
    middle = LEFT + (470 - 36 - LEFT) / 2
    assert [x for x, _ in stars.values()] == pytest.approx([middle] * 3)
    assert marks(group.figures[1], "star") == {}


def test_both_splits_share_a_scale():
    made = study(infeasible=2, evaluations=curves)
    figures_ = training_curves.draw(made).figures
    ticks = [
        [e.text for e in Page(f.svg).elements if e.classes == ["tick", "end"]] for f in figures_
    ]
    assert ticks[0] == ticks[1]


def test_a_diverged_curve_does_not_stretch_the_axis():
    def diverging(u):
        evaluations = curves(u)
        if u > 0.8:
            evaluations["validation/loss"] = np.geomspace(1, 1e9, 10)
        return evaluations

    calm, wild = (
        training_curves.draw(study(evaluations=make)).figures[0] for make in (curves, diverging)
    )
    ticks = [[e.text for e in Page(f.svg).elements if "tick" in e.classes] for f in (calm, wild)]
    assert ticks[0] == ticks[1]


def test_curves_break_where_values_are_not_finite():
    path = svg.curve(np.arange(5.0), np.array([1, 2, np.nan, 4, 5.0]), 7)
    assert Page(path).elements[0].get("d") == "M0 1L1 2M3 4L4 5"
    assert svg.curve(np.arange(2.0), np.full(2, np.nan), 7) == ""


def test_a_metric_of_its_own_is_drawn_beside_the_loss():
    def own(u):
        return curves(u) | {"validation/bleu": np.linspace(0, 1 - u, 10)}

    rows = [{"at": [u], "objective": 1 - u, "evaluations": own(u)} for u in (0.1, 0.2, 0.3, 0.4)]
    made = synthetic.made(
        rows, spaces={RATE: synthetic.LEARNING_RATE}, metric="validation/bleu", mode="max"
    )
    assert [f.id for f in training_curves.draw(made).figures] == [
        "curve-validation-bleu",
        "curve-validation-loss",
        "curve-train-loss",
    ]


@pytest.mark.playbook("best-step-early-or-late")
def test_best_steps_fall_into_their_bins():
    best = [1, 5, 10, 11, 74, 75, 76, 100]  # of 100 steps; bins of 5 %: (0, 5], (5, 10] …
    rows = [{"at": [0.5], "objective": 0.5 + i / 100, "best_step": b} for i, b in enumerate(best)]
    made = synthetic.made(rows, spaces={RATE: synthetic.LEARNING_RATE})
    figure = best_steps.draw(made).figures[0]
    circles = marks(figure, "dot")
    stars = marks(figure, "star")
    assert set(stars) == {0, 1, 2}
    width = (END - 36) / 20
    bins = {n: int((x - 36) / width) for n, (x, _) in (circles | stars).items()}
    assert bins == {0: 0, 1: 0, 2: 1, 3: 2, 4: 14, 5: 14, 6: 15, 7: 19}
    assert stars[0][1] > stars[1][1]  # the second of a bin stands on the first


def test_many_best_steps_are_bars():
    rows = [{"at": [0.5], "objective": i / 1000, "best_step": i % 100} for i in range(1, 400)]
    made = synthetic.made(rows, spaces={RATE: synthetic.LEARNING_RATE})
    bars = [e for e in Page(best_steps.draw(made).figures[0].svg).elements if e.classes == ["hist"]]
    heights = np.array([float(bar.get("height")) for bar in bars])
    counts = np.bincount([max(0, -(-(i % 100) // 5) - 1) for i in range(1, 400)], minlength=20)
    assert heights / heights.max() == pytest.approx(counts / counts.max(), abs=0.01)


def test_nothing_to_draw():
    empty = synthetic.made([], spaces=SPACES)
    assert best_steps.draw(empty) is None
    assert training_curves.draw(empty) is None
    assert hyperparameter_axes.draw(synthetic.made([], spaces={})) is None
    assert [group.id for group in figures.draw(empty)] == ["hyperparameter-axes"]


@pytest.mark.playbook("plots-of-your-own")
def test_a_plot_and_a_check_of_ones_own_are_a_file_each(tmp_path, monkeypatch):
    mine = {
        figures: "from playbook_jax.analysis.figures import Figure, Group\n"
        "ORDER = 15\n"
        "def draw(study):\n"
        "    return Group('mine', 'Mine', '', (Figure('f', '', '', '<svg/>'),))\n",
        findings: "from playbook_jax.analysis.findings import FINE, Finding\n"
        "ORDER = 1\n"
        "def check(study):\n"
        "    return [Finding('Mine?', FINE, 'Yes.')]\n",
    }
    made = study(evaluations=curves)
    for package, text in mine.items():
        name = package.__name__.rsplit(".", 1)[-1]
        (tmp_path / name).mkdir()
        (tmp_path / name / f"my_{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / name)])
    drawn = [group.id for group in figures.draw(made)]
    assert drawn[drawn.index("hyperparameter-axes") + 1] == "mine"
    assert drawn.index("mine") < drawn.index("training-curves")
    assert findings.check(made)[0].question == "Mine?"


def test_labels_are_spread_as_little_as_needed():
    assert svg.spread([0, 1, 50], 10, -100, 100) == pytest.approx([-4.5, 5.5, 50], abs=0.01)
    assert svg.spread([5, 5, 5], 10, 0, 100) == pytest.approx([0, 10, 20], abs=0.6)
    crowded = svg.spread([99, 99, 98], 10, 0, 100)
    assert max(crowded) <= 100 + 0.01
    assert min(np.diff(sorted(crowded))) > 9


def test_a_label_keeps_clear_of_marks():
    taken = [(100, 50), (117, 50), (83, 50)]
    place = svg.free_place(100, 50, taken, 300)
    assert all(abs(place[0] - x) > 15 or abs(place[1] - y) > 11 for x, y in taken)
    assert svg.free_place(290, 50, [(290, 50)], 300)[0] < 294


def test_a_panel_puts_the_low_end_below():
    made = study()
    axis = hyperparameter_axes.x_axis(made.hyperparameters[0])
    panel = Panel(axis, axis, above=20)
    assert panel.at(0) == panel.base
    assert panel.at(1) == panel.top + 20


@pytest.mark.playbook("hyperparameter-axis-plots")
def test_the_crosses_of_infeasible_trials_are_red():
    figure = hyperparameter_axes.draw(study()).figures[0]
    crosses = [e for e in Page(figure.svg).elements if e.trial in (16, 17, 18, 19)]
    assert [e.classes for e in crosses] == [["x"]] * 4
    style = Path(page.__file__).with_name("page.css").read_text()
    (rule,) = re.findall(r"^\.x \{(.*?)\}", style, re.M)
    assert "stroke: var(--bad)" in rule
    colours = re.findall(r"--bad: #(\w{6})", style)
    assert len(colours) == 2  # of the light page and of the dark one
    for colour in colours:
        red, green, blue = bytes.fromhex(colour)
        assert red > 1.5 * max(green, blue), colour
