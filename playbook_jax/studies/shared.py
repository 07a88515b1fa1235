"""What all trials of a study share, as whoever runs them was told it, and what follows for one of them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from playbook_jax import config as config_lib, sources as sources_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies import specification
from playbook_jax.studies.executor import Trial


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

    def what_is_wrong(
        self,
        validate: Callable[[ConfigDict], Any],
        trials: Iterable[Trial],
        before_each: Callable[[], None] = lambda: None,
    ) -> str:
        """Returns what `validate` says of the first trial that can't be run, or ""."""
        for trial in trials:
            before_each()
            try:
                validate(self.config(trial["trial"], trial["parameters"]))
            except UsageError as error:
                return f"trial {trial['trial']}: {error}"
        return ""
