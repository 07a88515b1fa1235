import collections
import csv
import json

import numpy as np
import pytest

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.studies import group, launcher, preview, specification, trial_points
from playbook_jax.studies.space import conditions, samplers
from playbook_jax.studies.store import directory
from playbook_jax.studies.store.directory import StudyDirectory
from tests.studies.test_specification import RATE, write

ADAM, NESTEROV = "hparams.learning_rate@optimizer=adam", "hparams.learning_rate@optimizer=nesterov"
OPTIMIZERS = {"optimizer": {"values": ["nesterov", "adam"]}}
SMALL = {"scale": "log", "low": 1e-5, "high": 1e-2}
BETA = {"scale": "one_minus_log", "low": 0.5, "high": 0.99}
NUISANCE = {
    NESTEROV: RATE,
    ADAM: SMALL,
    "hparams.momentum": {
        "scale": "one_minus_log", "low": 0.5, "high": 0.99, "when": {"optimizer": ["nesterov"]},
    },
    "hparams.weight_decay": SMALL,
}  # fmt: skip


@pytest.fixture
def load(tmp_path):
    defaults = {"scientific": OPTIMIZERS, "nuisance": NUISANCE}
    return lambda **changes: specification.load(write(tmp_path / "study.py", **defaults | changes))


@pytest.mark.playbook("conditional-hyperparameters", "same-name-other-hyperparameter")
def test_a_trial_has_the_hyperparameters_that_exist_for_it_and_no_other(load):
    spec = load()
    rows = trial_points.points(spec)
    keys = {
        "nesterov": ["optimizer", NESTEROV, "hparams.momentum@optimizer=nesterov"],
        "adam": ["optimizer", ADAM],
    }
    for row in rows:
        assert list(row) == [*keys[row["optimizer"]], "hparams.weight_decay"]
        rate = row[ADAM if row["optimizer"] == "adam" else NESTEROV]
        low, high = (1e-5, 1e-2) if row["optimizer"] == "adam" else (1e-3, 1.0)
        assert low <= rate <= high
        config = specification.trial_config(spec.base_config, 0, row, False)
        assert config.hparams.learning_rate == rate
        # Where momentum is no hyperparameter of the trial, the base config's is left.
        expected = row.get("hparams.momentum@optimizer=nesterov", 0.9)
        assert config.hparams.momentum == expected
    assert collections.Counter(row["optimizer"] for row in rows) == {"nesterov": 10, "adam": 10}


@pytest.mark.playbook("same-name-other-hyperparameter")
def test_each_conditional_hyperparameter_has_a_dimension_of_its_own(load):
    from scipy.stats import qmc

    rows = samplers.sample("halton", load().spaces, 200, seed=2)
    for optimizer, key, low in (("adam", ADAM, 1e-5), ("nesterov", NESTEROV, 1e-3)):
        own = [row for row in rows if row["optimizer"] == optimizer]
        points = np.array(
            [
                [
                    np.log10(row[key] / low) / 3,
                    np.log10(row["hparams.weight_decay"] / 1e-5) / 3,
                ]
                for row in own
            ]
        )
        random = np.random.default_rng(0).random((20, len(own), 2))
        # The half of the trials that is one optimizer's is still far more even than random.
        assert qmc.discrepancy(points) < min(map(qmc.discrepancy, random)) / 2
    # Not one sequence seen twice: the rates of neighbouring trials are unrelated.
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    units = np.array(
        [
            [np.log10(row.get(ADAM, 1) / 1e-5) / 3 for pair in pairs for row in pair if ADAM in row],
            [np.log10(row.get(NESTEROV, 1) / 1e-3) / 3 for pair in pairs for row in pair if NESTEROV in row],
        ]
    )  # fmt: skip
    assert abs(np.corrcoef(*units)[0, 1]) < 0.4


def test_both_ways_to_write_a_condition_are_the_same(load):
    named = {k: v for k, v in NUISANCE.items() if "momentum" not in k}
    spaces = {
        "hparams.momentum@optimizer=nesterov": {
            key: value for key, value in NUISANCE["hparams.momentum"].items() if key != "when"
        }
    }
    one = load(nuisance={**NUISANCE})
    two = load(nuisance={NESTEROV: RATE | {"when": {"optimizer": ["nesterov"]}}, **named} | spaces)
    assert dict(one.nuisance) == dict(two.nuisance)
    assert one.nuisance[ADAM].to_dict() == SMALL | {
        "type": "float",
        "when": {"optimizer": ["adam"]},
    }
    assert conditions.path(ADAM) == "hparams.learning_rate"


