"""Refuses a joint study in which some scientific values would tune what they do not use.

    config.scientific = {"optimizer": {"values": ["nesterov", "adam"]}}
    config.nuisance = {"hparams.momentum": …}                      refused: adam has no momentum
    config.nuisance = {"hparams.momentum@optimizer=nesterov": …}   tuned where it exists

Half of such a study's trials would spread over an axis that does nothing, and each value is tuned in fewer
dimensions than the tables say.

Source: the playbook, "Creating a set of studies" (all scientific values in one study work only where what is
tuned is the same for each of them).
"""

from playbook_jax.errors import UsageError
from playbook_jax.studies import warnings
from playbook_jax.studies.space import conditions
from playbook_jax.studies.space.search_space import Values
from playbook_jax.studies.specification import JOINT, Specification

# What each value of a choice uses, of what not all of them do.
_USES = {
    "optimizer": warnings.USES,
    "schedule": {
        "constant": (),
        "linear": ("end_factor",),
        "cosine": ("end_factor",),
        "rsqrt": ("rsqrt_timescale",),
    },
}


def refuse(specification: Specification) -> None:
    """Raises a UsageError where a nuisance hyperparameter needs a condition on a scientific one."""
    for choice, uses in _USES.items() if specification.shape == JOINT else ():
        space = specification.scientific.get(choice)
        values = space.values if isinstance(space, Values) else ()
        for key, nuisance in specification.nuisance.items():
            name = conditions.path(key).removeprefix("hparams.")
            # One of the user's own may use anything.
            using = [value for value in values if name in uses.get(value, (name,))]
            others = [value for value in values if value not in using]
            known = any(name in used for used in uses.values())
            if known and using and others and choice not in dict(nuisance.when):
                when = {**{p: list(v) for p, v in nuisance.when}, choice: using}
                raise UsageError(
                    f"{key} would be tuned with {choice}={others[0]} too, which does not use it: what is "
                    "tuned then differs by scientific value; name it "
                    f"{conditions.key(conditions.stem(key), when)!r}"
                )
