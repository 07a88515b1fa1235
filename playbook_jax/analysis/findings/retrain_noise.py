"""By how much does a trial scatter where it is trained again, and do the trials differ by more?"""

import math

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import CANNOT_TELL, FINE, LOOK, Finding, Question, late_variance
from playbook_jax.analysis.reports import commands
from playbook_jax.analysis.stats import replicates as statistics

ORDER = 33  # before the good region, whose size it tells

ALIKE = Threshold(
    "retrain_noise.alike",
    1.0,
    0,
    100,
    "the better half of the trials differ by no more than retraining does if their standard "
    "deviation is this part of its: of equal trials that half is 0.6 apart, and ten runs know "
    "the noise to a quarter",
)

QUESTION = "How large is the retrain noise?"
SECTION = "Determining whether to adopt a training pipeline change or hyperparameter configuration"
PLAYBOOK = ("retrain-noise-in-the-report", "trial-variance")
FIGURES = ("best-of-k",)


def check(study: Study) -> list[Finding]:
    """Returns how far apart runs of one configuration are, and whether trials are further.

    Source: playbook, "Determining whether to adopt…": the trial variance, from runs with other seeds, is what
    a difference has to be above; replicates are run for the best trial at most.
    """
    if study.is_replicates:
        return [_of_replicates(study)]
    if study.best is None:
        return [_finding(CANNOT_TELL, "No trial is complete.")]
    noise = study.retrain
    if noise is None:
        command = " ".join(commands.replicate(study)).partition(" --baseline")[0]
        return [
            _finding(
                CANNOT_TELL,
                f"No replicates: the retrain noise is not known; {command} measures it.",
            )
        ]
    metric = study.metric
    number = len(noise.objectives)
    answer = (
        f"Trained again, {noise.name} scatters by {formatting.metric(metric, noise.sd)} "
        f"(standard deviation of {number} runs)."
    )
    evidence = [_known(study, noise.spread), *_luck(study)]
    if len(study.drawn.ranked) >= late_variance.FEWEST.of(study):
        between = late_variance.between(study.drawn)
        times = formatting.number(between / noise.sd, 2) if noise.sd else "many"
        evidence.append(
            f"The better half of the {len(study.drawn.ranked)} complete trials lie "
            f"{formatting.metric(metric, between)} apart (standard deviation): {times} times the noise."
        )
    if not alike(study):
        return [_finding(FINE, answer, evidence)]
    text = f"{answer[:-1]}: the better half of the trials differ no more, and their order is luck."
    action = (
        "Choose among them by something else, as the cheaper or the simpler; or run the best few with "
        "several seeds each."
    )
    return [_finding(LOOK, text, evidence, action)]


def alike(study: Study) -> bool:
    """Says whether the better trials differ no more than runs of one configuration do."""
    if study.retrain is None or len(study.drawn.ranked) < late_variance.FEWEST.of(study):
        return False
    return late_variance.between(study.drawn) <= ALIKE.of(study) * study.retrain.sd


def within(study: Study, difference: float, noises: float) -> bool:
    """Says whether a difference is known to be within so many standard deviations of the retrain noise."""
    return study.retrain is not None and difference <= noises * study.retrain.sd


def _of_replicates(study: Study) -> Finding:
    """Returns the answer of a study whose trials are runs of one configuration."""
    values = study.costs(study.ranked)
    spread = statistics.spread(values)
    failed = len(study.of_state(trial_lib.INFEASIBLE))
    unlearned = len(study.failures) - failed
    if spread is None:
        runs = formatting.plural(len(values), "complete run")
        return _finding(CANNOT_TELL, f"{runs} of one configuration: it takes two to see a scatter.")
    mean = abs(statistics.mean(values))
    low, high = sorted(
        formatting.metric(study.metric, abs(float(v))) for v in (values.min(), values.max())
    )
    text = (
        f"These {formatting.count(len(values))} trials are runs of one configuration, which differ by their "
        f"seeds: {formatting.metric(study.metric, mean)} on average, and they scatter by "
        f"{formatting.metric(study.metric, spread.sd)} (standard deviation)."
    )
    evidence = [_known(study, spread), f"They come to {low} to {high}."]
    if failed:
        evidence.append(f"Besides, {formatting.plural(failed, 'run')} failed: in no mean.")
    if unlearned:
        evidence.append(
            f"Among them are {formatting.plural(unlearned, 'run')} that learned nothing."
        )
    if failed or unlearned:
        action = "Make it stable first, by warmup or gradient clipping: some of its seeds fail."
        return _finding(LOOK, text, evidence, action)
    return _finding(FINE, text, evidence)


def _known(study: Study, spread: statistics.Spread) -> str:
    low, high = (formatting.metric(study.metric, end) for end in (spread.low, spread.high))
    return f"So few runs tell that deviation to within {low} to {high} (90{formatting.NO_BREAK}% interval)."


def _luck(study: Study) -> list[str]:
    """Returns how the trial's result in the study compares with what it comes to on average."""
    noise = study.retrain
    trial = next((t for t in study.trials if t.number == noise.trial), None)
    if trial is None:
        return [f"They are of another study ({noise.workdir})."]
    sign = -1 if study.maximize else 1
    luck = sign * (noise.mean - trial.objective)
    told = "better" if luck > 0 else "worse"
    by = (
        f", {told} by {formatting.metric(study.metric, abs(luck))}"
        if not math.isclose(luck, 0)
        else ""
    )
    return [
        f"On average they come to {formatting.metric(study.metric, noise.mean)}; in the study it came to "
        f"{formatting.metric(study.metric, trial.objective)}{by}."
    ]


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "The same configuration trained twice does not come to the same: a difference between trials counts "
        "only if it is above that."
    ),
    figures=FIGURES,
    playbook=PLAYBOOK,
).finding
