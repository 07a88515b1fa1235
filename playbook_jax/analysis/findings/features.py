"""Which features can go: what is lost at most without them?

A feature can go if an upper bound of what is lost without it lies below what is worth having (see `gains`),
and never a remedy that is in force (see `in_force`). Over 40 simulated studies each, clipping that moves
the edge above which training fails was said to be able to go in none (20 and 60 trials); a feature that
gains three times the noise, beside a learning rate with an effect of 30 times, in 5 % of 20 trials and none
of 60. What does nothing was recognised in 55 % of 20 trials.
benchmarks/findings.py measures it.
"""

import math
from typing import Any

import numpy as np

from playbook_jax.analysis.data import features, formatting
from playbook_jax.analysis.data.hyperparameters import Hyperparameter, units
from playbook_jax.analysis.data.proposals import SET, Proposal
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK, Finding, Question
from playbook_jax.analysis.stats import feasible, gains, in_force, sensitivity
from playbook_jax.analysis.stats.sensitivity import Effect, Sensitivity

ORDER = 97  # after what matters, which it follows from

NEAR_OFF = Threshold(
    "features.near_off",
    100.0,
    1,
    1e9,
    "a range that has no zero goes near enough to it if its strongest value is so many times its weakest",
)

REACHED = 0.15  # of an axis: trials that trained must come so near to its weak end

QUESTION = "Which features can go?"
SECTION = "Exploration vs exploitation"
PLAYBOOK = ("features-that-can-go",)
FIGURES = ("sensitivity-effects",)


def check(study: Study) -> list[Finding]:
    """Returns which features the study shows to be of no use, where it tries them without strength.

    Source: playbook, "Exploration vs exploitation": identify features that do not help and can be removed.
    """
    study = study.drawn
    tried = [
        h for h in study.hyperparameters if features.is_strength(h.name) and _weakest(study, h)
    ]
    if not tried:
        return [_finding(FINE, "No feature's strength varies down to off, so none is judged.")]
    found = sensitivity.analyze(study)
    if found is None:
        names = formatting.some([h.label for h in tried], 5)
        text = f"Whether {names} can go cannot be told: so few trials do not show what matters."
        return [_finding(CANNOT_TELL, text if study.learned else "No trial is complete.")]
    surface = gains.Surface(study, sensitivity.varying(study))
    told = [_judge(study, h, found, surface) for h in tried]
    evidence = [text for _, text in told]
    can_go = [h for h, (goes, _) in zip(tried, told, strict=True) if goes]
    if not can_go:
        return [_finding(FINE, "No feature is shown to be without use.", evidence)]
    names = formatting.some([h.label for h in can_go], 5)
    on = [h for h in can_go if study.best.parameters.get(h.name) != features.OFF]
    action = (
        f"Set {formatting.join([h.label for h in on])} to 0, and check it by replicates of the best trial "
        "with and without before it is adopted."
        if on
        else ""
    )
    answer = f"{names} can go: without {'it' if len(can_go) == 1 else 'them'} the study is as good."
    proposals = [Proposal(SET, h.name, _zero(h), sure=False) for h in on if h.role == "nuisance"]
    return [_finding(LOOK if on else FINE, answer, evidence, action, proposals=proposals)]


def _weakest(study: Study, h: Hyperparameter) -> str:
    """Returns the weakest strength in words, "off" or "at 1e-6"; empty where that is far from off."""
    if not h.ordered:
        return ""
    low, high = h.bound("low"), h.bound("high")
    if features.weak_end(h.name) == "low":
        if low == features.OFF:
            return "off"
        return f"at {formatting.value(low)}" if high >= NEAR_OFF.of(study) * low > 0 else ""
    # Of a threshold the largest is weakest, unless it has a zero, which is off.
    if low == features.OFF:
        return "off" if h.levels else ""
    return f"at {formatting.value(high)}" if high >= NEAR_OFF.of(study) * low else ""


def _judge(
    study: Study, h: Hyperparameter, found: Sensitivity, surface: gains.Surface
) -> tuple[bool, str]:
    """Returns whether a feature can go, and why."""
    effect: Effect | None = next((e for e in found.effects if e.hyperparameters == (h,)), None)
    weakest = _weakest(study, h)
    if effect is None:
        return False, f"{h.label} is the same in all trials that trained."
    trouble = in_force.why(study, h.name)
    if trouble:
        return (
            False,
            f"{h.label} is in force while {trouble}: what it does for those is not seen here.",
        )
    if h.name in feasible.deciding(study):
        return False, f"Whether training works depends on {h.label}."
    if any(h in pair.hyperparameters for pair in found.pairs):
        return False, f"What {h.label} gains depends on another hyperparameter."
    most, worth = lost_without(study, h, surface), gains.WORTH.of(study)
    what = "the retrain noise" if study.retrain is not None else "what scatters between like trials"
    if most <= worth:
        return True, (
            f"Without {h.label} ({weakest}), at most {formatting.number(most, 2)} standard deviations of "
            f"{what} are lost ({formatting.percent(gains.LEVEL)} sure)."
        )
    if effect.matters and effect.good is not None and not _reaches(h, effect.good):
        return False, f"{h.label} earns its place: {weakest} it is worse."
    if math.isinf(most):
        return (
            False,
            f"What {h.label} gains cannot be told: no trial that trained has it {weakest}.",
        )
    return False, (
        f"Without {h.label} ({weakest}), up to {formatting.number(most, 2)} standard deviations of {what} "
        f"may be lost ({formatting.percent(gains.LEVEL)} sure): more than {formatting.number(worth, 2)}."
    )


def _reaches(h: Hyperparameter, good: tuple[float, float]) -> bool:
    return good[0] <= 0 if features.weak_end(h.name) == "low" else good[1] >= 1


def lost_without(study: Study, h: Hyperparameter, surface: gains.Surface) -> float:
    """Returns what is lost at most without a feature, see `gains`; infinite where no trial is near."""
    end = features.weak_end(h.name)
    if end == "high" and h.bound("low") == features.OFF:
        end = "low"  # of a threshold, zero is off
    places = units(h, [t.parameters.get(h.name) for t in study.learned])
    place = 0.0 if end == "low" else 1.0
    if np.nanmin(np.abs(places - place)) > REACHED:
        return math.inf
    return surface.most_lost(h, h.bound(end))


def _zero(h: Hyperparameter) -> Any:
    return 0 if getattr(h.space, "type", "float") == "int" else 0.0


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "A feature that does not help is taken out, so that what is kept is simpler to maintain and "
        "there is less to tune. It holds for what the study had beside it: replicates of the best trial with "
        "and without the feature are the evidence."
    ),
    figures=FIGURES,
    playbook=PLAYBOOK,
).finding
