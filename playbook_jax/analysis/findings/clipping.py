"""How many of the updates does gradient clipping touch?"""

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study, Trial
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, Finding, Question
from playbook_jax.analysis.stats import stability_fixes

ORDER = 16

AGGRESSIVE = Threshold(
    "clipping.aggressive",
    0.5,
    0,
    1,
    'the playbook: "more than 50% of the updates getting clipped somehow" is extremely aggressive',
)
PERCENTILE = 90  # of the gradient norms: "a good starting point" for the threshold

QUESTION = "Is gradient clipping extremely aggressive?"
SECTION = "Gradient clipping"
PLAYBOOK = ("aggressive-clipping", "clip-at-the-90th-percentile")
FIGURES = ("gradient-norm-histogram",)


def check(study: Study) -> list[Finding]:
    """Returns whether the best trials have more than half of their updates clipped.

    Source: playbook, "Gradient clipping": extremely aggressive clipping is a strange way of reducing the
    learning rate, and that should be reduced instead; the threshold is chosen at the 90th percentile.
    """
    leaders = study.contenders
    if not leaders:
        return [_finding(CANNOT_TELL, "No trial is complete.")]
    trials = [t for t in leaders if threshold(study, t) > 0]
    if not trials:
        return [_finding(FINE, "The best trials do not clip gradients.", _norms(leaders[:1]))]
    known = [t for t in trials if t.records.clipped_fraction is not None]
    if not known:
        return [_finding(CANNOT_TELL, "It was not recorded how many updates were clipped.")]
    told = [
        f"{formatting.percent(t.records.clipped_fraction)} in trial {t.number} (clip_norm "
        f"{formatting.value(threshold(study, t))})"
        for t in known
    ]
    evidence = [formatting.sentence(f"Updates clipped: {'; '.join(told)}"), *_norms(known[:1])]
    above = [t for t in known if t.records.clipped_fraction > AGGRESSIVE.of(study)]
    if not above:
        text = "Of the best trials, none has more than half of its updates clipped."
        return [_finding(FINE, text, evidence)]
    best = above[0] is study.best
    names = formatting.trials([t.number for t in above])
    verb = "has" if len(above) == 1 else "have"
    text = f"{formatting.sentence(names)[:-1]} {verb} more than half of the updates clipped."
    action = (
        "Cut the learning rate instead: such clipping does little else. Or try a threshold just above the "
        "typical norm"
    )
    at = known[0].records.percentiles.get(PERCENTILE)
    if at is not None:
        action += f", {formatting.number(at, 2)}"
    # One of the best few may be clipped so by luck: it takes most of them.
    most = best and 2 * len(above) > len(leaders)
    verdict = ACT if most else LOOK
    proposals = stability_fixes.clip_less(study, above[0]) if most else ()
    numbers = tuple(t.number for t in above)
    return [_finding(verdict, text, evidence, f"{action}.", numbers, proposals)]


def threshold(study: Study, trial: Trial) -> float:
    """Returns the norm to which a trial's gradients are clipped; 0 for none."""
    value = study.value(trial, "hparams.clip_norm", 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _norms(trials: list[Trial]) -> list[str]:
    told = []
    for trial in trials:
        percentiles = trial.records.percentiles
        if PERCENTILE in percentiles:
            told.append(
                f"Trial {trial.number}, the best: the 90th percentile of its gradient norms, a threshold "
                f"to begin with, is {formatting.number(percentiles[PERCENTILE])}"
                + (
                    f" (median {formatting.number(percentiles[50])}, largest "
                    f"{formatting.number(percentiles[100])})."
                    if {50, 100} <= set(percentiles)
                    else "."
                )
            )
    return told


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "More than half of the updates clipped is extremely aggressive, and in essence a strange way "
        "of reducing the learning rate. A threshold at the 90th percentile of the norms is where to "
        "begin; if an instability remains, clip harder."
    ),
    open_question="Adaptive thresholds, and clipping during warmup, the playbook leaves open.",
    figures=FIGURES,
    playbook=PLAYBOOK,
).finding
