"""What is doubtful about a study before it runs, by the playbook's rules of thumb.

A check joins by its name in `_CHECKS`: a function of the specification that returns sentences, each with
the playbook's reason and a way out. None keeps a study from running.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

from playbook_jax import config as config_lib
from playbook_jax.studies import arms as arms_lib
from playbook_jax.studies.arms import Arm
from playbook_jax.studies.space import conditions
from playbook_jax.studies.space.search_space import Range, Values
from playbook_jax.studies.specification import GROUP, Specification

LEARNING_RATE = "hparams.learning_rate"
ADAMS = ("adam", "nadam", "adamw", "nadamw")
# Hyperparameters of each optimizer, the learning rate and weight decay aside.
USES = {
    "sgd": (),
    "momentum": ("momentum",),
    "nesterov": ("momentum",),
    "rmsprop": ("rho", "epsilon", "momentum"),
    **dict.fromkeys(ADAMS, ("beta1", "beta2", "epsilon")),
}
_OPTIMIZER = {"learning_rate", "warmup_steps", "end_factor", *itertools.chain(*USES.values())}
_REGULARIZATION = ("weight_decay", "dropout_rate", "label_smoothing")
# What the playbook tunes of Adam with how many trials; its "substantially more than 25" is taken as twice.
_ADAM_BUDGETS = {"beta1": 10, "epsilon": 25, "beta2": 50}
# All that varies between runs of one configuration.
_REPLICATES = {"seed", "notes", *(f"seeds.{name}" for name in config_lib.OPTIONAL["seeds"])}
_FEW_TRIALS = 20
_WIDE = 100  # ratio of the bounds from which a linear scale is doubtful
_MANY_DIMENSIONS = 12
_SHOWN = 6


def find(specification: Specification) -> list[str]:
    """Returns a sentence for each doubt, none of which keeps the study from running.

    Source: playbook, "Identifying scientific, nuisance, and fixed hyperparameters", "Creating a set of
    studies", "How should Adam's hyperparameters be tuned", "How many trials are needed", "Why shouldn't
    the batch size be tuned", "Where can I find an implementation of quasi-random search".
    """
    if set(specification.spaces) <= _REPLICATES:
        return []  # nothing is searched for
    return [doubt for check in _CHECKS for doubt in check(specification)]


def _one_question(specification: Specification) -> Iterator[str]:
    count = len(specification.scientific)
    if count > 1:
        yield (
            f"{count} scientific hyperparameters: their effects are hard to tell apart; "
            "the playbook asks one question at a time"
        )


def _scientific_by_nature(specification: Specification) -> Iterator[str]:
    for key, space in specification.scientific.items():
        short = conditions.path(key).removeprefix("hparams.")
        if short in _OPTIMIZER:
            yield (
                f"{key} is scientific; optimizer hyperparameters are rarely what a question is "
                "about, for their best values move with every other change: make it nuisance"
            )
        if short in _REGULARIZATION and isinstance(space, Range):
            yield (
                f"{key} is scientific over a range; the question is whether to regularize at all, "
                "and how strongly is nuisance: make it nuisance, or list 0 and a value"
            )
        if short == "batch_size":
            yield (
                "batch_size is scientific: results hardly depend on it once optimizer, regularization "
                "and number of steps are tuned for each size; compare what each costs instead"
            )


def _nuisance_by_nature(specification: Specification) -> Iterator[str]:
    for key in specification.nuisance:
        name = conditions.path(key)
        if name == "batch_size":
            yield (
                "batch_size is nuisance: it is no means to better validation results once the rest "
                "is tuned for it; fix it at what the hardware runs best"
            )
        if name == "optimizer":
            yield (
                "optimizer is nuisance; the choice of the optimizer usually is the question, or fixed: "
                "make it scientific, or fix the one that is best understood"
            )
        if name.startswith("model."):
            yield (
                f"{key} is nuisance; architecture changes what training and serving cost, so its best "
                "value is no matter of the result alone: make it scientific or fix it"
            )


def _learning_rate(specification: Specification) -> Iterator[str]:
    lacking = [
        arm
        for arm in arms_lib.find(specification)
        if LEARNING_RATE not in _paths((*arm.varying, *specification.scientific))
    ]
    if specification.scientific and lacking:
        yield (
            f"the learning rate does not vary{_where(specification, lacking)}: values of a scientific "
            "hyperparameter are only compared fairly when it is tuned for each of them (make it nuisance)"
        )


def _caveats(specification: Specification) -> Iterator[str]:
    """Names what interacts with the question, or was fixed for this study, and has no stated reason."""
    if not specification.scientific:
        return
    base = config_lib.flatten(specification.base_config)
    names = set()
    for arm in arms_lib.find(specification):
        varying = _paths(arm.varying)
        for optimizer in _optimizers(specification, arm):
            wanted = [f"hparams.{n}" for n in _tunable(optimizer, arm.num_trials)]
            wanted += [f"hparams.{n}" for n in (*_REGULARIZATION, "warmup_steps")]
            names |= {name for name in wanted if base.get(name) and name not in varying}
    told = {conditions.path(key) for key in specification.fixed_reasons}
    # An optimizer's hyperparameters are among them already, where the optimizer uses them.
    used = {f"hparams.{name}" for name in itertools.chain(*USES.values())}
    names |= {
        name
        for name in specification.fixed
        if name.startswith(("hparams.", "model.")) and conditions.path(name) not in used
    }
    names |= specification.fixed.keys() & {"optimizer", "schedule", "batch_size"}
    names = {n for n in names if conditions.path(n) not in told} - {LEARNING_RATE}
    if names:
        listed = ", ".join(sorted(name.removeprefix("hparams.") for name in names)[:_SHOWN])
        yield (
            f"fixed: {listed}{', …' * (len(names) > _SHOWN)}: what is found holds for these values only, "
            "and the more one interacts with the question, the less it means; make it nuisance, or say "
            "why not: 'fixed': {name: {'value': …, 'reason': '…'}}"
        )


def _adam(specification: Specification) -> Iterator[str]:
    worst: dict[str, Arm] = {}
    for arm in arms_lib.find(specification):
        for optimizer in set(_optimizers(specification, arm)) & set(ADAMS):
            for name, needed in _ADAM_BUDGETS.items():
                keys = [k for k in arm.varying if conditions.path(k) == f"hparams.{name}"]
                if keys and _may_hold(specification, keys, optimizer) and arm.num_trials < needed:
                    worst.setdefault(name, arm)
    for name, arm in worst.items():
        advice = {
            "beta1": "with fewer than 10 only the learning rate",
            "epsilon": "with 10 to 25 only the learning rate and beta1",
            "beta2": "with about 25 only learning rate, beta1 and epsilon",
        }[name]
        yield (
            f"{name} varies in {_trials(specification, arm)}: too few for it; of Adam's "
            f"hyperparameters the playbook tunes {advice}"
        )


def _coverage(specification: Specification) -> Iterator[str]:
    """Warns where not even all combinations of a low and a high value can be seen."""
    if specification.algorithm in ("grid", "list"):
        return
    arms = [arm for arm in arms_lib.find(specification) if 2**arm.dimensions > arm.num_trials]
    if arms:
        arm = max(arms, key=lambda arm: 2**arm.dimensions / max(arm.num_trials, 1))
        yield (
            f"{arm.dimensions} nuisance hyperparameters in {_trials(specification, arm)}: too few to see "
            f"each combination of low and high values once (2^{arm.dimensions} = "
            f"{2**arm.dimensions:,}), so luck may decide; fix what matters least, or run more"
        )


def _differing_sets(specification: Specification) -> Iterator[str]:
    arms = arms_lib.find(specification)
    counts = {arm.dimensions for arm in arms}
    sets = {frozenset(_paths(arm.varying)) for arm in arms}
    if specification.shape != GROUP and len(sets) > 1:
        text = " to ".join(map(str, sorted({min(counts), max(counts)})))
        yield (
            f"the nuisance hyperparameters differ by scientific value ({text} of them for the same "
            "number of trials each): shape 'group' makes a study for each value, and a fair comparison"
        )


def _scales(specification: Specification) -> Iterator[str]:
    for key, space in specification.spaces.items():
        linear = isinstance(space, Range) and space.scale == "linear"
        if linear and 0 < _WIDE * space.low < space.high:
            yield f"{key} spans orders of magnitude on a linear scale: try 'log'"


def _algorithm(specification: Specification) -> Iterator[str]:
    spaces, algorithm = specification.spaces, specification.algorithm
    if algorithm == "grid" and len(spaces) > 2:
        yield (
            f"a grid in {len(spaces)} dimensions sees few values of each hyperparameter; beyond two, "
            "'halton' is better (Bergstra & Bengio, 2012)"
        )
    if algorithm == "uniform":
        yield "'uniform' points are spread less evenly than those of 'halton', and cost the same"
    if algorithm in ("grid", "list"):
        return
    listed = all(isinstance(space, Values) and not space.when for space in spaces.values())
    if listed and not specification.vary_seed:
        size = math.prod(len(space.values) for space in spaces.values())
        if size < specification.num_trials:
            yield (
                f"the space has {size} points, so some of {specification.num_trials} trials are the "
                "same; 'grid' runs each once"
            )
    if len(spaces) > _MANY_DIMENSIONS and algorithm == "halton":
        # Measured by benchmarks/discrepancy.py --pairs.
        yield (
            f"{len(spaces)} dimensions: later ones are spread less evenly. The worst pair of 4, 12 and 20 "
            "dimensions is 0.06, 0.3 and 0.5 times as uneven as random points at 100 trials, and 0.2, 0.6 "
            "and 1.3 times at 20; put what matters most first, and fix what matters least"
        )


def _few_trials(specification: Specification) -> Iterator[str]:
    if specification.num_trials < _FEW_TRIALS:
        yield (
            f"{specification.num_trials} trials: with fewer than {_FEW_TRIALS} the best result "
            "depends much on luck (playbook, figure 3)"
        )


_CHECKS: tuple[Callable[[Specification], Iterable[str]], ...] = (
    _one_question,
    _scientific_by_nature,
    _nuisance_by_nature,
    _learning_rate,
    _differing_sets,
    _coverage,
    _adam,
    _caveats,
    _scales,
    _algorithm,
    _few_trials,
)


def _paths(keys: Iterable[str]) -> set[str]:
    return {conditions.path(key) for key in keys}


def _optimizers(specification: Specification, arm: Arm) -> tuple[str, ...]:
    """Returns the optimizers that trials of an arm may have."""
    if "optimizer" in arm.values:
        return (arm.values["optimizer"],)
    space = specification.nuisance.get("optimizer")
    return space.values if isinstance(space, Values) else (specification.base_config.optimizer,)


def _may_hold(specification: Specification, keys: Iterable[str], optimizer: str) -> bool:
    """Says whether one of the hyperparameters exists under an optimizer."""
    whens = [dict(specification.nuisance[key].when) for key in keys]
    return any(optimizer in when.get("optimizer", (optimizer,)) for when in whens)


def _tunable(optimizer: str, num_trials: int) -> list[str]:
    """Returns the optimizer's hyperparameters that so many trials can tune."""
    uses = USES.get(optimizer, ())
    budgets = _ADAM_BUDGETS if optimizer in ADAMS else {}
    return [name for name in uses if num_trials >= budgets.get(name, 0)]


def _where(specification: Specification, arms: list[Arm]) -> str:
    """Returns " for optimizer=adam", unless the arms are all there are."""
    if len(arms) == len(arms_lib.find(specification)):
        return ""
    return " for " + ", ".join(arm.label for arm in arms[:_SHOWN])


def _trials(specification: Specification, arm: Arm) -> str:
    several = len(arms_lib.find(specification)) > 1
    return f"{arm.num_trials} trials" + (f" with {arm.label}" if several else "")