def test_conditions_on_several_values_booleans_and_two_parents(load):
    spec = load(
        scientific={
            "optimizer": {"values": ["nesterov", "adam", "nadam"]},
            "record_group_norms": {"values": [True, False]},
        },
        nuisance={
            "hparams.learning_rate": RATE,
            "hparams.beta1@optimizer=adam|nadam": {"scale": "one_minus_log", "low": 0.5, "high": 0.9},
            "hparams.dropout_rate": {
                "values": [0.1, 0.2],
                "when": {"record_group_norms": [True], "optimizer": ["adam"]},
            },
        },
        num_trials=36,
    )  # fmt: skip
    both = "hparams.dropout_rate@record_group_norms=true@optimizer=adam"
    assert both in spec.nuisance
    for row in trial_points.points(spec):
        assert ("hparams.beta1@optimizer=adam|nadam" in row) == (row["optimizer"] != "nesterov")
        expected = row["record_group_norms"] is True and row["optimizer"] == "adam"
        assert (both in row) == expected


@pytest.mark.playbook("conditional-hyperparameters")
def test_a_fixed_hyperparameter_may_have_a_condition(load):
    fixed = {"hparams.momentum@optimizer=adam": 0.0, "hparams.epsilon": 1e-6}
    spec = load(fixed=fixed, nuisance={"hparams.learning_rate": RATE})
    assert spec.to_dict()["fixed"] == fixed
    for row in trial_points.points(spec):
        config = specification.trial_config(spec.base_config, 0, row, False)
        assert config.hparams.momentum == (0.0 if row["optimizer"] == "adam" else 0.9)
        assert config.hparams.epsilon == 1e-6
        assert "hparams.epsilon" not in row


def test_a_grid_multiplies_a_conditional_hyperparameter_only_where_it_exists(load):
    spec = load(
        algorithm="grid",
        num_trials=None,
        nuisance={ADAM: RATE | {"points": 3}, NESTEROV: RATE | {"points": 2}},
    )
    counts = collections.Counter(row["optimizer"] for row in trial_points.points(spec))
    assert counts == {"adam": 3, "nesterov": 2}
    assert spec.num_trials == 5


def test_listed_points_name_conditional_hyperparameters_by_their_keys(load, tmp_path):
    nuisance = {ADAM: SMALL, NESTEROV: RATE}
    (tmp_path / "points.csv").write_text(
        f"optimizer,{ADAM},{NESTEROV}\nadam,1e-3,\nnesterov,,0.5\n"
    )
    spec = load(algorithm="list", num_trials=None, points="points.csv", nuisance=nuisance)
    assert trial_points.points(spec) == [
        {"optimizer": "adam", ADAM: 1e-3},
        {"optimizer": "nesterov", NESTEROV: 0.5},
    ]
    (tmp_path / "points.csv").write_text(f"optimizer,{ADAM},{NESTEROV}\nadam,1e-3,0.5\n")
    with pytest.raises(UsageError, match=r"points\[0\] has .*=nesterov, whose condition does not"):
        load(algorithm="list", num_trials=None, points="points.csv", nuisance=nuisance)


