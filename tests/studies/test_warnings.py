"""What a study is reminded of before it runs."""

import pytest

from playbook_jax import optimizers, schedules
from playbook_jax.errors import UsageError
from playbook_jax.studies import arms, specification, trial_points, unshared, warnings
from playbook_jax.studies.space import samplers
from tests.studies.test_specification import RATE, write

UNIT = {"scale": "linear", "low": 0.0, "high": 0.5}
OPTIMIZERS = {"optimizer": {"values": ["nesterov", "adam"]}}
WIDTHS = {"model.hidden_sizes": {"values": [[64], [128]]}}
ADAM = {"optimizer": "adam", "hparams.weight_decay": 0.0}
EPSILON = {"scale": "log", "low": 1e-8, "high": 1.0}
BETA = {"scale": "one_minus_log", "low": 0.5, "high": 0.99}
RATES = {"hparams.learning_rate": RATE}
BARE = {"optimizer": "sgd", "hparams.weight_decay": 0.0}
REASON = {"value": "sgd", "reason": "the question is about width"}
# Nothing is left to be a caveat.
SETTLED = {"optimizer": REASON, "hparams.weight_decay": {"value": 0.0, "reason": "off"}}


@pytest.fixture
def load(tmp_path):
    return lambda **changes: specification.load(write(tmp_path / "study.py", **changes))


