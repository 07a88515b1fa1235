"""By how much a trial of a study scatters where it is trained again with other seeds: the retrain noise.

`scripts/replicate.py` measures it, and leaves the place of its workdir in the study directory, see
studies/store/replicated.py.

Source: playbook, "Determining whether to adopt a training pipeline change or hyperparameter configuration"
(trial variance, or retrain variance).
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from playbook_jax.analysis.stats import replicates as statistics
from playbook_jax.analysis.stats.replicates import Spread
from playbook_jax.errors import UsageError
from playbook_jax.studies.store import replicated

if TYPE_CHECKING:
    from playbook_jax.analysis.data.study import Study

FEWEST = 3  # replicates: of two, the deviation is known to a factor of ten


@dataclasses.dataclass(frozen=True)
class RetrainNoise:
    """What a configuration came to where it was trained again.

    Attributes:
      trial: its number in the study; None where it is another study's.
      name: "trial 7", or "trial 7 of digits".
      workdir: of scripts/replicate.py.
      objectives: of the runs that came to their end, at least FEWEST.
      spread: their standard deviation, and how well it is known.
    """

    trial: int | None
    name: str
    workdir: str
    objectives: np.ndarray
    spread: Spread

    @property
    def sd(self) -> float:
        """The standard deviation, in the objective's units."""
        return self.spread.sd

    @property
    def mean(self) -> float:
        """What the configuration comes to on average: without the luck of having been chosen."""
        return statistics.mean(self.objectives)


def find(study: "Study", workdir: str | None = None) -> RetrainNoise | None:
    """Returns the retrain noise of a study, or None where nothing has measured it.

    Args:
      study: the study.
      workdir: where replicates are; None for those that the study directory names, or that lie beside it:
        of the best trial before others, and then of most runs.

    Raises:
      UsageError: `workdir` holds no replicates that could serve.
    """
    if workdir is not None:
        found = read(study, epath.Path(workdir))
        if isinstance(found, str):
            raise UsageError(f"--replicates: {workdir} {found}")
        return found
    places = [
        place
        for place in replicated.workdirs(study.directory)
        if (place / "replicates.json").exists()
    ]
    measured = [read(study, place) for place in places]
    own = [m for m in measured if isinstance(m, RetrainNoise) and m.trial is not None]
    best = None if study.best is None else study.best.number
    return max(own, key=lambda m: (m.trial == best, len(m.objectives)), default=None)


def read(study: "Study", workdir: epath.Path) -> RetrainNoise | str:
    """Returns what a workdir of scripts/replicate.py says of a study, or why it says nothing."""
    from playbook_jax.analysis.data import adoption

    try:
        comparison = adoption.load(workdir)
    except UsageError as error:
        return f"cannot be read: {error}"
    if comparison.metric != study.metric or comparison.maximize != study.maximize:
        return f"has another objective, {comparison.metric}"
    if comparison.vary != adoption.SEED:
        return f"has replicates with --vary={comparison.vary}: that is not all of the retrain noise"
    side = comparison.candidate
    if len(side.objectives) < FEWEST:
        return f"has {len(side.objectives)} complete replicates; it takes {FEWEST}"
    number = _trial(study, side)
    name = side.source if number is None else f"trial {number}"
    return RetrainNoise(number, name, str(workdir), side.objectives, side.spread)


def _trial(study: "Study", side: object) -> int | None:
    """Returns which trial of the study a side's configuration is; None for none of them."""
    chosen = side.chosen
    if chosen is None:
        return None
    same = [t for t in study.trials if t.number == chosen.trial and t.objective == chosen.objective]
    return same[0].number if same else None
