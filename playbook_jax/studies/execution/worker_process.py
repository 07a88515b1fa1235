"""One worker process, as the launcher sees it: started, sent commands, heard, ended.

Needs neither jax nor numpy, so that workers can start before the launcher imports anything that
takes time.
"""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from playbook_jax.studies.execution.device_placement import Place
from playbook_jax.studies.execution.jobs import Job
from playbook_jax.studies.execution.worker import Message

_PATIENCE_SECONDS = 5.0  # for a process to end after its standard input did; it takes milliseconds


class Worker:
    """A worker as the pool sees it, wherever it runs.

    Attributes:
      index: its number; a worker that replaces another one takes over its number.
      log: the file with what it prints.
      ready: whether it has checked a config: it then has imported all that it needs.
      job: what it runs now, or None.
      programs: the static configs of the trials that it ran: those it has compiled.
      answers: the open file from which its messages are read.
    """

    answers: int

    def __init__(self, index: int, logs: Path) -> None:
        """Starts nothing.

        Args:
          index: its number.
          logs: the directory of its log.
        """
        self.index = index
        self.log = logs / f"worker-{index}.log"
        self.ready = False
        self.job: Job | None = None
        self.programs: set[str] = set()
        self._text, self._killed = b"", ""

    def receive(self) -> list[Message] | None:
        """Returns the messages that have come, waiting for some; None when the worker has ended."""
        data = os.read(self.answers, 1 << 16)
        if not data:
            return None
        *lines, self._text = (self._text + data).split(b"\n")
        return [json.loads(line) for line in lines]


class WorkerProcess(Worker):
    """A process that runs `worker.py`."""

    def __init__(self, index: int, place: Place, train_module: str, logs: Path, keep: int) -> None:
        """Starts the process.

        Args:
          index: its number.
          place: where it runs.
          train_module: what runs a trial.
          logs: the directory of its log.
          keep: an open file that it inherits.
        """
        super().__init__(index, logs)
        self.answers, theirs = os.pipe()
        with self.log.open("ab") as log:
            self._process = place.start(
                "playbook_jax.studies.execution.worker",
                str(theirs),
                train_module,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(theirs, keep),
                start_new_session=True,  # Ctrl-C on the terminal is for the launcher alone
            )
        os.close(theirs)

    def send(self, do: str, **message: Any) -> None:
        """Sends a command. A dead worker does not hear it; `receive` tells of its end."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **message}).encode() + b"\n")
            self._process.stdin.flush()

    def hang_up(self) -> None:
        """Lets the process end, which saves nothing, without waiting for it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def kill(self, why: str) -> None:
        """Has the process end, whatever it is at; `close` will say why."""
        self._killed = why
        self._process.kill()

    def close(self) -> str:
        """Ends the process; returns how it ended, in words."""
        self.hang_up()
        os.close(self.answers)
        try:
            code = self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                code = self._process.wait(_PATIENCE_SECONDS)
            except (
                subprocess.TimeoutExpired
            ):  # in the system's hands, as where a disk does not answer
                return "it can't be killed"
        if self._killed:
            return f"{self._killed}, then killed"
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name

    def last_words(self) -> str:
        """Returns the last line of the log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it printed nothing"
