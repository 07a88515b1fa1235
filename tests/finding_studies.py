"""Random studies in which it is known what a check has to find: for tests and the benchmark.

A case makes one study from a random generator, a number of trials, and whether the effect is there. An
effect is three times the noise, where there is noise.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from playbook_jax.analysis import findings
from playbook_jax.analysis.data import step_records, study as study_lib
from tests import synthetic_study as synthetic

RATE = "hparams.learning_rate"
ONE = {RATE: synthetic.LEARNING_RATE}
STEPS = 1000
EVALUATIONS = 40
NOISE = 0.002  # of an evaluation; error rates are around 0.1


@dataclasses.dataclass(frozen=True)
class Case:
    """A check and the studies that try it.

    Attributes:
      name: what is looked for.
      check: the check.
      make: (generator, number of trials, whether the effect is there) → study.
      alarm: the verdicts that count as having found it.
    """

    name: str
    check: Callable[[study_lib.Study], list[findings.Finding]]
    make: Callable[[np.random.Generator, int, bool], study_lib.Study]
    alarm: tuple[str, ...] = (findings.ACT, findings.LOOK)
    says: str = ""  # words of the answer, where a check looks for several things

    def fires(self, rng: np.random.Generator, trials: int, there: bool) -> bool:
        """Says whether the check finds the effect in a random study."""
        found = self.check(self.make(rng, trials, there))
        return any(f.verdict in self.alarm and self.says in f.answer for f in found)


def rates(case: Case, trials: int, studies: int, seed: int = 0) -> tuple[float, float]:
    """Returns the fraction of false alarms and of misses over so many random studies each."""
    rng = np.random.default_rng([seed, trials])
    alarms = np.mean([case.fires(rng, trials, False) for _ in range(studies)])
    return float(alarms), 1 - float(
        np.mean([case.fires(rng, trials, True) for _ in range(studies)])
    )


def plain(text):
    """A text of a finding, its spaces all alike."""
    return text.replace("\u00a0", " ")


def study(rows, spaces=ONE, **options):
    """A study of trials of STEPS steps."""
    rows = [{"at": [0.5] * len(spaces), "step": STEPS} | row for row in rows]
    return synthetic.made(rows, spaces=spaces, **options)


def two_values(gain, n=30):
    """A study of which the second of two values costs so much more."""
    rng = np.random.default_rng(1)
    rows = [
        {"at": [i % 2], "objective": float(0.2 + 0.01 * rng.random() + gain * (i % 2))}
        for i in range(n)
    ]
    name = "model.norm_order"
    return synthetic.made(rows, spaces={name: {"values": ["pre", "post"]}}, scientific=(name,))


def falling(rng, level, end=EVALUATIONS, *, tail=0.0, noise=NOISE):
    """A curve that falls to `level` and is flat but for its noise; `tail` is added linearly from half on."""
    t = np.arange(1, end + 1) / end
    return (
        level
        + 0.5 * np.exp(-12 * t)
        + tail * np.clip(2 * t - 1, 0, 1)
        + noise * rng.normal(size=end)
    )


def straight(level=0.1, *, rise=0.0, lowest=20, noise=0.0, seed=0):
    """Falls in a straight line to `level` at an index, then rises by `rise` until the end."""
    i = np.arange(EVALUATIONS)
    down = 0.5 * np.clip(lowest - i, 0, None) / lowest
    up = rise * np.clip(i - lowest, 0, None) / (EVALUATIONS - 1 - lowest)
    return level + down + up + noise * np.random.default_rng(seed).normal(size=EVALUATIONS)


def trial(rng, validation, train=None, **changes):
    """A complete trial with these curves."""
    steps = np.linspace(STEPS / len(validation), STEPS, len(validation)).round()
    best = int(np.argmin(validation))
    evaluations = {"step": steps, "validation/error_rate": validation}
    if train is not None:
        evaluations["train/error_rate"] = train
    return {
        "objective": float(validation[best]),
        "best_step": int(steps[best]),
        "evaluations": evaluations,
    } | changes


def records(loss, norm, clipped=None):
    """The records of steps with these losses and gradient norms, as a summary has them."""
    from playbook_jax import trial as trial_lib
    from playbook_jax.tracking import run_summary

    rows = np.stack([loss, norm, norm, norm, norm], axis=1)
    curves = run_summary._thin_records(rows, trial_lib.STEP_COLUMNS)
    finite = norm[np.isfinite(norm)]
    return step_records.StepRecords(
        {name: np.array(values, float) for name, values in curves.items() if name in _CURVES},
        {p: float(np.percentile(finite, p)) for p in trial_lib.PERCENTILES},
        *_histogram(finite),
        clipped,
        {"loss": np.asarray(loss, float), "gradient_norm": np.asarray(norm, float)},
    )


_CURVES = ("step", "loss", "gradient_norm", "gradient_norm_max")


def _histogram(norms):
    counts, edges = np.histogram(np.log10(norms[norms > 0]), bins=40)
    return edges, counts.astype(float)


# --- Overfitting ---


def overfitting(rng, trials, there):
    """Validation rises again by three times its noise, in all trials; or is flat."""
    levels = 0.1 + 0.05 * rng.random(trials)
    rows = []
    for level in levels:
        validation = falling(rng, level, tail=3 * NOISE * there)
        rows.append(trial(rng, validation, falling(rng, level / 2, tail=-0.01)))
    return study(rows)


def overfitting_of_others(rng, trials, there):
    """The better half is flat, a third of the others rise."""
    rows = []
    for i in range(trials):
        tail = 6 * NOISE if there and i >= trials // 2 and i % 3 == 0 else 0
        level = 0.1 + 0.002 * i
        rows.append(trial(rng, falling(rng, level, tail=tail), falling(rng, level / 2)))
    return study(rows)


# --- The other curves ---


def late_variance(rng, trials, there, **options):
    """Late scatter is three times what it is else: as large as the better trials differ, or a third."""
    noise = NOISE * (3 if there else 1)
    # The better half is then uniform over 6 √3 × NOISE, of standard deviation 3 × NOISE.
    costs = np.sort(rng.uniform(0, 12 * np.sqrt(3) * NOISE, trials))
    return study([trial(rng, falling(rng, 0.1 + cost, noise=noise)) for cost in costs], **options)


def constant_rate(rng, trials, there):
    """The same, and the learning rate is constant in both."""
    return late_variance(rng, trials, there, base={"schedule": "constant"})


def still_improving(rng, trials, there):
    """The last fifth is better than the one before by three times the noise; or both are equal."""
    rows = []
    for _ in range(trials):
        # Falling linearly over the second half by 7.5 σ: from one fifth to the next by 3 σ.
        validation = falling(rng, 0.1 + 0.05 * rng.random(), tail=-7.5 * NOISE * there)
        rows.append(trial(rng, validation))
    return study(rows, base={"schedule": "constant"})


def saturated(rng, trials, there):
    """Curves are flat from a quarter of the run on; or fall by three times the noise after that."""
    rows = []
    t = np.arange(1, EVALUATIONS + 1) / EVALUATIONS
    late = 3 * NOISE * np.clip((0.7 - t) / 0.3, 0, 1) * (not there)  # from 40 to 70 % of the run
    for _ in range(trials):
        level = 0.1 + 0.05 * rng.random()
        validation, train = (
            level * part + np.exp(-20 * t) / 2 + late + NOISE * rng.normal(size=EVALUATIONS)
            for part in (1, 0.5)
        )
        rows.append(trial(rng, validation, train))
    return study(rows, base={"schedule": "constant"})


def rising_loss(rng, trials, there):
    """The loss of all trials ends above its lowest by three times its noise; or stays there."""
    rows = []
    for _ in range(trials):
        t = np.arange(STEPS) / STEPS
        # The noise of a curve's value, the mean of five steps, is 0.1 / √5; the tail is three times 0.1.
        tail = 0.3 * np.clip(2 * t - 1, 0, 1) * there
        loss = 0.3 + 2 * np.exp(-12 * t) + tail + 0.1 * rng.normal(size=STEPS)
        rows.append(trial(rng, falling(rng, 0.1), records=records(loss, np.ones(STEPS))))
    return study(rows)


def periodic(rng, trials, there):
    """Validation goes up and down by three times its noise, with the same period in all trials.

    In all of them curves bend somewhere by up to ten times the noise, which is no period.
    """
    rows, period = [], rng.uniform(2.5, 8)
    phase = rng.uniform(0, 2 * np.pi)
    t = np.arange(EVALUATIONS)
    wave = 3 * NOISE * np.sin(2 * np.pi * t / period + phase) * there
    for _ in range(trials):
        bend = np.abs(t - rng.uniform(0.3, 0.9) * EVALUATIONS) * rng.uniform(-1, 1) * NOISE / 2
        rows.append(trial(rng, falling(rng, 0.1 + 0.05 * rng.random()) + wave + bend))
    return study(rows)


def not_fit(rng, trials, there):
    """Training has 95 % of the error of validation, or 50 %."""
    rows = []
    for _ in range(trials):
        level = 0.1 + 0.05 * rng.random()
        train = falling(rng, level * (0.95 if there else 0.5), noise=3 * NOISE)
        rows.append(trial(rng, falling(rng, level), train))
    return study(rows)


# --- What was recorded at each step ---


def recorded(rng, trials, make):
    """A study whose best few trials have records of every step: `make` gives losses and norms."""
    rows = []
    for i in range(trials):
        known = records(*make()) if i < study_lib.LEADERS else step_records.StepRecords()
        rows.append({"objective": 0.1 + 0.01 * i, "best_step": STEPS, "records": known})
    return study(rows)


def steps(rng, length=STEPS):
    """Losses and gradient norms of an ordinary run."""
    t = np.arange(length) / length
    loss = (0.3 + 2 * np.exp(-8 * t)) * rng.lognormal(0, 0.1, length)
    return loss, (0.5 + 3 * np.exp(-8 * t)) * rng.lognormal(0, 0.4, length)


def spikes(rng, trials, there):
    """In the middle of a run a gradient is far off and the loss rises; or norms are log-normal.

    Both are by three times what they reach by scatter alone in a run: 90th percentile to largest.
    """

    def make():
        loss, norm = steps(rng)
        if there:
            at = rng.integers(STEPS // 10, STEPS - 50)
            block = norm[at - 25 : at + 25]
            norm[at] = np.percentile(block, 90) * (block.max() / np.percentile(block, 90)) ** 3
            norm[at] = max(norm[at], 3 * block.max())
            loss[at + 1 : at + 20] += 0.3 * 10 * loss[at] * np.exp(-np.arange(19) / 8)
        return loss, norm

    return recorded(rng, trials, make)


def early(rng, trials, there):
    """The loss rises by 60 % within the first steps and recovers by step 35 or so; or falls at once.

    Scatter of 10 % makes it seem to rise by 20 % in 500 steps, smoothed.
    """

    def make():
        loss, norm = steps(rng)
        bump = np.exp(-0.5 * ((np.arange(STEPS) - 15) / 6) ** 2)
        return loss + 0.8 * loss[0] * bump * there, norm

    return recorded(rng, trials, make)


def clipped(rng, trials, there):
    """60 % of the updates are clipped, or 40 %, as far as 1,000 steps tell; the best trial is any."""
    rows = []
    for i in range(trials):
        fraction = rng.binomial(STEPS, 0.6 if there else 0.4) / STEPS
        rows.append(
            {
                "objective": 0.1 + 0.01 * i,
                "records": step_records.StepRecords(clipped_fraction=fraction),
            }
        )
    return study(rows, base={"hparams": {"clip_norm": 1.0}})


def waiting(rng, trials, there):
    """Trials wait for 15 % of the time or 5 %, each with a standard deviation of 3 points."""
    rows = []
    for i in range(trials):
        wait = float(np.clip((0.15 if there else 0.05) + 0.03 * rng.normal(), 0, 1))
        timing = {"input_wait": wait, "examples_per_second": 1e4}
        rows.append({"objective": 0.1 + 0.01 * i, "timing": timing})
    return study(rows)


# --- The number of trials ---

# What twice as many trials gain on average in a bowl of four dimensions, 8 Σ (u − 1/2)², by simulation.
GAIN = {20: 0.19, 100: 0.095}


def sparse(rng, trials, there):
    """Twice as many trials would gain three times the noise; or a fifth of it."""
    scale = (3 if there else 1 / 5) * NOISE / GAIN[trials]
    costs = scale * 8 * ((rng.random((trials, 4)) - 0.5) ** 2).sum(axis=1)
    return study([trial(rng, falling(rng, 0.1 + cost)) for cost in costs])
