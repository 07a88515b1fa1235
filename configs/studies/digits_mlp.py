"""How well can the digits MLP be trained, once its optimizer is tuned?

    scripts/launch_study.py --config=configs/studies/digits_mlp.py --workdir=/tmp/study

20 trials of 1,000 steps: under ten seconds on two CPU cores. The best trials end below 2 % validation
error (of 300 examples), and the four with the highest learning rates diverge: INFEASIBLE.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the study config."""
    config = ConfigDict(convert_dict=False)  # names of hyperparameters have dots
    config.name = "digits_mlp"
    config.goal = (
        "Which validation error does the two-layer MLP reach on the digits in 1,000 steps, and "
        "where in the space of its optimizer's hyperparameters?"
    )
    config.base_config = "configs/digits_mlp.py"
    config.objective = {"metric": "validation/error_rate", "mode": "min"}
    config.num_trials = 20
    config.algorithm = "halton"
    config.seed = 0  # scrambles the points

    # Nothing is compared yet, so all that is tuned is nuisance; the later question, say another
    # width, joins as scientific. Bounds are in the hyperparameter's own units.
    config.nuisance = {
        # So wide that the highest rates diverge: the report then shows where.
        "hparams.learning_rate": {"scale": "log", "low": 1e-2, "high": 100.0},
        "hparams.momentum": {"scale": "one_minus_log", "low": 0.5, "high": 0.99},
        "hparams.weight_decay": {"scale": "log", "low": 1e-6, "high": 1e-2},
        "hparams.clip_norm": {"scale": "log", "low": 0.1, "high": 10.0},
    }
    return config