@pytest.mark.playbook(
    "roles-by-rule-of-thumb",
    "batch-size-is-not-tuned",
    "few-trials-are-luck",
    "fixed-values-are-caveats",
    "too-many-nuisances",
    "choice-of-optimizer",
    "regularization-strength-is-nuisance",
    "architecture-is-scientific-or-fixed",
    "joint-studies-break",
    "adam-by-budget",
    "grid-in-two-dimensions",
    "uniform-search-instead",
)
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"num_trials": 10}, ["10 trials: with fewer than 20"]),
        (
            {"nuisance": {"hparams.learning_rate": {"scale": "linear", "low": 1e-3, "high": 1.0}}},
            ["on a linear scale: try 'log'"],
        ),
        (
            {"nuisance": {}, "scientific": RATES, "fixed": SETTLED},
            ["optimizer hyperparameters are rarely what a question is about"],
        ),
        # The learning rate, for all scientific values or for one.
        (
            {"nuisance": {}, "scientific": OPTIMIZERS},
            [
                "the learning rate does not vary: values",
                "fixed: beta1, momentum, weight_decay:",
                "the space has 2 points, so some of 20 trials are the same; 'grid' runs each once",
            ],
        ),
        (
            {
                "scientific": OPTIMIZERS,
                "nuisance": {
                    "hparams.learning_rate@optimizer=adam": RATE,
                    "hparams.momentum@optimizer=nesterov": BETA,
                },
                "fixed": {"hparams.weight_decay": 0.0},
            },
            [
                "the learning rate does not vary for optimizer=nesterov: values",
                "the nuisance hyperparameters differ by scientific value (1 of them",
                "fixed: beta1, weight_decay: what is found holds for these values only",
            ],
        ),
        (
            {"scientific": OPTIMIZERS | WIDTHS, "num_trials": 400, "nuisance": RATES},
            ["the playbook asks one question at a time", "fixed: beta1, beta2, epsilon, momentum, w"],
        ),
        # Caveats: what has a reason is none; an explicit one without a reason is.
        (
            {"scientific": WIDTHS, "fixed": BARE | {"schedule": "constant"}},
            ["fixed: optimizer, schedule, weight_decay: what is found holds"],
        ),
        (
            {"scientific": WIDTHS, "fixed": SETTLED},
            [],
        ),
        # Rules of thumb for roles.
        (
            {"nuisance": RATES | {"batch_size": {"values": [32, 64]}}},
            ["batch_size is nuisance"],
        ),
        (
            {
                "scientific": {"batch_size": {"values": [32, 64]}},
                "fixed": SETTLED,
            },
            ["batch_size is scientific: results hardly depend on it"],
        ),
        ({"nuisance": RATES | OPTIMIZERS}, ["optimizer is nuisance; the choice of the optimizer"]),
        ({"nuisance": RATES | WIDTHS}, ["model.hidden_sizes is nuisance; architecture changes"]),
        (
            {
                "scientific": {"hparams.dropout_rate": UNIT},
                "fixed": SETTLED,
            },
            ["hparams.dropout_rate is scientific over a range; the question is whether"],
        ),
        # How many trials it takes.
        (
            {
                "nuisance": RATES
                | {f"hparams.{n}": UNIT for n in ("dropout_rate", "momentum", "label_smoothing", "beta1")}
            },
            ["5 nuisance hyperparameters in 20 trials: too few to see each combination of low and high"],
        ),
        (
            {
                "scientific": {"dataset.source": {"values": ["memory", "tf_data"]}},
                "nuisance": RATES
                | {f"hparams.{n}": UNIT for n in ("dropout_rate", "momentum", "weight_decay")},
            },
            ["in 10 trials with source=memory: too few"],
        ),
        ({"nuisance": RATES | {"hparams.beta1": BETA}, "fixed": ADAM}, []),
        (
            {"nuisance": RATES | {"hparams.beta1": BETA}, "fixed": ADAM, "num_trials": 9},
            ["beta1 varies in 9 trials: too few for it; of Adam's hyperparameters", "9 trials:"],
        ),
        (
            {"nuisance": RATES | {"hparams.epsilon": EPSILON}, "fixed": ADAM, "num_trials": 24},
            ["with 10 to 25 only the learning rate and beta1"],
        ),
        ({"nuisance": RATES | {"hparams.epsilon": EPSILON}, "fixed": ADAM, "num_trials": 25}, []),
        (
            {"nuisance": RATES | {"hparams.beta2": BETA}, "fixed": ADAM, "num_trials": 30},
            ["with about 25 only learning rate, beta1 and epsilon"],
        ),
        # Of a joint study, each optimizer has its share of the trials.
        (
            {
                "scientific": OPTIMIZERS,
                "nuisance": RATES
                | {
                    "hparams.epsilon@optimizer=adam": EPSILON,
                    "hparams.momentum@optimizer=nesterov": BETA,
                    "hparams.beta1@optimizer=adam": BETA,
                    "hparams.weight_decay": EPSILON,
                },
                "num_trials": 40,
            },
            [
                "differ by scientific value (3 to 4 of them for the same number of trials each)",
                "epsilon varies in 20 trials with optimizer=adam: too few",
            ],
        ),
        # A study for each value has all the trials, and sets may differ.
        (
            {
                "shape": "group",
                "scientific": OPTIMIZERS,
                "nuisance": RATES
                | {
                    "hparams.epsilon@optimizer=adam": EPSILON,
                    "hparams.momentum@optimizer=nesterov": BETA,
                    "hparams.beta1@optimizer=adam": BETA,
                    "hparams.weight_decay": EPSILON,
                },
                "num_trials": 40,
            },
            [],
        ),
        # Algorithms.
        ({"algorithm": "uniform"}, ["'uniform' points are spread less evenly"]),
        (
            {
                "algorithm": "grid",
                "nuisance": {
                    f"hparams.{n}": UNIT | {"points": 3}
                    for n in ("learning_rate", "momentum", "dropout_rate")
                },
                "num_trials": 27,
            },
            ["a grid in 3 dimensions sees few values of each hyperparameter"],
        ),
        (
            {
                "algorithm": "grid",
                "nuisance": {
                    f"hparams.{n}": UNIT | {"points": 5} for n in ("learning_rate", "momentum")
                },
                "num_trials": 25,
            },
            [],
        ),
        (
            {"nuisance": {"hparams.learning_rate": {"values": [0.1, 0.2, 0.3]}}},
            ["the space has 3 points, so some of 20 trials are the same; 'grid' runs each once"],
        ),
    ],
)  # fmt: skip
def test_doubts(load, changes, expected):
    found = warnings.find(load(**changes))
    assert len(found) == len(expected), found
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence
        assert "\n" not in sentence


