"""A worker: a long-lived process on one core that runs the trials of a study one after another.

    python -m playbook_jax.studies.execution.worker CORE DESCRIPTOR TRAIN_MODULE

Started by `pool.py`. Commands arrive as JSON lines on standard input: `open` (what all trials
share), `validate`, `measure`, `train` and `train_pack`, and `stop`, which lets the running trials
save and end. Answers leave as JSON lines on the open file DESCRIPTOR; standard output and error are
the worker's log. The end of standard input means that the launcher is gone, and ends the worker at
once: nothing is lost, for a trial can be killed anywhere.
"""

import contextlib
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from playbook_jax.studies.execution import device_placement

_WAIT_SECONDS = 0.25  # how late a request to stop may be seen where nothing runs

Message = dict[str, Any]


class TrialRunner:
    """Obeys the launcher's commands, in this process or in a Ray actor's.

    The methods named `on_…` are the commands; their arguments are the message's other fields.
    """

    def __init__(self, answer: Callable[..., None], train_module: str) -> None:
        """Imports nothing yet.

        Args:
          answer: sends the launcher a message, given its fields.
          train_module: what runs trials: a module like training.py.
        """
        self._answer, self._train_module = answer, train_module
        self._commands: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._stop = threading.Event()

    def stop(self) -> None:
        """Lets the running trials save, and ends `run`."""
        self._stop.set()

    def tell(self, message: Message) -> None:
        """Takes a command; may be called from any thread."""
        if message["do"] == "stop":
            self.stop()
        else:
            self._commands.put(message)

    def run(self) -> int:
        """Obeys until it is stopped; returns the process's exit code: 1 after an error, which it prints."""
        try:
            self._obey()
        except BaseException:
            with contextlib.suppress(OSError):  # where the log has no room for it
                traceback.print_exc()
            return 1
        return 0

    def _obey(self) -> None:
        self._train = importlib.import_module(self._train_module)
        if "jax" in sys.modules:
            from playbook_jax.runtime import compilation_cache

            compilation_cache.enable()
        self._answer(kind="ready")
        while not self._stop.is_set():
            try:
                message = self._commands.get(timeout=_WAIT_SECONDS)
            except queue.Empty:
                continue
            getattr(self, f"on_{message.pop('do')}")(**message)

    def on_open(self, **shared: Any) -> None:
        """Takes what all trials share."""
        from playbook_jax.studies.execution.study_context import Shared

        self._shared = Shared(**shared)

    def on_validate(self, trials: list[Message]) -> None:
        """Checks the configs of all these trials; answers with what is wrong, see `Shared.check`."""
        from playbook_jax.studies.execution.running import Heartbeat

        heart = Heartbeat(self._answer)
        error, failures = self._shared.check(
            self._train.validate, trials, heart.beat, self._train.unread
        )
        if error:
            self._answer(kind="usage_error", error=error)
        else:
            self._answer(kind="valid", failures=list(failures.items()))

    def on_measure(self, trial: int, parameters: Message, widths: list[int]) -> None:
        """Answers what a step takes alone and with others in one program, while more are better."""
        from playbook_jax.studies.execution import pack_choice

        config = self._shared.config(trial, parameters)

        def heard(width: int, seconds: float) -> bool:
            self._answer(kind="measured", lanes=width, seconds=seconds)
            return not self._stop.is_set()

        found = pack_choice.explore(
            widths,
            lambda lanes: self._train.step_time(config, lanes),
            self._train.OUT_OF_MEMORY,
            heard,
        )
        self._answer(kind="measured_all", problem=found.problem)

    def on_train(self, trial: int, parameters: Message, directory: str) -> None:
        """Runs a trial to its end, or to where it is stopped."""
        run = self._run([{"trial": trial, "directory": directory}])
        with run.answering():
            status = self._train.train(
                self._shared.config(trial, parameters),
                directory,
                progress=lambda done, total, text: run.progress(0, done),
                should_stop=run.should_stop,
                command=self._shared.command,
            )
            run.ended(0, status)

    def on_train_pack(self, lanes: list[Message | None]) -> None:
        """Runs trials side by side, each in its lane, to their ends, or to where they are stopped."""
        run = self._run(lanes)
        with run.answering():
            statuses = self._train.train_pack(
                [lane and self._lane(**lane) for lane in lanes],
                progress=lambda lane, done, total, text: run.progress(lane, done),
                should_stop=run.should_stop,
                ended=run.ended,
                command=self._shared.command,
            )
            for lane, status in enumerate(statuses):
                if status is not None:
                    run.ended(lane, status)

    def _run(self, lanes: list[Message | None]) -> Any:
        from playbook_jax.studies.execution import running

        return running.Running(lanes, self._shared.time_limit, self._stop, self._answer)

    def _lane(self, trial: int, parameters: Message, directory: str) -> Any:
        return self._train.Lane(self._shared.config(trial, parameters), directory)


def main(core: str, descriptor: str, train_module: str) -> None:
    """Runs a worker; see `places.Place.start`."""
    device_placement.keep_to(core)
    answers = os.fdopen(int(descriptor), "w")

    def answer(**message: Any) -> None:
        try:
            answers.write(json.dumps(message) + "\n")
            answers.flush()
        except BrokenPipeError:
            # The launcher is gone. At once: to a trial, this would be an error to be written down.
            os._exit(0)

    def listen() -> None:
        for line in sys.stdin.buffer:
            runner.tell(json.loads(line))
        os._exit(0)

    runner = TrialRunner(answer, train_module)
    # Ctrl-C reaches the launcher, which decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: runner.stop())
    threading.Thread(target=listen, daemon=True).start()
    # Not by the interpreter's own way out, which takes its time, and aborts while a thread reads.
    os._exit(runner.run())


if __name__ == "__main__":
    main(*sys.argv[1:])
