"""What all trials of a study share, as whoever runs them was told it, and what follows for one of them."""

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from ml_collections import ConfigDict

from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies import specification
from playbook_jax.studies.execution import jobs
from playbook_jax.studies.execution.executor import Trial
from playbook_jax.studies.space import conditions
from playbook_jax.tracking import raised, sources as sources_lib


class Shared:
    """See `executor.Executor.validate`.

    Attributes:
      command: what started the launcher.
      time_limit: in seconds a trial.
    """

    def __init__(
        self,
        base_config: Mapping[str, Any],
        vary_seed: bool,
        command: list[str],
        time_limit: float,
        sources: Iterable[sources_lib.Source] = (),
        recalled: Iterable[sources_lib.Source] = (),
    ) -> None:
        """Takes it as JSON has it."""
        sources_lib.add(sources)
        if recalled:
            from playbook_jax import workload  # which a test of the launcher does without

            workload.recall({"sources": recalled})
        self._base_config = config_lib.from_dict(base_config)
        self._vary_seed = vary_seed
        self.command, self.time_limit = command, time_limit

    def config(self, trial: int, parameters: Mapping[str, Any]) -> ConfigDict:
        """Returns a trial's config."""
        return specification.trial_config(self._base_config, trial, parameters, self._vary_seed)

    def check(
        self,
        validate: Callable[[ConfigDict], Any],
        trials: Sequence[Trial],
        before_each: Callable[[], None] = lambda: None,
        unread: Callable[[ConfigDict], Set[str]] = lambda config: set(),
    ) -> tuple[str, dict[int, str]]:
        """Has `validate` look at the trials; of those that share a program, once where it can't be made.

        Returns:
          What is wrong with the first trial that can't be run, or with what the study varies (see
          `dead_axis`), or ""; and, by trial, what the model has raised where its program can't be made.
        """
        broken: dict[str, str] = {}
        failures: dict[int, str] = {}
        configs = []
        for trial in trials:
            before_each()
            number, program = trial["trial"], jobs.static(trial)
            try:
                configs.append(self.config(number, trial["parameters"]))
                if program not in broken:
                    validate(configs[-1])
            except UsageError as error:
                return f"trial {number}: {error}", {}
            except Exception as error:  # the model's own; the trials of other programs can be run
                traceback.print_exc()
                broken[program] = raised.describe(error)
            if program in broken:
                failures[number] = broken[program]
        return ("", failures) if failures else (dead_axis(trials, configs, unread), {})


def dead_axis(
    trials: Sequence[Trial],
    configs: Sequence[ConfigDict],
    unread: Callable[[ConfigDict], Set[str]],
) -> str:
    """Returns what is wrong where a hyperparameter varies that no trial of a study reads, or "".

    Args:
      trials: those that are to run; of a study of which some have ended, nothing is said.
      configs: theirs.
      unread: (config) → paths of hparams that nothing reads with it.
    """
    if [trial["trial"] for trial in trials] != list(range(len(trials))):
        return ""
    varied, read = set(), set()
    for trial, config in zip(trials, configs, strict=True):
        names = {conditions.path(key) for key in trial["parameters"]}
        varied |= names
        read |= names - unread(config)
    dead = sorted(varied - read)
    return f"nothing reads {', '.join(dead)} in any trial, but the study varies it" if dead else ""
