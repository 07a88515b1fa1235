"""Do the best trials lie at the edge beyond which training diverges?

Over 400 simulated studies of 20 trials and four hyperparameters, noise a third of the effect, the sign came
where the best are far from the edge in 4 %, and was missed where they are at it in 12 % (100 trials: below
1 % both); benchmarks/findings.py measures it.
"""

import dataclasses
import math
import statistics

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.hyperparameters import HIGH, LOW, Hyperparameter
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, Finding, Question
from playbook_jax.analysis.stats import boundary_clustering, infeasible_region, stability_fixes
from playbook_jax.analysis.stats.boundary_clustering import Crowd
from playbook_jax.analysis.stats.infeasible_region import Region

ORDER = 10  # the playbook: optimization failures are mended before anything else is tried

NEAR = Threshold(
    "instability.near",
    5.0,
    1,
    100,
    "the best is right at the edge if training diverges at so many times its learning rate: "
    'the playbook checks the sign "with a learning rate either 5x or 10x larger than this '
    'peak"',
)
NEARLY = Threshold(
    "instability.nearly",
    10.0,
    1,
    1000,
    "and may be at it up to so many times",
)
CHANCE = Threshold(
    "instability.chance",
    0.05,
    0,
    1,
    "that the best few lie so close to the edge by chance; customary",
)
WEAK_CHANCE = Threshold(
    "instability.weak_chance",
    0.2,
    0,
    1,
    "the same, weak but worth a look",
)
NEAR_PART = Threshold(
    "instability.near_part",
    0.15,
    0,
    1,
    "what near is on an axis that is not logarithmic: a part of the stretch below the edge",
)
NEARLY_PART = Threshold(
    "instability.nearly_part",
    0.25,
    0,
    1,
    "what nearly is there",
)
PURE = Threshold(
    "instability.pure",
    0.75,
    0,
    1,
    '"all trials are infeasible above some threshold" if such a part is: other '
    "hyperparameters differ too",
)

QUESTION = "Is training unstable?"
SECTION = "When to apply learning rate warmup"
PLAYBOOK = ("best-at-the-edge-of-instability",)


def check(study: Study) -> list[Finding]:
    """Returns whether the best learning rates lie right below those that diverge.

    Each learning rate by itself, where there are several: "learning_rate@optimizer=adam" is one of those
    trials alone that have it. A ratio, "learning_rate/(1-hparams.momentum)", is judged as it was sampled.

    Source: playbook, Figure 7a, and "Identifying bad search space boundaries": if all trials are
    infeasible above a learning rate and the best ones are at the edge of that region, instability may
    be what keeps higher learning rates out of reach.
    """
    study = study.drawn
    rates = [
        h
        for h in study.varying(stability_fixes.RATE)
        if h.ordered and ("@" not in h.name or any(h.name in t.parameters for t in study.trials))
    ]
    if not rates:
        text = "The learning rate does not vary, so its edge is not seen."
        return [_finding(CANNOT_TELL, text)]
    return [_of(_where_it_is(study, rate), rate) for rate in rates]


def _where_it_is(study: Study, rate: Hyperparameter) -> Study:
    """Returns the study of those trials alone that have a learning rate, if that is conditional."""
    if "@" not in rate.name:
        return study
    trials = tuple(t for t in study.trials if rate.name in t.parameters)
    there = {name for t in trials for name in t.parameters}
    axes = tuple(h for h in study.hyperparameters if h.name in there)
    return dataclasses.replace(study, trials=trials, hyperparameters=axes)


def _of(study: Study, rate: Hyperparameter) -> Finding:
    """Returns the answer for one learning rate, from the trials that have it."""
    condition = rate.name.partition("@")[2]

    def finding(verdict: str, text: str, figures: tuple[str, ...] = ()) -> Finding:
        return _finding(verdict, f"{condition}: {text}" if condition else text, figures=figures)

    if not study.ranked:
        return finding(CANNOT_TELL, "No trial is complete.")
    if not study.failures:
        return finding(FINE, "No trial diverged: no learning rate tried is too large to train.")
    if len(study.failures) < infeasible_region.FEWEST:
        return finding(CANNOT_TELL, "A single trial that fails does not show an edge.")
    # Of a learning rate it is known beforehand on which side training becomes unstable.
    region = infeasible_region.find(study, rate.name, HIGH)
    if region is None:
        return finding(*_no_edge(study, rate))
    share = len(region.failures) / (len(region.failures) + len(region.learned))
    if share < PURE.of(study):
        text = f"No sharp edge: {formatting.percent(1 - share)} of the trials with {region.text} train well."
        return finding(FINE, text, _figures(region))
    return _at_the_edge(study, region)


def _no_edge(study: Study, rate: Hyperparameter) -> tuple[str, str]:
    """Returns a verdict and an answer where the failures are not shown to be large learning rates.

    Only where something shows that they are others, it is fine: those with small ones, or with no larger ones
    than the trials that train.
    """
    others = infeasible_region.find(study, rate.name, LOW)
    failed, trained = (
        [u for t in trials if not math.isnan(u := rate.unit(t.parameters.get(rate.name)))]
        for trials in (study.failures, study.learned)
    )
    larger = trained and failed and statistics.fmean(failed) > statistics.fmean(trained)
    if others is not None or not larger:
        return FINE, "The trials that fail are not clearly those with large learning rates."
    number = formatting.plural(len(study.failures), "trial that fails", "trials that fail")
    text = f"Whether {number} do so by large learning rates cannot be told from so few."
    return CANNOT_TELL, text


