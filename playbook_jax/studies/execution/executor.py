"""What runs the trials of a study, as the launcher sees it: the same calls on one machine and on many.

`pool.Pool` is the executor that needs nothing else: processes on this machine. Needs neither jax nor
NumPy, so that workers can start before the launcher imports anything that takes time.
"""

import dataclasses
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Trial = dict[str, Any]  # {"trial": 0, "parameters": {"hparams.learning_rate": 0.1, …}}


class WorkersFailedError(RuntimeError):
    """The workers die before they can run anything. Its text is one line."""


class Stop:
    """Counts the requests to stop: the first asks the trials to save, the second kills them.

    As a context manager, it takes SIGINT (Ctrl-C) and SIGTERM as requests.
    """

    def __init__(self) -> None:
        """Starts at zero."""
        self.requests = 0

    def __enter__(self) -> "Stop":
        """Catches the signals."""
        self._handlers = {
            number: signal.signal(number, self._count) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the signals to whoever had them before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def ask(self) -> None:
        """Asks the trials to save, unless somebody has done so already."""
        self.requests = max(1, self.requests)

    def _count(self, number: int, frame: Any) -> None:
        self.requests += 1


class Listener(Protocol):
    """Is told how the trials get on."""

    def step(self, trial: int, step: int) -> None:
        """A running trial has made `step` updates."""

    def ended(self, trial: int, status: dict[str, Any]) -> None:
        """A trial has come to its end, or to where it was stopped."""

    def said(self, text: str) -> None:
        """Something has happened that is to be said in a line, and is mended already."""

    def failed(self, trial: int, reason: str) -> None:
        """A trial will not be tried again; nobody has written that down yet."""


class Executor(Protocol):
    """Runs trials; made when the launcher has the study's lock, closed when it is done.

    Attributes:
      failures: of the trials that were validated, those that can't be run because their model raises, and
        what it raises.
    """

    failures: Mapping[int, str]

    def validate(self, shared: Mapping[str, Any], trials: Sequence[Trial]) -> bool:
        """Has every trial's config checked, before anything is written.

        Args:
          shared: what all trials share: `base_config`, `vary_seed`, `command`, `time_limit`, in seconds a
            trial, `sources`, what the launcher has read of configs, and `recalled`, the workloads that the
            trials which have begun were run with.
          trials: all that are to run, at least one.

        Returns:
          Whether it was done; False when a stop was asked for.

        Raises:
          UsageError: a config can't be run.
          WorkersFailedError: the workers do not start.
        """

    def run(
        self, trials: Sequence[Trial], directory: Callable[[int], Path], listener: Listener
    ) -> bool:
        """Runs trials that were validated.

        Args:
          trials: in the order in which they start, but for those that wait for their program.
          directory: gives a trial's directory.
          listener: is told what happens.

        Returns:
          Whether all have come to their end; False when a stop was asked for.

        Raises:
          UsageError: a trial's directory can't be written, or belongs to another config.
          WorkersFailedError: the workers do not start.
        """

    def close(self) -> None:
        """Ends whatever it has started."""


@dataclasses.dataclass
class Measured:
    """What steps were found to take.

    Attributes:
      seconds: of a step, by how many trials make it at once, in ascending order.
      over: whether all is measured that is to be.
      problem: what ended it before its time, empty where nothing did.
    """

    seconds: dict[int, float] = dataclasses.field(default_factory=dict)
    over: bool = False
    problem: str = ""


@runtime_checkable
class Packs(Protocol):
    """What an executor has besides if it can run several trials in one program.

    Attributes:
      size: how many programs run at once.
    """

    size: int

    def measure(self, trial: Trial, widths: Sequence[int]) -> Measured:
        """Measures what a step takes; of trials that were validated.

        Args:
          trial: whose config is taken.
          widths: how many trials make it at once, in ascending order, the first of them 1; it ends where
            more are no better, or the memory is too small.

        Returns:
          What was found until then, or until a stop was asked for.
        """

    def pack(self, lanes: int, trials: Sequence[Trial]) -> None:
        """Has `run` put that many trials into one program; `trials` are all of the study, see jobs.py."""
