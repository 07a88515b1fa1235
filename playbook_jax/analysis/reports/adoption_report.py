"""What is told of a decision on adoption besides the verdict, and adoption.json with all of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.analysis.data import features, formatting
from playbook_jax.analysis.data.adoption import (
    ADOPT,
    DO_NOT,
    NOTHING,
    SEED,
    Comparison,
    Decision,
    Side,
)
from playbook_jax.analysis.data.study_changes import BOOKKEEPING
from playbook_jax.analysis.stats import best_of, replicates as statistics

FILE_NAME = "adoption.json"
SECTION = "Determining whether to adopt a training pipeline change or hyperparameter configuration"
PLAYBOOK = (
    "a-gain-may-vanish",
    "trial-variance",
    "study-variance",
    "validation-set-is-a-sample",
    "replicates-before-adopting",
    "trial-variance-once",
    "adopt-if-better",
    "features-that-can-go",
    "gain-outweighs-complexity",
)
_SHOWN_CHANGES = 8
_UNEQUAL = 2  # sides tuned with this many times as many trials are not equally tuned


def save(directory: epath.PathLike, comparison: Comparison, decision: Decision) -> epath.Path:
    """Writes adoption.json and returns its path."""
    path = epath.Path(directory) / FILE_NAME
    trial_lib.write_json(path, to_dict(comparison, decision))
    return path


def to_dict(comparison: Comparison, decision: Decision) -> dict[str, Any]:
    """Returns all that was found, as JSON has it.

    Returns:
      `verdict`, `reason`, `more_replicates`, `objective`, `vary`, `level`, `candidate` and `baseline`
      (of each the replicates' `objectives`, `mean`, `median`, `sd` and its interval, `luck`, …),
      `difference` (see `adoption.Difference`; None while there is none), `repeats` (of replicates with the
      same seed), `changes`, `features` (what the candidate turns `off` and `on`, and what that tells in
      words), `removable` (whether what it turns off can go within noise; None where it turns none off, or
      that cannot be told), `caveats`, `complexity`, and the `playbook`'s section and rows.
    """
    baseline = comparison.baseline
    return {
        "format": 1,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "more_replicates": decision.more,
        "objective": {
            "metric": comparison.metric,
            "mode": "max" if comparison.maximize else "min",
        },
        "vary": comparison.vary,
        "level": statistics.LEVEL,
        "candidate": numbers(comparison.candidate, comparison),
        "baseline": baseline and numbers(baseline, comparison),
        "difference": decision.difference and dataclasses.asdict(decision.difference),
        "repeats": repeats(comparison) if comparison.vary == NOTHING else None,
        "changes": changes(comparison),
        "features": switched(comparison, decision),
        "removable": removable(comparison, decision),
        "caveats": [plain(caveat) for caveat in caveats(comparison, decision)],
        "complexity": plain(complexity(comparison)),
        "section": SECTION,
        "playbook": list(PLAYBOOK),
    }


def numbers(of: Side, comparison: Comparison) -> dict[str, Any]:
    """Returns the numbers of one side, see `to_dict`."""
    values, spread = of.objectives, of.spread
    return {
        "source": of.source,
        "objectives": values,
        "mean": statistics.mean(values) if len(values) else None,
        "median": float(np.median(values)) if len(values) else None,
        "sd": spread and spread.sd,
        "sd_interval": spread and [spread.low, spread.high],
        "infeasible": of.infeasible,
        "failed": of.failed,
        "unfinished": of.unfinished,
        "validation_examples": of.examples,
        "sampling_error": of.sampling_error,
        "seconds_per_step": float(np.median(of.seconds_per_step))
        if len(of.seconds_per_step)
        else None,
        "luck": luck(of, comparison),
    }


def luck(side: Side, comparison: Comparison) -> dict[str, Any] | None:
    """Returns how much of a trial's result in its study was luck, or None for a plain config.

    Returns:
      `trial`, `study_objective`, `study_trials`; `luck`, by how much that was better than the mean of
      the fresh replicates; `luck_if_alike`, what choosing the best of so many trials comes to where they
      all are equally good; and `study_interval`, in which 90 % of the best results of such studies lie by
      bootstrap of its trials: the study variance.
    """
    chosen = side.chosen
    if chosen is None:
        return None
    sign = -1 if comparison.maximize else 1
    costs = np.sort(sign * chosen.objectives)
    quantiles = best_of.bootstrap(costs, chosen.failures, len(costs) + chosen.failures)
    ends = sorted(float(sign * quantiles[i]) for i in (0, -1))
    fresh, spread = side.objectives, side.spread
    return {
        "trial": chosen.trial,
        "study_objective": chosen.objective,
        "study_trials": len(costs),
        "luck": sign * (statistics.mean(fresh) - chosen.objective) if len(fresh) else None,
        "luck_if_alike": spread and spread.sd * statistics.luck(len(costs)),
        "study_interval": ends,
    }


def repeats(comparison: Comparison) -> dict[str, Any]:
    """Returns whether replicates with the same seed have the same bits.

    Returns:
      `runs`, how many came to their end; `distinct`, how many differ among them; `first_difference`, the
      first step whose record is not the same in all of them, or None.
    """
    directory = comparison.candidate.directory
    records = [] if directory is None else _records(directory)
    length = min(map(len, records), default=0)
    same = np.ones(length, bool)
    for record in records[1:]:
        # As bits: NaN is the same as NaN.
        same &= (record[:length].view("<u4") == records[0][:length].view("<u4")).all(axis=1)
    differs = np.flatnonzero(~same)
    return {
        "runs": len(records),
        "distinct": len({record.tobytes() for record in records}),
        "first_difference": int(differs[0]) if len(differs) else None,
    }


def _records(directory: epath.Path) -> list[np.ndarray]:
    trials = sorted((directory / "trials").iterdir()) if (directory / "trials").exists() else []
    ended = (trial_lib.COMPLETE, trial_lib.INFEASIBLE)
    return [
        trial_lib.read_steps(path)
        for path in trials
        if trial_lib.read_json(path / "status.json", {}).get("state") in ended
    ]


def changes(comparison: Comparison) -> list[str]:
    """Returns "path: old → new" for each value that adopting the candidate would change."""
    if comparison.baseline is None:
        return []
    old = config_lib.flatten(comparison.baseline.config)
    new = config_lib.flatten(comparison.candidate.config)

    def value(values: Mapping[str, Any], name: str) -> str:
        return formatting.value(values[name]) if name in values else "absent"

    return [
        f"{name}: {value(old, name)} → {value(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if not name.startswith(BOOKKEEPING)
        and (name not in old or name not in new or old[name] != new[name])
    ]


def removable(comparison: Comparison, decision: Decision) -> bool | None:
    """Returns whether the features that the candidate turns off can go within noise.

    They can where it is not worse by as much as is worth having: a test of the same level as that of
    adoption, for what is simpler needs to be no better. None where it turns nothing off, or that cannot be
    told.
    """
    off, on = _switched(comparison)
    difference = decision.difference
    if not off or on or comparison.vary == NOTHING:
        return None
    little = (
        difference is not None
        and difference.p_worthwhile <= statistics.LEVEL < difference.p_no_worse
    )
    if decision.verdict == DO_NOT and not little:  # it is worse, or diverges
        return False
    if difference is None:
        return None
    return True if difference.p_much_worse <= statistics.LEVEL else None


def switched(comparison: Comparison, decision: Decision) -> dict[str, Any]:
    """Returns the features that adopting the candidate turns `off` and `on`, and a `text` on them."""
    off, on = _switched(comparison)
    told, can_go = [], removable(comparison, decision)
    if off:
        names = formatting.join([name.removeprefix("hparams.") for name in off])
        says = {
            True: "can go within noise: without, it is not worse by as much as is worth having",
            False: "cannot go: without, it is worse",
            None: "may go or not: whether it is worse without cannot be told yet",
        }
        told.append(
            f"The candidate does without {names}: {'they' if len(off) > 1 else 'it'} {says[can_go]}."
        )
    if on and decision.verdict != ADOPT:
        names = formatting.join([name.removeprefix("hparams.") for name in on])
        told.append(
            f"The candidate adds {names}, which is not shown to help: leave it out until it is."
        )
    return {"off": off, "on": on, "text": " ".join(told)}


def _switched(comparison: Comparison) -> tuple[list[str], list[str]]:
    if comparison.baseline is None:
        return [], []
    return features.switched(comparison.baseline.config, comparison.candidate.config)


def complexity(comparison: Comparison) -> str:
    """Returns what adoption would change and cost; whether that is worth it, nobody else can say."""
    baseline = comparison.baseline
    if baseline is None:
        return ""
    found = changes(comparison)
    shown = "; ".join(found[:_SHOWN_CHANGES]) or "nothing in the config"
    if len(found) > _SHOWN_CHANGES:
        shown += f"; and {len(found) - _SHOWN_CHANGES} more"
    text = f"Adopting it changes {shown}."
    times = comparison.candidate.seconds_per_step, baseline.seconds_per_step
    if all(map(len, times)):
        text += f" A step took {np.median(times[0]) / np.median(times[1]):.2g} times as long"
        apart = times[0].max() < times[1].min() or times[1].max() < times[0].min()
        text += "." if apart else ", which is within the scatter of the runs."
    return f"{text} Is the gain worth what it makes more complex? That is yours to judge."


def caveats(comparison: Comparison, decision: Decision) -> list[str]:
    """Returns what a reader of the verdict must know, a sentence or two each."""
    found = []
    for name, side in comparison.sides.items():
        for count, what in ((side.failed, "failed"), (side.unfinished, "have not ended")):
            if count:
                found.append(f"Of the {name}'s replicates {count} {what}, and are left out.")
        if side.infeasible:
            found.append(f"Of the {name}'s replicates {side.infeasible} diverged: in no mean.")
    if comparison.vary not in (SEED, NOTHING):
        found.append(
            f"Only the seed of {comparison.vary} varied: the full trial variance is larger."
        )
    if comparison.baseline is not None and comparison.vary != NOTHING:
        found += _sampling(comparison, decision) + _tuning(comparison) + _data(comparison)
    return found


def _sampling(comparison: Comparison, decision: Decision) -> list[str]:
    errors = [side.sampling_error for side in (comparison.candidate, comparison.baseline)]
    if None in errors:
        return [
            "How much another validation set would change is not known: the objective is no count over "
            "a known number of examples (--validation_examples)."
        ]
    if decision.difference is None:
        return []
    bound = points(comparison, float(np.hypot(*errors)))
    examples = formatting.count(comparison.candidate.examples)
    return [
        f"Both sides are measured on the same {examples} validation examples: on others the difference "
        f"might be another one, by a standard error of up to {bound}; replicates do not show that."
    ]


def _tuning(comparison: Comparison) -> list[str]:
    counts = [
        len(side.chosen.objectives) if side.chosen else 0
        for side in (comparison.candidate, comparison.baseline)
    ]
    most, least = max(counts), min(counts)
    if most > _UNEQUAL * least:
        favoured = "candidate" if counts[0] == most else "baseline"
        other = "by none that are known" if not least else f"by {least}"
        return [
            f"The {favoured} was tuned by {formatting.plural(most, 'trial')}, the other side {other}: "
            f"this favours the {favoured}, unless the hyperparameters are the change."
        ]
    return [
        "This compares two points. Of the change itself, at its best hyperparameters, tell studies: "
        "repeat both with another seed to see their study variance."
    ]


def _data(comparison: Comparison) -> list[str]:
    names = ("workload", "dataset")
    a, b = (side.config for side in (comparison.candidate, comparison.baseline))
    if all(a.get(name) == b.get(name) for name in names):
        return []
    return ["The sides' workload or dataset differ: is their validation set the same?"]


def points(comparison: Comparison, difference: float) -> str:
    """Returns a difference of objectives: of rates, in percentage points."""
    if formatting.is_rate(comparison.metric):
        return f"{100 * difference:.2f} points"
    return formatting.metric(comparison.metric, difference)


def plain(text: str) -> str:
    """Returns a text without the spaces at which lines must not break."""
    return text.replace(formatting.NO_BREAK, " ")
