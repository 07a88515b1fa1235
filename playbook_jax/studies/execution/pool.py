"""The workers of a study on this machine: given trials, told to stop, replaced when they die."""

import math
import selectors
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax.errors import UsageError
from playbook_jax.studies.execution import device_placement, jobs
from playbook_jax.studies.execution.executor import (
    Listener,
    Measured,
    Stop,
    Trial,
    WorkersFailedError,
)
from playbook_jax.studies.execution.jobs import Job
from playbook_jax.studies.execution.worker import Message
from playbook_jax.studies.execution.worker_process import WorkerProcess

# Trials whose worker dies are tried again that often: what killed it may have been the machine.
MAX_RETRIES = 2
_MAX_FALSE_STARTS = 3  # workers on end that died before they were ready
# As trial.py has it, which takes NumPy along: the workers start before that is imported.
INTERRUPTED = "INTERRUPTED"
_WAIT_SECONDS = 0.2  # how late a request to stop may be seen
# Of the time in which this process itself did not look, no more counts as silence of a worker.
_LOOK_SECONDS = 1.0


class Pool:
    """A fixed number of workers, each on a GPU or core of its own while there are enough.

    Attributes:
      size: how many.
      failures: see `executor.Executor`.
      silent_limit: after how many seconds a worker is killed that says nothing though it has something to
        do; while it trains it does at least once a second, unless it compiles, evaluates or saves.
    """

    silent_limit = math.inf

    def __init__(self, size: int, logs: Path, train_module: str, keep: int, stop: Stop) -> None:
        """Starts the workers, which begin to import what they need.

        Args:
          size: how many.
          logs: the directory of their logs.
          train_module: what runs trials: a module like training.py.
          keep: an open file that they inherit (the study's lock).
          stop: asked whether to go on.
        """
        self.size, self._arguments = size, (train_module, logs, keep)
        self._stop = stop
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, WorkerProcess] = {}
        self._false_starts = 0
        self._silence: dict[int, float] = {}  # in seconds, of the workers that have said something
        self._looked = time.monotonic()
        self.failures: Mapping[int, str] = {}
        self._measured = Measured(over=True)
        self._listener: Listener | None = None
        self._make_jobs: Callable[[Sequence[Trial]], list[Job]] = lambda w: jobs.make(w, w, 1)
        for index in range(size):
            self._start(index)

    def validate(self, shared: Mapping[str, Any], trials: Sequence[Trial]) -> bool:
        """Implements `executor.Executor`: the first worker checks, the others get ready meanwhile."""
        self._shared, self._to_check = shared, trials
        for worker in self._workers.values():
            self._greet(worker)
        while not self._workers[0].ready and not self._stop.requests:
            for worker, message in self._messages():
                if message is None:
                    self._bury(worker)
                    self._greet(self._start(worker.index))
                else:
                    self._hear(worker, message)
        return not self._stop.requests

    def measure(self, trial: Trial, widths: Sequence[int]) -> Measured:
        """Implements `executor.Packs`; the first worker does it. After `validate`."""
        worker, self._measured = self._workers[0], Measured()
        worker.send("measure", trial=trial["trial"], parameters=trial["parameters"], widths=widths)
        while not self._measured.over and not self._stop.requests:
            for worker, message in self._messages():
                if message is not None:
                    self._hear(worker, message)
                    continue
                how = self._bury(worker)
                self._greet(self._start(worker.index))
                if worker.index == 0:
                    problem = f"then a worker ended: {how}"
                    self._measured.over, self._measured.problem = True, problem
        return self._measured

    def pack(self, lanes: int, trials: Sequence[Trial]) -> None:
        """Implements `executor.Packs`."""
        self._make_jobs = lambda waiting: jobs.make(waiting, trials, lanes)

    def run(
        self, trials: Sequence[Trial], directory: Callable[[int], Path], listener: Listener
    ) -> bool:
        """Implements `executor.Executor`."""
        self._queue, self._listener = jobs.Queue(self._make_jobs(trials)), listener
        while not self._stop.requests:
            for worker in self._workers.values():
                if worker.ready and not worker.job and self._queue:
                    self._give(worker, directory)
            if not self._queue and not self._busy():
                return True
            for worker, message in self._messages():
                self._hear(worker, message) if message else self._replace(worker)
        for worker in self._workers.values():
            worker.send("stop")
        while self._busy() and self._stop.requests == 1:
            for worker, message in self._messages():
                self._hear(worker, message) if message else self._bury(worker)
        return False

    def close(self) -> None:
        """Implements `executor.Executor`: ends all workers."""
        for worker in self._workers.values():
            worker.hang_up()
        for worker in self._workers.values():
            self._selector.unregister(worker.answers)
            worker.close()
        self._workers = {}

    def _start(self, index: int) -> WorkerProcess:
        worker = self._workers[index] = WorkerProcess(
            index, device_placement.place(index, self.size), *self._arguments
        )
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

    def _greet(self, worker: WorkerProcess) -> None:
        worker.send("open", **self._shared)
        # For all but the first worker this is a warm-up, and tells when it has begun.
        worker.send("validate", trials=self._to_check[: None if worker.index == 0 else 1])

    def _busy(self) -> bool:
        return any(worker.job for worker in self._workers.values())

    def _messages(self) -> Iterator[tuple[WorkerProcess, Message | None]]:
        """Gives what the workers say, None for one that has ended, waiting a little for some."""
        for key, _ in self._selector.select(_WAIT_SECONDS):
            messages = key.data.receive()
            self._silence[key.data.index] = 0.0
            for message in [None] if messages is None else messages:
                yield key.data, message
        self._watch()

    def _watch(self) -> None:
        """Kills workers that have been silent for too long; that they end is then told like any end."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _LOOK_SECONDS), now
        for index in self._silence.keys() & self._workers.keys():
            worker = self._workers[index]
            measures = index == 0 and not self._measured.over
            busy = worker.job or measures or not worker.ready
            self._silence[index] = self._silence[index] + passed if busy else 0.0
            if self._silence[index] > self.silent_limit:
                del self._silence[index]
                silence = f"silent for {self.silent_limit / 60:.3g} minutes"
                worker.kill(silence)
                self._say(f"worker {index} was {silence} and was killed{_what(worker)}")

    def _say(self, text: str) -> None:
        if self._listener:
            self._listener.said(text)
        else:
            print(text, file=sys.stderr)

    def _give(self, worker: WorkerProcess, directory: Callable[[int], Path]) -> None:
        others = self._workers.values()
        elsewhere = {program for other in others for program in other.programs}
        worker.job = self._queue.take(worker.programs, elsewhere)
        self._silence[worker.index] = 0.0
        worker.send(**worker.job.message(directory))

    def _hear(self, worker: WorkerProcess, message: Message) -> None:
        match message["kind"]:
            case "valid":
                worker.ready, self._false_starts = True, 0
                if worker.index == 0:  # which has checked all of them
                    self.failures = dict(message["failures"])
            case "usage_error":
                raise UsageError(message["error"])
            case "measured":
                self._measured.seconds[message["lanes"]] = message["seconds"]
            case "measured_all":
                self._measured.over, self._measured.problem = True, message["problem"]
            case "step":
                self._listener.step(message["trial"], message["step"])
            case "status":
                self._end(worker, message["trial"], message["status"])
            case "over":
                job, worker.job = worker.job, None
                if job.again:
                    self._try_again(worker, job, job.again)

    def _end(self, worker: WorkerProcess, trial: int, status: dict[str, Any]) -> None:
        """Notes that a trial is over, or is to go on elsewhere."""
        if status["state"] == INTERRUPTED and not self._stop.requests:
            worker.job.again = "stopped by SIGTERM"
        else:
            worker.job.end(trial)
            self._listener.ended(trial, status)

    def _bury(self, worker: WorkerProcess) -> str:
        """Takes a dead worker out; returns how it ended.

        Raises:
          WorkersFailedError: one worker after the other dies before it is ready.
        """
        del self._workers[worker.index]
        self._silence.pop(worker.index, None)
        self._selector.unregister(worker.answers)
        how = worker.close()
        self._false_starts += not worker.ready
        if self._false_starts > _MAX_FALSE_STARTS:
            raise WorkersFailedError(
                f"the workers do not start ({how}): {worker.last_words()}; see {worker.log}"
            )
        return how

    def _replace(self, worker: WorkerProcess) -> None:
        """Puts a new worker in the place of a dead one, and its job back into the queue."""
        how = self._bury(worker)
        if worker.job and worker.job.trials:
            self._try_again(worker, worker.job, how)
        if self._queue:
            self._greet(self._start(worker.index))

    def _try_again(self, worker: WorkerProcess, job: Job, how: str) -> None:
        job.attempts, job.again = job.attempts + 1, ""
        if job.attempts <= MAX_RETRIES:
            self._queue.put_back(job)
            return
        times = f"its worker ended {MAX_RETRIES + 1} times"
        for trial in job.trials:
            self._listener.failed(trial["trial"], f"{times} ({how}); see {worker.log}")


def _what(worker: WorkerProcess) -> str:
    """Returns what a worker was at, behind what has happened to it."""
    if not worker.job:
        return f"; see {worker.log}"
    numbers = ", ".join(str(trial["trial"]) for trial in worker.job.trials)
    last = worker.job.attempts == MAX_RETRIES
    then = f"has been tried {MAX_RETRIES + 1} times" if last else "goes on in another one"
    return f"; trial {numbers} {then} (see {worker.log})"