@pytest.mark.playbook("low-discrepancy-points")
def test_more_than_twelve_dimensions_are_doubtful(load):
    names = [
        "learning_rate", "end_factor", "momentum", "beta1", "beta2", "epsilon", "weight_decay",
        "clip_norm", "label_smoothing", "dropout_rate", "rsqrt_timescale", "divergence_factor",
    ]  # fmt: skip
    spaces = {f"hparams.{name}": UNIT | {"low": 0.1} for name in names}
    assert not warnings.find(load(num_trials=5_000, nuisance=spaces))
    spaces["hparams.warmup_steps"] = {"scale": "linear", "low": 0, "high": 9, "type": "int"}
    (found,) = warnings.find(load(num_trials=10_000, nuisance=spaces))
    assert found.startswith("13 dimensions: later ones are spread less evenly")


def test_the_optimizers_have_the_hyperparameters_that_doubts_ask_for():
    known = {name: set(h) - {"weight_decay"} for name, h in optimizers.HYPERPARAMETERS.items()}
    assert {name: set(uses) for name, uses in warnings.USES.items()} == known


def test_arms_are_the_combinations_of_the_listed_scientific_values(load):
    spec = load(
        scientific=OPTIMIZERS | WIDTHS,
        nuisance={"hparams.learning_rate@optimizer=adam": RATE, "hparams.weight_decay": EPSILON},
        num_trials=41,
        baseline=True,
    )
    found = arms.find(spec)
    assert [(arm.label, arm.dimensions, arm.num_trials) for arm in found] == [
        ("optimizer=nesterov, hidden_sizes=[64]", 1, 10),
        ("optimizer=nesterov, hidden_sizes=[128]", 1, 10),
        ("optimizer=adam, hidden_sizes=[64]", 2, 10),
        ("optimizer=adam, hidden_sizes=[128]", 2, 10),
    ]
    assert len(arms.find(load())) == 1


def test_a_reason_is_stored_with_the_study(load):
    spec = load(fixed={"optimizer": REASON, "hparams.momentum": 0.8})
    assert spec.base_config.optimizer == "sgd"
    stored = spec.to_dict()
    assert stored["fixed"] == {"optimizer": "sgd", "hparams.momentum": 0.8}
    assert stored["fixed_reasons"] == {"optimizer": REASON["reason"]}


@pytest.mark.playbook("fixed-values-are-caveats")
def test_a_fixed_architecture_is_a_caveat(load):
    question = {"hparams.dropout_rate": {"values": [0.0, 0.3]}}
    found = warnings.find(
        load(scientific=question, fixed=SETTLED | {"model.hidden_sizes": [64], "seed": 3})
    )
    (caveat,) = [doubt for doubt in found if doubt.startswith("fixed: ")]
    assert caveat.startswith("fixed: model.hidden_sizes: what is found holds")


@pytest.mark.playbook("joint-studies-break")
@pytest.mark.parametrize(
    ("scientific", "nuisance", "message"),
    [
        (OPTIMIZERS, {"hparams.momentum": UNIT | {"high": 0.9}},
         "with optimizer=adam too, which does not use it: what is tuned then differs by scientific value; "
         "name it 'hparams.momentum@optimizer=nesterov'"),
        ({"optimizer": {"values": ["nesterov", "adam", "nadam"]}}, {"hparams.beta1": UNIT | {"high": 0.9}},
         "name it 'hparams.beta1@optimizer=adam|nadam'"),
        ({"schedule": {"values": ["linear", "rsqrt"]}}, {"hparams.end_factor": UNIT},
         "name it 'hparams.end_factor@schedule=linear'"),
        (OPTIMIZERS, {"hparams.momentum@optimizer=nesterov": UNIT | {"high": 0.9}}, ""),
        ({"optimizer": {"values": ["nesterov", "momentum"]}}, {"hparams.momentum": UNIT | {"high": 0.9}}, ""),
        (OPTIMIZERS, {"hparams.weight_decay": UNIT}, ""),
    ],
)  # fmt: skip
def test_a_joint_study_whose_values_do_not_use_what_is_tuned_is_refused(
    load, scientific, nuisance, message
):
    spec = load(scientific=scientific, nuisance={"hparams.learning_rate": RATE, **nuisance})
    if not message:
        assert trial_points.points(spec)
        return
    with pytest.raises(UsageError) as error:
        trial_points.points(spec)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    # One that was begun before goes on.
    assert trial_points.points(spec, samplers.sample("halton", spec.spaces, 3, 0))


def test_the_schedules_use_what_refusals_say():
    assert set(unshared._USES["schedule"]) == set(schedules.SCHEDULES)
