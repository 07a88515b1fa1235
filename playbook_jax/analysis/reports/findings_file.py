"""`findings.json`, beside the report: what the checks found, for programs to read."""

import collections
import dataclasses
from typing import Any

from etils import epath

from playbook_jax import __version__, trial as trial_lib
from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.findings import VERDICTS, Finding
from playbook_jax.analysis.reports import next_draft
from playbook_jax.errors import UnwritableError

NAME = "findings.json"


def write(study: Study, found: list[Finding]) -> epath.Path:
    """Writes the findings into the study directory as strict JSON, atomically; returns the path.

    Raises:
      UsageError: the directory can't be written.
    """
    return save(study.directory, contents(study, found))


def save(directory: epath.Path, values: dict[str, Any]) -> epath.Path:
    """Writes the contents into a directory, see `write`."""
    path = directory / NAME
    try:
        trial_lib.write_json(path, values)
    except OSError as error:
        raise UnwritableError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def contents(study: Study, found: list[Finding]) -> dict[str, Any]:
    """Returns what the file holds.

    Returns:
      `format`, `version` (of this program), `study`, `goal`, `objective`, `trials` (how many there are in
      each state), `failed` (the trials that failed to train, see `failed`), `best` (`trial`, `objective`,
      `best_step`, `parameters`; None where no trial is complete), `retrain` (how far the retrained best
      trial scatters: `trial`, `workdir`, `objectives`, `sd`; None where that is not known), `thresholds`
      (those that an analysis config has set, by name), `verdicts` (how many findings have each),
      `decisions` (one a hyperparameter, of each all that `decisions.Decision` has: what the report's list
      and next_study.py show) and `findings`: of each one all that `findings.Finding` has, in the report's
      order.
    """
    states = collections.Counter(sorted(trial.state for trial in study.trials))
    best, retrain = study.best, study.retrain
    decided = () if study.is_replicates else next_draft.decided(study, found)
    return _plain(
        {
            "format": 1,
            "version": __version__,
            "study": study.name,
            "goal": study.goal,
            "objective": dict(study.specification["objective"]),
            "trials": dict(states),
            "failed": [trial.number for trial in study.failures],
            "best": best
            and {
                "trial": best.number,
                "objective": best.objective,
                "best_step": best.best_step,
                "parameters": best.parameters,
            },
            "retrain": retrain
            and {
                "trial": retrain.trial,
                "workdir": retrain.workdir,
                "objectives": retrain.objectives.tolist(),
                "sd": retrain.sd,
            },
            "thresholds": dict(study.thresholds),
            "verdicts": {v: sum(finding.verdict == v for finding in found) for v in VERDICTS},
            "decisions": [dataclasses.asdict(d) for d in decided],
            "findings": [dataclasses.asdict(finding) for finding in found],
        }
    )


def _plain(value: Any) -> Any:
    """Returns text without the spaces at which lines must not break: they are for pages."""
    if isinstance(value, str):
        # Half a surrogate pair, which JSON can hold, cannot be written as UTF-8.
        return value.replace(formatting.NO_BREAK, " ").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_plain(key): _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
