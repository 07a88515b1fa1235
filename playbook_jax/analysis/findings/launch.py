"""Has a trial of the study been adopted, and what becomes of the study's question then?"""

import numbers
from typing import Any

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.proposals import ANSWER, Proposal
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.findings import FINE, Finding
from playbook_jax.studies.space import conditions
from playbook_jax.studies.store import adoptions
from playbook_jax.studies.store.adoptions import Launch

ORDER = 120  # after all that the study itself says
OF_FAILURES = True

# Strengths whose search space is logarithmic, and how far it goes on both sides of the adopted one.
_LOGARITHMIC, _FACTOR = ("weight_decay", "clip_norm", "epsilon", "learning_rate"), 10.0

QUESTION = "Has a trial been adopted?"
SECTION = "Determining whether to adopt a training pipeline change or hyperparameter configuration"
PLAYBOOK = ("launches", "adopted-strength-is-nuisance")


def check(study: Study) -> list[Finding]:
    """Returns the newest launch with its evidence; nothing where no trial was adopted.

    What the study asked about is decided then: of a feature that was adopted, the strength becomes a nuisance
    hyperparameter of what follows, and what else was asked about has one value.

    Source: playbook, "The incremental tuning strategy" (launches); "Identifying scientific, nuisance, and
    fixed hyperparameters" (the strengths of regularizers are nuisance hyperparameters, as a rule).
    """
    launch = adoptions.newest(study.directory)
    if launch is None:
        return []
    evidence = [f"Launched {old.text}." for old in adoptions.read(study.directory)[-4:]]
    evidence.append(
        f"Its config is {adoptions.CONFIG_NAME} in the study's directory, the base of the next study."
    )
    return [
        Finding(
            QUESTION,
            FINE,
            f"Trial {launch.trial} was adopted on {launch.time[:10]}"
            + (" against the evidence." if launch.forced else "."),
            tuple(evidence),
            section=SECTION,
            trials=(launch.trial,),
            playbook=PLAYBOOK,
            proposals=_proposals(study, launch),
        )
    ]


def _proposals(study: Study, launch: Launch) -> tuple[Proposal, ...]:
    proposals = []
    for h in study.hyperparameters:
        if h.role == "scientific" and h.name in launch.parameters:
            value = launch.parameters[h.name]
            space = _around(h, value)
            proposals.append(Proposal(ANSWER, h.name, value if space is None else space))
    return tuple(proposals)


def _around(h: Hyperparameter, value: Any) -> dict[str, Any] | None:
    """Returns the search space of a feature's strength, or None for what is no strength, or off."""
    name = conditions.path(h.name)
    if not name.startswith("hparams.") or not _is_positive(value):
        return None
    tried = [v for v in h.levels if _is_positive(v)] or [h.bound("low"), h.bound("high"), value]
    space: dict[str, Any] = {}
    if name.rsplit(".", 1)[-1] in _LOGARITHMIC:
        low, high = min(*tried, value) / _FACTOR, max(*tried, value) * _FACTOR
        space = {"scale": "log", "low": float(f"{low:.2g}"), "high": float(f"{high:.2g}")}
    elif isinstance(value, int):
        space = {"scale": "linear", "low": 0, "high": max(*tried, 2 * value), "type": "int"}
    else:
        high = max(*tried, 2 * value)
        high = min(high, (1 + max(tried)) / 2) if max(tried) < 1 else high
        space = {"scale": "linear", "low": 0.0, "high": float(formatting.number(high, 3))}
    condition = h.space.to_dict().get("when")
    return space | ({"when": condition} if condition else {})


def _is_positive(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and value > 0
