"""Which features can go: is their strength within noise, or as good at zero?

Over 200 simulated studies of three hyperparameters, a feature that gains three times the noise was said to be
able to go in 1 % at most. One that does nothing was recognised in 82 % with 100 trials, and with 20 trials in
46 %: else the study cannot tell. scripts/benchmark_findings.py measures it.
"""

import math
import statistics
from typing import Any

import numpy as np

from playbook_jax.analysis import crowding, features, numerals, sensitivity
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK, Finding, Question
from playbook_jax.analysis.hyperparameters import Hyperparameter, units
from playbook_jax.analysis.proposals import SET, Proposal
from playbook_jax.analysis.sensitivity import Effect, Sensitivity
from playbook_jax.analysis.study import Study
from playbook_jax.analysis.thresholds import Threshold

ORDER = 97  # after what matters, which it follows from

NEAR_OFF = Threshold(
    "features.near_off",
    100.0,
    1,
    1e9,
    "a range that has no zero goes near enough to it if its strongest value is so many times its weakest",
)

WORTH = Threshold(
    "features.worth",
    1.0,
    0,
    100,
    "a feature that gains less than so many standard deviations of the scatter between like trials can go: "
    "one run in four of the worse side is better all the same",
)
LEVEL = 0.95  # customary

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
    if found is None or not found.told:
        names = numerals.some([h.label for h in tried], 5)
        text = f"Whether {names} can go cannot be told: so few trials do not show what matters."
        return [_finding(CANNOT_TELL, text if study.learned else "No trial is complete.")]
    told = [_judge(study, h, found) for h in tried]
    evidence = [text for _, text in told]
    can_go = [h for h, (goes, _) in zip(tried, told, strict=True) if goes]
    if not can_go:
        return [_finding(FINE, "No feature is shown to be without use.", evidence)]
    names = numerals.some([h.label for h in can_go], 5)
    on = [h for h in can_go if study.best.parameters.get(h.name) != features.OFF]
    action = (
        f"Set {numerals.join([h.label for h in on])} to 0, and check it by replicates of the best trial with "
        "and without before it is adopted."
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
        return f"at {numerals.value(low)}" if high >= NEAR_OFF.of(study) * low > 0 else ""
    # Of a threshold the largest is weakest, unless it has a zero, which is off.
    if low == features.OFF:
        return "off" if h.levels else ""
    return f"at {numerals.value(high)}" if high >= NEAR_OFF.of(study) * low else ""


def _judge(study: Study, h: Hyperparameter, found: Sensitivity) -> tuple[bool, str]:
    """Returns whether a feature can go, and why."""
    effect: Effect | None = next((e for e in found.effects if e.hyperparameters == (h,)), None)
    weakest = _weakest(study, h)
    if effect is None:
        return False, f"{h.label} is the same in all trials that learned."
    if effect.noise:
        return True, (
            f"{h.label} is within noise from {weakest} to its strongest: without it unseen trials are "
            "predicted as well."
        )
    most = most_gain(study, h)
    if not effect.matters and most <= WORTH.of(study):
        return True, (
            f"{h.label} gains at most {numerals.number(most, 2)} standard deviations of what scatters "
            f"between trials over {weakest} ({numerals.percent(LEVEL)} sure)."
        )
    end = features.weak_end(h.name)
    if effect.matters and effect.good is not None:
        low, high = effect.good
        if (low <= 0 if end == "low" else high >= 1) and not h.levels:
            return (
                True,
                f"{h.label} matters, but is as good {weakest} as anywhere: stronger is worse or no better.",
            )
        return False, f"{h.label} earns its place: {weakest} it is worse."
    if effect.matters:
        return (
            False,
            f"{h.label} matters; how, depends on another hyperparameter or its few values.",
        )
    return False, f"{h.label} may matter or not: by chance {numerals.probability(effect.chance)}."


def most_gain(study: Study, h: Hyperparameter) -> float:
    """Returns a bound of what a feature gains at its best over its weakest strength, LEVEL sure.

    A parabola along its axis is fitted to the trials that learned, the effects of the others taken out.

    Returns:
      It in standard deviations of what scatters around the parabola, in ranks; infinite where none can be
      fitted.
    """
    field = crowding.Field(study, study.learned)
    scores = field.scores((h.name,))
    places = units(h, [t.parameters.get(h.name) for t in field.trials])
    there = np.isfinite(places)
    if features.weak_end(h.name) == "high":
        places = 1 - places
    columns = places[there, None] ** np.arange(3)
    if there.sum() < 8 or np.linalg.matrix_rank(columns) < 3:
        return math.inf
    inverse = np.linalg.inv(columns.T @ columns)
    weights = inverse @ columns.T @ scores[there]
    freedom = int(there.sum()) - 3
    sd = math.sqrt(float(((scores[there] - columns @ weights) ** 2).sum()) / freedom)
    tried = np.linspace(0.05, 1, 20)[:, None] ** np.arange(3)
    contrasts = np.array([1.0, 0.0, 0.0]) - tried  # what is better than the weakest costs less
    errors = sd * np.sqrt(np.einsum("ij,jk,ik->i", contrasts, inverse, contrasts))
    times = statistics.NormalDist().inv_cdf(LEVEL) * (1 + 1.5 / freedom)  # nearly Student's
    return max(0.0, float(np.max(contrasts @ weights + times * errors))) / max(sd, 1e-12)


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
