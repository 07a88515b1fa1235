"""What is doubtful about a study before it runs, by the playbook's rules of thumb."""

from playbook_jax.studies.search_space import Range
from playbook_jax.studies.specification import Specification

# Hyperparameters of optimizers. They interact the most with other changes, so they are tuned.
_OPTIMIZER = ("learning_rate", "momentum", "beta1", "beta2", "rho", "epsilon", "warmup_steps")
_FEW_TRIALS = 20
_WIDE = 100  # ratio of the bounds from which a linear scale is doubtful


def find(specification: Specification) -> list[str]:
    """Returns a sentence for each doubt, none of which keeps the study from running.

    Source: playbook, "Identifying scientific, nuisance, and fixed hyperparameters", "How many trials
    are needed", "Why shouldn't the batch size be tuned".
    """
    scientific, spaces = specification.scientific, specification.spaces
    doubts = []
    if len(scientific) > 1:
        doubts.append(
            f"{len(scientific)} scientific hyperparameters: their effects are hard to tell apart; "
            "the playbook asks one question at a time"
        )
    for name in scientific:
        if name in (f"hparams.{short}" for short in _OPTIMIZER):
            doubts.append(
                f"{name} is scientific; optimizer hyperparameters are rarely what a question is "
                "about, for their best values move with every other change: make it nuisance"
            )
    if scientific and "hparams.learning_rate" not in spaces:
        doubts.append(
            "the learning rate does not vary: values of a scientific hyperparameter are only "
            "compared fairly when it is tuned for each of them (make it nuisance)"
        )
    if "batch_size" in specification.nuisance:
        doubts.append(
            "batch_size is nuisance: it is no means to better validation results once the rest is "
            "tuned for it; fix it at what the hardware runs best"
        )
    for name, space in spaces.items():
        linear = isinstance(space, Range) and space.scale == "linear"
        if linear and 0 < _WIDE * space.low < space.high:
            doubts.append(f"{name} spans orders of magnitude on a linear scale: try 'log'")
    if specification.num_trials < _FEW_TRIALS:
        doubts.append(
            f"{specification.num_trials} trials: with fewer than {_FEW_TRIALS} the best result "
            "depends much on luck (playbook, figure 3)"
        )
    return doubts
