"""What the preview of a study says of its trials: how many there are for what is compared and tuned."""

from collections.abc import Sequence

from playbook_jax import trial as trial_lib
from playbook_jax.runtime import progress
from playbook_jax.studies import arms as arms_lib
from playbook_jax.studies.specification import GROUP, Specification
from playbook_jax.studies.store.directory import StudyDirectory, Trials
from playbook_jax.tracking import clock

_SHOWN = 12


def describe(specification: Specification, trials: Trials) -> str:
    """Returns how many trials each scientific value has, and each hyperparameter that is tuned with it.

    A line for each combination of listed scientific values, one where there is none. Trial 0 of a study is
    not counted where it is the baseline.

    Args:
      specification: the study, or the group as it is asked for.
      trials: all trials, scientific values among their hyperparameters.
    """
    arms = arms_lib.find(specification)
    studies = len(arms) if specification.shape == GROUP else 1
    rows = [row["parameters"] for row in trials[specification.baseline * studies :]]
    lines = []
    for arm in arms[:_SHOWN]:
        own = [row for row in rows if all(row.get(n) == v for n, v in arm.values.items())]
        text = f"{arm.label}: " if arm.values else ""
        text += f"{len(own):,} trials, {arm.dimensions} tuned"
        if arm.dimensions:
            text += f", {len(own) / arm.dimensions:.3g} trials for each tuned hyperparameter"
        lines.append(text)
    if len(arms) > _SHOWN:
        lines.append(f"… and {len(arms) - _SHOWN:,} more")
    return "\n".join(lines)


def time_left(trials: Trials, study: StudyDirectory, num_workers: int) -> str:
    """Returns how long the rest takes by what its own finished trials took; empty where none has finished."""
    left, took = 0, []
    for row in trials:
        if study.status(row["trial"])["state"] not in trial_lib.FINISHED:
            left += 1
        else:
            took += _seconds(study, row["trial"])
    if not left or not took:
        return ""
    seconds = sum(took) / len(took) * left / min(num_workers, left)
    each = progress.format_seconds(sum(took) / len(took))
    text = f"about {progress.format_seconds(seconds)} for the {left:,} trials left"
    return f"{text}, by what others took: {each}"


def _seconds(study: StudyDirectory, trial: int) -> Sequence[float]:
    totals = clock.totals(trial_lib.read_json_lines(study.trial_directory(trial) / "timing.jsonl"))
    return [totals["seconds"]] if totals else []