def _at_the_edge(study: Study, region: Region) -> Finding:
    below = [t for t in study.learned if t not in region.learned]
    if not below:
        return _finding(CANNOT_TELL, f"No trial below {region.text} trains well.")
    unlearned = any(t.state != trial_lib.INFEASIBLE for t in region.failures)
    fails = "fails" if unlearned else "diverges"
    best, label, field = below[0], region.direction.label, boundary_clustering.Field(study, below)
    crowd = field.crowd(region.direction, region.cut, 0.0)
    place = region.direction.place(best.parameters)
    factor = 10 ** ((region.cut - place) * region.direction.decades)
    verdict = _judge(study, region, place, crowd)
    # Where the best lies there, and the few that there are could not show more, nothing is fine.
    short = verdict == FINE and boundary_clustering.least_chance(len(below)) > CHANCE.of(study)
    evidence = [
        formatting.sentence(
            f"{formatting.share(len(region.failures), len(region.failures) + len(region.learned))} "
            f"trials with {region.text} are infeasible{' or learned nothing' if unlearned else ''}; "
            f"{len(below)} below it train well"
        ),
        f"The best of these, trial {best.number}, has {label} {region.direction.show(place)}"
        + (
            f": training {fails} at {formatting.number(factor, 2)} times that."
            if factor > 1
            else "."
        ),
    ]
    if crowd is not None:
        lie = (
            f"best {crowd.few} lie {formatting.percent(crowd.depth)} of the way below the edge (median). "
            "Drawn at random, as many lie so close to it with probability "
            f"{formatting.probability(crowd.chance)}."
        )
        taken_out = "With the effects of other hyperparameters taken out, the "
        evidence.append(f"{taken_out if field.adjusted else 'The '}{lie}")
    if short and factor <= NEARLY.of(study):
        text = f"Whether the best trials lie right below {region.text} cannot be told from {len(below)}."
        return _finding(CANNOT_TELL, text, evidence, figures=_figures(region))
    answers = {
        ACT: f"The best trials lie right below where training {fails} ({region.text}).",
        LOOK: f"The best trials may lie right below where training {fails} ({region.text}).",
        FINE: f"The best trials keep away from where training {fails} ({region.text}).",
    }
    trials = (best.number, *(t.number for t in region.failures))
    action, proposals = "", ()
    if verdict in (ACT, LOOK):
        action, proposals = _mend(study), stability_fixes.propose(study, region, _on(study))
    return _finding(
        verdict, answers[verdict], evidence, action, trials, proposals, _figures(region)
    )


def _judge(study: Study, region: Region, place: float, crowd: Crowd | None) -> str:
    """Returns ACT, LOOK or FINE for a best trial at `place` and the best few around it.

    They are near if the best trial is, or the median of the best few: of one trial alone, other
    hyperparameters may make the best anywhere.
    """
    if crowd is not None:
        place = max(place, (1 - crowd.depth) * region.cut)
    decades = region.direction.decades
    if decades:
        away, near, nearly = (
            (region.cut - place) * decades,
            math.log10(NEAR.of(study)),
            math.log10(NEARLY.of(study)),
        )
    else:
        away, near, nearly = (
            (region.cut - place) / region.cut,
            NEAR_PART.of(study),
            NEARLY_PART.of(study),
        )
    chance = 1.0 if crowd is None else crowd.chance
    if away <= near and chance <= CHANCE.of(study):
        return ACT
    return LOOK if away <= nearly and chance <= WEAK_CHANCE.of(study) else FINE


def _mend(study: Study) -> str:
    """Returns what to try, from what the study does not have yet."""
    ways = {
        (): "learning rate warmup, or gradient clipping at the 90th percentile of the gradient norms",
        ("clip_norm",): "learning rate warmup (gradients are clipped already)",
        ("warmup_steps",): (
            "gradient clipping at the 90th percentile of the gradient norms (there is warmup already)"
        ),
        (
            "clip_norm",
            "warmup_steps",
        ): "longer warmup, a lower clipping threshold, or another optimizer",
    }
    return (
        f"Try {ways[tuple(sorted(_on(study)))]}, so that larger learning rates become possible; do not just "
        "search smaller ones."
    )


def _on(study: Study) -> set[str]:
    """Returns which remedies the study has already."""
    return {
        name
        for name in ("warmup_steps", "clip_norm")
        if study.varying(f"hparams.{name}")
        or study.base(f"hparams.{name}")
        or study.specification.get("fixed", {}).get(f"hparams.{name}")
    }


def _figures(region: Region) -> tuple[str, ...]:
    return tuple(f"axis-{name}" for name in region.direction.names)


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "Any model diverges at some learning rate. It matters when the best learning rate is right "
        "below that: then mending the instability is likely to train better. Warmup helps against "
        "early instability, clipping against early and late; a lower learning rate is the last "
        "resort. To check, look at the training loss at 5 or 10 times the best learning rate: a "
        "sudden rise after a steady fall is the sign."
    ),
    open_question=(
        "Clipping during warmup, adaptive thresholds, and whether Adam handles what momentum "
        "cannot, the playbook leaves open."
    ),
    playbook=PLAYBOOK,
).finding
