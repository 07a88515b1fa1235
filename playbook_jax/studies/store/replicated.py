"""Where replicates of a study's trials are: `scripts/replicate.py` leaves the place in the study directory.

replicated.json is {"format": 1, "workdirs": ["../digits_replicates"]}, relative to the study
"""

import os

from etils import epath

from playbook_jax import trial as trial_lib

FILE_NAME = "replicated.json"
SUFFIX = "_replicates"  # of the workdir that the end of a study suggests


def note(study_directory: epath.PathLike, workdir: epath.PathLike) -> None:
    """Notes in a study directory where replicates of one of its trials are.

    Raises:
      OSError: it cannot be written.
    """
    directory = epath.Path(study_directory)
    path = os.path.relpath(os.path.abspath(workdir), os.path.abspath(directory))
    places = _noted(directory)
    if path not in places:
        trial_lib.write_json(directory / FILE_NAME, {"format": 1, "workdirs": [*places, path]})


def workdirs(study_directory: epath.PathLike) -> list[epath.Path]:
    """Returns where replicates of a study's trials may be: where its directory says, and beside it."""
    directory = epath.Path(study_directory)
    beside = directory.parent / f"{directory.name}{SUFFIX}"
    return [*(directory / place for place in _noted(directory)), beside]


def _noted(directory: epath.Path) -> list[str]:
    stored = trial_lib.read_json(directory / FILE_NAME, {})
    places = stored.get("workdirs") if isinstance(stored, dict) else None
    return [p for p in places if isinstance(p, str)] if isinstance(places, list) else []