def test_the_baseline_has_what_exists_for_it(load):
    assert trial_points.points(load(baseline=True))[0] == {
        "optimizer": "nesterov",
        NESTEROV: 0.1,
        "hparams.momentum@optimizer=nesterov": 0.9,
        "hparams.weight_decay": 1e-4,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scientific": {}}, "depends on optimizer, which is not in the search space"),
        (
            {"nuisance": {"hparams.learning_rate@optimiser=adam": RATE}},
            "depends on optimiser, which is not in the search space; did you mean 'optimizer'?",
        ),
        (
            {"nuisance": {"hparams.learning_rate@optimizer=sgd": RATE}},
            "optimizer does not take sgd (it takes: nesterov, adam)",
        ),
        (
            {"nuisance": {"hparams.learning_rate": RATE, ADAM: SMALL}},
            "hparams.learning_rate and hparams.learning_rate@optimizer=adam can both hold",
        ),
        (
            {"scientific": OPTIMIZERS | {"hparams.learning_rate": RATE}, "nuisance": {ADAM: SMALL}},
            "can both hold in one trial",
        ),
        (
            {
                "scientific": {"optimizer": {"values": ["nesterov", "adam", "nadam"]}},
                "nuisance": {ADAM: SMALL, "hparams.learning_rate@optimizer=adam|nadam": RATE},
            },
            "can both hold in one trial",
        ),
        (
            {"nuisance": {ADAM: SMALL}, "fixed": {"hparams.learning_rate": 0.1}},
            "hparams.learning_rate is both nuisance and fixed",
        ),
        (
            {"nuisance": {ADAM: SMALL}, "fixed": {ADAM: 0.1}},
            "hparams.learning_rate@optimizer=adam is both nuisance and fixed",
        ),
        (
            {"nuisance": {ADAM: RATE | {"when": {"optimizer": ["nesterov"]}}}},
            "its 'when' says something else",
        ),
        (
            {"nuisance": {ADAM: RATE, "hparams.learning_rate": RATE | {"when": {"optimizer": ["adam"]}}}},
            "hparams.learning_rate@optimizer=adam is described twice",
        ),
        (
            {"nuisance": {"hparams.learning_rate@optimizer=nesterov|adam": RATE}},
            "optimizer always is one of these values; drop the condition",
        ),
        (
            {"nuisance": {"hparams.momentum": RATE, "hparams.learning_rate@hparams.momentum=0.1": RATE}},
            "hparams.momentum, which has bounds; a condition needs listed 'values'",
        ),
        (
            {
                "nuisance": {
                    "record_group_norms@hparams.momentum=0.5": {"values": [True, False]},
                    "hparams.momentum@record_group_norms=true": {"values": [0.5, 0.2]},
                }
            },
            "depends on itself",
        ),
        ({"nuisance": {"hparams.learning_rate@optimizer": RATE}}, "is like hparams.x@optimizer=adam"),
        ({"nuisance": {"hparams.learning_rate": RATE | {"when": "adam"}}}, "a condition is like"),
        ({"nuisance": {"hparams.learning_rat@optimizer=adam": RATE}}, "did you mean 'hparams.learning_rate'"),
        ({"fixed": {"hparams.momentum@optimizer=sgd": 0.1}}, "optimizer does not take sgd"),
        ({"fixed": {"hparams.momentum@optimizer=adam": 2.0}}, "hparams.momentum must be at least 0 and"),
    ],
)  # fmt: skip
def test_bad_conditions_end_with_one_line(load, changes, message):
    with pytest.raises(UsageError) as error:
        load(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_conditional_study_grows_as_it_began_and_refuses_another_order(load, tmp_path):
    spec, longer = load(), load(num_trials=40)
    study = StudyDirectory(tmp_path / "s")
    trials = launcher.extend([], spec)
    study.write(spec, trials)
    study.trial_directory(0).mkdir(parents=True)
    grown = launcher.extend(study.stored_trials(longer), longer)
    assert grown[:20] == trials
    assert [row["parameters"] for row in grown] == trial_points.points(longer)
    # No trial tells the order of two hyperparameters of which it has one only, so it is stored.
    turned = load(num_trials=40, nuisance={ADAM: SMALL, **NUISANCE})
    with pytest.raises(UsageError, match=r"holds trials of another study .*order: "):
        study.stored_trials(turned)
    study.release()


RATIO = "hparams.learning_rate/(1-hparams.momentum)"


@pytest.mark.playbook("infeasible-fraction")
def test_a_ratio_is_searched_in_place_of_the_learning_rate(load):
    spec = load(
        scientific={},
        nuisance={RATIO: RATE | {"low": 0.1, "high": 10.0}, "hparams.momentum": BETA},
        baseline=True,
    )
    baseline, *rows = trial_points.points(spec)
    # 0.1 / (1 − 0.9), and the base config itself.
    assert baseline == {RATIO: pytest.approx(1.0), "hparams.momentum": 0.9}
    config = specification.trial_config(spec.base_config, 0, baseline, False)
    assert config.hparams.learning_rate == pytest.approx(0.1, rel=1e-12)
    for row in rows:
        assert 0.1 <= row[RATIO] <= 10.0
        config = specification.trial_config(spec.base_config, 0, row, False)
        expected = row[RATIO] * (1 - row["hparams.momentum"])
        assert config.hparams.learning_rate == expected
        assert config.hparams.momentum == row["hparams.momentum"]


def test_a_ratio_may_have_a_condition_and_a_divisor_that_does_not_vary(load):
    nesterov = f"{RATIO}@optimizer=nesterov"
    spec = load(nuisance={RATIO: RATE | {"when": {"optimizer": ["nesterov"]}}, ADAM: SMALL})
    for row in trial_points.points(spec):
        config = specification.trial_config(spec.base_config, 0, row, False)
        expected = row[nesterov] * (1 - 0.9) if nesterov in row else row[ADAM]
        assert config.hparams.learning_rate == expected
    (member, _) = group.members(
        load(shape="group", nuisance={nesterov: RATE, ADAM: SMALL}, num_trials=4)
    )
    assert list(member.specification.nuisance) == [RATIO]


@pytest.mark.parametrize(
    ("nuisance", "message"),
    [
        ({RATIO: RATE, "hparams.learning_rate": RATE}, "can both hold in one trial"),
        ({"hparams.learning_rate/(hparams.momentum)": RATE}, "is like hparams.learning_rate/(1-"),
        ({"hparams.learning_rate*": RATE}, "or hparams.learning_rate*hparams.weight_decay"),
        ({"hparams.learning_rate/(1-hparams.momentun)": RATE}, "did you mean 'hparams.momentum'"),
        ({"hparams.learning_rat/(1-hparams.momentum)": RATE}, "has no 'hparams.learning_rat'"),
        ({"hparams.learning_rate/(1-optimizer)": RATE}, "all must be numbers"),
        ({RATIO: {"values": [0.1, 0.2]}}, "needs bounds, and type 'float'"),
    ],
)
def test_bad_ratios_end_with_one_line(load, nuisance, message):
    with pytest.raises(UsageError) as error:
        load(scientific={}, nuisance=nuisance)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_tables_leave_empty_what_does_not_exist(load, tmp_path):
    spec = load(num_trials=4)
    trials = launcher.extend([], spec)
    assert directory.columns(trials) == list(
        dict.fromkeys(name for row in trials for name in row["parameters"])
    )
    study = StudyDirectory(tmp_path / "s")
    study.write_table(trials, {t: trial.new_status() for t in range(4)})
    study.release()
    with (tmp_path / "s" / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, made in zip(rows, trials, strict=True):
        assert row["optimizer"] == made["parameters"]["optimizer"]
        for key in (ADAM, NESTEROV):
            assert row[key] == str(made["parameters"].get(key, ""))


def test_the_preview_shows_conditional_hyperparameters(tmp_path, capsys):
    study = {"scientific": OPTIMIZERS, "nuisance": NUISANCE, "num_trials": 4}
    preview.preview(write(tmp_path / "study.py", **study), tmp_path / "s")
    lines = capsys.readouterr().out.splitlines()
    assert set(lines[2].split()) >= {"optimizer", ADAM, NESTEROV}
    stored = json.loads((tmp_path / "s" / "study.json").read_text())
    assert stored["specification"]["nuisance"][ADAM]["when"] == {"optimizer": ["adam"]}
    assert stored["specification"]["order"] == list(
        specification.load(tmp_path / "study.py").spaces
    )


LAYERS = {"scale": "linear", "low": 1, "high": 4, "type": "int"}


@pytest.mark.playbook("conditional-hyperparameters")
@pytest.mark.parametrize("shape", ["joint", "group"])
@pytest.mark.parametrize("algorithm", ["halton", "uniform", "grid"])
def test_a_condition_may_name_whole_numbers_and_what_is_itself_conditional(load, shape, algorithm):
    nuisance = {
        "hparams.warmup_steps@optimizer=adam": LAYERS | {"points": 4},
        "hparams.learning_rate": RATE | {"points": 2},
        "hparams.dropout_rate@hparams.warmup_steps=3|4": {"values": [0.1, 0.2, 0.5]},
        "hparams.label_smoothing": {
            "scale": "linear", "low": 0.0, "high": 0.1, "points": 2,
            "when": {"hparams.dropout_rate": [0.2, 0.5]},
        },
    }  # fmt: skip
    if (shape, algorithm) == ("group", "grid"):
        return  # that is refused
    changes = {"num_trials": None if algorithm == "grid" else 60, "algorithm": algorithm}
    spec = load(nuisance=nuisance, shape=shape, **changes)
    studies = [spec]
    if shape == "group":
        studies = [member.specification for member in group.members(spec)]
        assert list(studies[0].nuisance) == ["hparams.learning_rate"]
    rows = [
        {conditions.path(key): value for key, value in row.items()} | dict(study.fixed)
        for study in studies
        for row in trial_points.points(study)
    ]
    seen = set()
    for row in rows:
        warmup = row["optimizer"] == "adam"
        dropout = warmup and row["hparams.warmup_steps"] in (3, 4)
        smoothing = dropout and row["hparams.dropout_rate"] in (0.2, 0.5)
        names = ("hparams.warmup_steps", "hparams.dropout_rate", "hparams.label_smoothing")
        assert [name in row for name in names] == [warmup, dropout, smoothing]
        seen.add((warmup, dropout, smoothing))
    assert len(seen) == 4
    if algorithm == "grid":
        assert len(rows) == 2 * (1 + 2 + 2 * (1 + 2 * 2))


@pytest.mark.parametrize(
    ("nuisance", "message"),
    [
        ({"hparams.warmup_steps": LAYERS, "hparams.dropout_rate@hparams.warmup_steps=5": SMALL},
         "hparams.warmup_steps does not take 5 (it takes: 1 to 4)"),
        ({"hparams.warmup_steps": LAYERS, "hparams.dropout_rate@hparams.warmup_steps=1|2|3|4": SMALL},
         "always is one of these values"),
        ({"hparams.dropout_rate@hparams.learning_rate=0.1": SMALL, "hparams.learning_rate": RATE},
         "a condition needs listed 'values', or whole numbers"),
        ({"hparams.warmup_steps@optimizer=adam": LAYERS,
          "hparams.dropout_rate@hparams.warmup_steps=1": SMALL,
          "hparams.dropout_rate@optimizer=adam": SMALL}, "can both hold in one trial"),
    ],
)  # fmt: skip
def test_bad_chains_of_conditions_end_with_one_line(load, nuisance, message):
    with pytest.raises(UsageError) as error:
        load(nuisance=nuisance)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_path_below_two_chains_that_exclude_each_other(load):
    spec = load(
        nuisance={
            "hparams.warmup_steps@optimizer=adam": LAYERS,
            "hparams.learning_rate@hparams.warmup_steps=1|2": RATE,
            "hparams.learning_rate@hparams.warmup_steps=3|4": SMALL,
            "hparams.learning_rate@optimizer=nesterov": RATE,
        }
    )
    for row in trial_points.points(spec):
        assert sum(conditions.path(key) == "hparams.learning_rate" for key in row) == 1


PRODUCT = "hparams.weight_decay*hparams.learning_rate"
QUOTIENT = "hparams.learning_rate/batch_size"


def test_a_study_can_search_products_and_quotients_and_axes_made_of_axes(load):
    spec = load(
        scientific={},
        nuisance={
            PRODUCT: {"scale": "log", "low": 1e-8, "high": 1e-4},
            QUOTIENT + "/(1-hparams.momentum)": {"scale": "log", "low": 1e-4, "high": 1e-1},
            "hparams.momentum": BETA,
        },
        baseline=True,
    )
    for number, row in enumerate(trial_points.points(spec)):
        config = specification.trial_config(spec.base_config, number, row, False)
        axes = [
            config.hparams.weight_decay * config.hparams.learning_rate,
            config.hparams.learning_rate / config.batch_size / (1 - config.hparams.momentum),
        ]
        assert axes == pytest.approx(list(row.values())[:2], rel=1e-12)
    base = spec.base_config
    assert (
        trial_points.points(spec)[0][PRODUCT]
        == base.hparams.weight_decay * base.hparams.learning_rate
    )


@pytest.mark.parametrize(
    ("nuisance", "message"),
    [
        ({PRODUCT: RATE, "hparams.learning_rate*hparams.weight_decay": RATE}, "would follow from itself"),
        ({"hparams.learning_rate*hparams.learning_rate": RATE}, "would follow from itself"),
        ({"hparams.learning_rate*hparams.clip_norm": RATE}, "clip_norm is 0.0: in a reparam"),
        ({"hparams.learning_rate*hparams.weight_decay": RATE, "hparams.weight_decay":
          {"values": [0.0, 0.1]}}, "weight_decay is 0.0: in a reparam"),
        ({"batch_size*hparams.learning_rate": RATE}, "batch_size one that need not be whole"),
        ({"hparams.learning_rate*hparams.weight_deca": RATE}, "did you mean 'hparams.weight_decay'"),
    ],
)  # fmt: skip
def test_bad_products_end_with_one_line(load, nuisance, message):
    with pytest.raises(UsageError) as error:
        load(scientific={}, nuisance=nuisance)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
