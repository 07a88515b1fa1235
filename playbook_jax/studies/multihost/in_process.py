"""Validates and trains a study's trials in this process, as every host does of several that run in step."""

import importlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax import trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies.execution.executor import Trial
from playbook_jax.studies.execution.study_context import Shared
from playbook_jax.studies.multihost.key_value_store import Message
from playbook_jax.training import failures


class InProcess:
    """Does on this host what all do.

    Attributes:
      failures: see `executor.Executor`.
    """

    def __init__(self, train_module: str) -> None:
        """Imports the module that validates and trains."""
        self.failures: dict[int, str] = {}
        self._train = importlib.import_module(train_module)

    def validate(self, shared: Mapping[str, Any], trials: Sequence[Trial]) -> str:
        """Takes what all trials share, see `executor.Executor`; returns what is wrong with a trial."""
        self._shared = Shared(**shared)
        error, self.failures = self._shared.check(
            self._train.validate, trials, unread=self._train.unread
        )
        return error

    def train(
        self,
        trial: int,
        parameters: Mapping[str, Any],
        directory: Path,
        stop: Callable[[], bool],
        progress: Callable[[int], None] = lambda step: None,
        out_of_time: Callable[[], bool] = lambda: False,
    ) -> Message:
        """Runs a trial to its end, or to where some host has it stopped.

        Returns:
          Its `status`; as `error`, why it can't be run, the status then being None; and whether this
          host was asked to `stop`.
        """
        status, refused = None, ""
        try:
            status = self._train.train(
                self._shared.config(trial, parameters),
                directory,
                progress=lambda done, total, text: progress(done),
                should_stop=lambda: stop() or out_of_time(),
                command=self._shared.command,
            )
        except UsageError as refusal:
            refused = f"trial {trial}: {refusal}"
        except Exception as error:  # in what the trial itself does not catch; host 0 decides
            traceback.print_exc()
            status = trial_lib.new_status(trial_lib.FAILED, failures.describe(error))
        return {"status": status, "error": refused, "stop": stop()}
