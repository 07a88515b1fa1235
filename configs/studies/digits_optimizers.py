"""Which optimizer trains the digits MLP better in 1,000 steps, once each is tuned: Nesterov or Adam?

    scripts/launch_study.py --config=configs/studies/digits_optimizers.py --workdir=/tmp/optimizers

A group: two studies of 20 trials of 1,000 steps, under half a minute on two CPU cores. The best trial of
Adam ends at 1.3 % validation error and that of Nesterov at 2.0 %: four and six of 300 examples.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the study config."""
    config = ConfigDict(convert_dict=False)  # names of hyperparameters have dots
    config.name = "digits_optimizers"
    config.goal = "Which of Nesterov momentum and Adam reaches the lower validation error?"
    config.base_config = "configs/digits_mlp.py"
    config.objective = {"metric": "validation/error_rate", "mode": "min"}
    config.num_trials = 20  # of each study
    config.shape = "group"  # a study for each optimizer; "joint" would put both into one
    config.scientific = {"optimizer": {"values": ["nesterov", "adam"]}}

    # The two learning rates share a name, and nothing else: their best values lie far apart.
    config.nuisance = {
        "hparams.learning_rate@optimizer=nesterov": {"scale": "log", "low": 1e-2, "high": 10.0},
        "hparams.learning_rate@optimizer=adam": {"scale": "log", "low": 1e-4, "high": 0.1},
        "hparams.momentum": {
            "scale": "one_minus_log",
            "low": 0.5,
            "high": 0.99,
            "when": {"optimizer": ["nesterov"]},
        },
        "hparams.beta1": {
            "scale": "one_minus_log",
            "low": 0.5,
            "high": 0.99,
            "when": {"optimizer": ["adam"]},
        },
    }
    config.fixed = {
        "hparams.weight_decay": {
            "value": 1e-4,
            "reason": "in the study digits_mlp it hardly mattered",
        },
    }
    return config
