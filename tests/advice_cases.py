"""Random studies with a known truth in which advice has been wrong: for tests and the benchmark.

Each case makes a study from a generator and a number of trials, and says of the findings' decisions whether
they are
wrong: a feature is removed or a hyperparameter fixed that is needed, a bound lies where everything fails, a
finding asks for what the decision refuses.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.data.proposals import NARROW, SET
from playbook_jax.analysis.findings import (
    ACT,
    CANNOT_TELL,
    LOOK,
    Finding,
    boundary,
    features,
    infeasible,
    instability,
    sensitivity,
    works,
)
from playbook_jax.analysis.reports import next_draft
from playbook_jax.analysis.stats import decisions, gains
from playbook_jax.analysis.stats.decisions import CUT, FIX, REMOVE, Decision
from tests import finding_cases, synthetic_study as synthetic
from tests.finding_cases import sampled

RATE, MOMENTUM, DECAY, CLIP = synthetic.FOUR
THREE = {RATE: synthetic.LEARNING_RATE, MOMENTUM: synthetic.MOMENTUM, DECAY: synthetic.WEIGHT_DECAY}
WIDE_RATE = {"scale": "log", "low": 1e-2, "high": 100.0, "type": "float"}
QUICKSTART = {
    RATE: WIDE_RATE,
    MOMENTUM: {"scale": "one_minus_log", "low": 0.5, "high": 0.99, "type": "float"},
    DECAY: synthetic.WEIGHT_DECAY,
    CLIP: synthetic.CLIP_NORM,
}
CHECKS = (instability, infeasible, works, boundary, sensitivity, features)


@dataclasses.dataclass(frozen=True)
class Advice:
    """A way in which advice can be wrong, and the studies that try it.

    Attributes:
      name: what is wrong.
      make: (generator, number of trials) → study.
      wrong: whether the advice on the study is.
      goal: the part of the studies in which it may be.
    """

    name: str
    make: Callable[[np.random.Generator, int], study_lib.Study]
    wrong: Callable[[study_lib.Study], bool]
    goal: float = 0.05


def rate(case: Advice, trials: int, studies: int, seed: int = 0) -> float:
    """Returns in which part of so many studies the advice is wrong."""
    rng = np.random.default_rng([seed, trials, 7])
    return float(np.mean([case.wrong(case.make(rng, trials)) for _ in range(studies)]))


def advised(study: study_lib.Study) -> tuple[list[Finding], tuple[Decision, ...]]:
    """What the findings say and decide that speak of the search space."""
    found = [finding for check in CHECKS for finding in check.check(study)]

    return decisions.worded(study, found), next_draft.decided(study, found)


def can_go(study: study_lib.Study, name: str) -> bool:
    """Says whether a hyperparameter is told to be of no use, or decided to be removed."""
    found, table = advised(study)
    label = name.removeprefix("hparams.")
    told = any(label in f.answer.split(" can go:")[0] for f in found if " can go:" in f.answer)
    return told or any(d.name == name and d.kind == REMOVE for d in table)


def can_be_fixed(study: study_lib.Study, name: str, lost: Callable[[float], float]) -> bool:
    """Says whether a hyperparameter is fixed where more is lost, from its place, than is worth having."""
    found, _ = advised(study)
    axis = next(h for h in study.hyperparameters if h.name == name)
    values = [
        p.value for f in found for p in f.proposals if (p.kind, p.name) == (SET, name) and p.value
    ]
    return any(lost(axis.unit(value)) > gains.WORTH.default for value in values)


# --- Clipping moves the edge above which training fails ---


def clipping_moves_the_edge(rng, trials):
    """As the quickstart: clipping does nothing for what trains, and decides what does."""
    units = sampled(rng, trials, QUICKSTART)
    rows = []
    for u in units:
        log_rate, log_clip = -2 + 4 * u[0], -1 + 2 * u[3]
        effective = log_rate + min(log_clip, 0.0)
        cost = 3 * (log_rate - 0.3) ** 2 / 4 + 2 * (u[1] - 0.5) ** 2
        bad = effective > 0.1 + 0.15 * rng.normal()
        loss = float(0.02 * np.exp(cost + 0.3 * rng.normal()))
        rows.append({"at": u, "objective": None if bad else loss})
    return synthetic.made(rows, spaces=QUICKSTART)


# --- Effects beside a much larger one ---


def beside(shape, gain, times=30):
    """Weight decay gains so many times the noise, beside a learning rate whose effect is 30 times it."""

    def make(rng, trials):
        units = sampled(rng, trials, THREE)
        costs = 100 + times * shape(units[:, 0]) - gain * units[:, 2] + rng.normal(size=trials)
        rows = [{"at": u, "objective": float(c)} for u, c in zip(units, costs, strict=True)]
        return synthetic.made(rows, spaces=THREE, metric="validation/loss")

    return make


def straight(u):
    return u


def bowl(u):
    return 4 * (u - 0.5) ** 2


def cliff(u):
    return np.clip(u - 0.6, 0, None) / 0.4


# --- Bounds where everything fails ---


def all_fail_above(rng, trials):
    """Everything fails above an edge, and the best lie below it, anywhere."""
    edge, best = rng.uniform(0.45, 0.85), rng.uniform(0.1, 0.8)
    units = sampled(rng, trials, synthetic.FOUR)
    costs = 8 * ((units - [best, 0.5, 0.5, 0.5]) ** 2).sum(axis=1)
    costs += finding_cases.BOWL * rng.normal(size=trials)
    rows = [
        {"at": u, "objective": None if u[0] > edge else float(0.02 * np.exp(c))}
        for u, c in zip(units, costs, strict=True)
    ]
    return synthetic.made(rows, spaces=synthetic.FOUR)


def fail_on_both_sides(rng, trials):
    """Too small rates end where they began, too large ones diverge; what trains is in between."""
    low, high = rng.uniform(0.15, 0.3), rng.uniform(0.6, 0.8)
    units = sampled(rng, trials, synthetic.FOUR)
    costs = 8 * ((units - [(low + high) / 2, 0.5, 0.5, 0.5]) ** 2).sum(axis=1)
    rows = []
    for u, c in zip(units, costs, strict=True):
        value = 0.9 if u[0] < low else float(0.02 * np.exp(c / 4 + 0.3 * rng.normal()))
        rows.append(
            {"at": u, "objective": None if u[0] > high else value, "unlearned": bool(u[0] < low)}
        )
    return synthetic.made(rows, spaces=synthetic.FOUR)


def beyond_the_last(study: study_lib.Study) -> bool:
    """Says whether a recommended bound lies beyond the last trial that trained, others failing there."""
    found, table = advised(study)
    bounds = [(p.name, p.side, p.value) for f in found for p in f.proposals if p.kind == NARROW]
    bounds = [
        (name, end, v)
        for name, side, value in bounds
        for end, v in (zip(("low", "high"), value, strict=True) if not side else [(side, value)])
    ]
    decided = {d.name for d in table if d.kind == CUT}
    return any(_beyond(study, name, side, value) for name, side, value in bounds if name in decided)


def _beyond(study: study_lib.Study, name: str, side: str, value: float) -> bool:
    axis = next(h for h in study.hyperparameters if h.name == name)
    if value == axis.bound(side):
        return False
    turn = -1 if side == "low" else 1
    trained = max(turn * axis.unit(t.parameters[name]) for t in study.learned)
    failed = any(turn * axis.unit(t.parameters[name]) > trained for t in study.failures)
    return failed and turn * axis.unit(value) > trained + 1e-9


def not_narrowed_on_both_sides(study: study_lib.Study) -> bool:
    """Says whether an end in which everything fails is left in the next study."""
    _, table = advised(study)
    made = next_draft.draft(study, advised(study)[0]).roles["nuisance"][RATE]
    axis = next(h for h in study.hyperparameters if h.name == RATE)
    inside = [axis.unit(t.parameters[RATE]) for t in study.learned]
    low, high = axis.unit(made["low"]), axis.unit(made["high"])
    sure = any(d.name == RATE and d.sure and d.kind == CUT for d in table)
    return not sure or low < min(inside) - 0.1 or high > max(inside) + 0.1


# --- Contradictions ---


def contradicts(study: study_lib.Study) -> bool:
    """Says whether a finding asks for what is refused, or two decisions are of one hyperparameter."""
    found, table = advised(study)
    names = [d.name for d in table]
    if len(names) != len(set(names)):
        return True
    refused = [text.partition(": decided")[0] for d in table for text in d.refused]
    kept = {d.name for d in table if d.kind not in (FIX, REMOVE)}
    gone = any(
        f"Set {name.removeprefix('hparams.')} to" in f.action for f in found for name in kept
    )
    return gone or any(text in f.action for text in refused for f in found)


def both_and_all(rng, trials):
    """Any of the others: failures, effects and useless features."""
    makers = (clipping_moves_the_edge, all_fail_above, fail_on_both_sides, beside(straight, 3))
    return makers[rng.integers(len(makers))](rng, trials)


# --- Few points: Figure 7a ---


def two_highest_of_eight(rng, _):
    """A grid of 8 learning rates of which the two highest fail, the best right below these."""
    rows = [
        {
            "at": [(i + 0.5) / 8],
            "objective": None if i >= 6 else 0.5 - 0.05 * i + 0.01 * rng.random(),
        }
        for i in range(8)
    ]
    return synthetic.made(rows, spaces={RATE: synthetic.LEARNING_RATE})


def called_fine(study: study_lib.Study) -> bool:
    """Says whether instability is called fine."""
    return all(f.verdict not in (ACT, LOOK, CANNOT_TELL) for f in instability.check(study))


# --- What is no use is still recognised ---


def harmless_stays(study: study_lib.Study) -> bool:
    """Says whether a weight decay that does nothing is not recognised."""
    return not can_go(study, DECAY)


# --- The worse half of a wide study ---


def wide(rng, trials):
    """A wide study: the error grows exponentially in a bowl of four dimensions, and nothing fails."""
    units = sampled(rng, trials, synthetic.FOUR)
    costs = 8 * ((units - rng.uniform(0.3, 0.7, 4)) ** 2).sum(axis=1) + 0.3 * rng.normal(
        size=trials
    )
    rows = [
        {"at": u, "objective": float(min(0.9, 0.02 * math.exp(c)))}
        for u, c in zip(units, costs, strict=True)
    ]
    return synthetic.made(rows, spaces=synthetic.FOUR)


def one_at_chance(rng, trials):
    """Trials at 1 to 5 % error, and one at 48 %."""
    units = sampled(rng, trials, synthetic.FOUR)
    values = 0.023 * np.exp(0.35 * rng.normal(size=trials))
    values[rng.integers(trials)] = 0.48
    rows = [{"at": u, "objective": float(v)} for u, v in zip(units, values, strict=True)]
    return synthetic.made(rows, spaces=synthetic.FOUR)


CASES = (
    Advice(
        "clipping can go though it moves the edge",
        clipping_moves_the_edge,
        lambda s: can_go(s, CLIP) or can_be_fixed(s, CLIP, lambda u: math.inf),
    ),
    *(
        Advice(
            f"a gain of 3 noises can go beside a {s.__name__} one of 30",
            beside(s, 3),
            lambda s: can_go(s, DECAY) or can_be_fixed(s, DECAY, lambda u: 3 * (1 - u)),
        )
        for s in (straight, bowl, cliff)
    ),
    Advice("a bound where everything fails", all_fail_above, beyond_the_last, 0.0),
    Advice("the same, failures on both sides", fail_on_both_sides, beyond_the_last, 0.0),
    Advice(
        "an end that fails is not left out", fail_on_both_sides, not_narrowed_on_both_sides, 0.10
    ),
    Advice("findings contradict the decision", both_and_all, contradicts, 0.0),
    Advice("two highest of 8 rates fail: fine", two_highest_of_eight, called_fine, 0.0),
    Advice("a wide study has outliers", wide, lambda s: bool(s.failures)),
    Advice("one trial at 48 % is not seen", one_at_chance, lambda s: not s.failures),
)
# What is of no use beside an effect of 30 times the noise: no goal, for 20 trials cannot tell.
RECOGNISED = Advice("nothing to gain, and not recognised", beside(straight, 0), harmless_stays, 1.0)
