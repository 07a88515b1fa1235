"""A worker: a long-lived process on one core that runs the trials of a study one after another.

    python -m playbook_jax.studies.worker DESCRIPTOR CORE TRAIN_MODULE

Started by `pool.py`. Commands arrive as JSON lines on standard input: `open` (what all trials
share), `validate` and `train`, and `stop`, which lets the running trial save and end. Answers leave
as JSON lines on the open file DESCRIPTOR; standard output and error are the worker's log. The end
of standard input means that the launcher is gone, and ends the worker at once: nothing is lost,
for a trial can be killed anywhere.
"""

import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

_PROGRESS_SECONDS = 0.25  # between two messages on how far a trial is
NO_CORE = -1

Message = dict[str, Any]


class _Worker:
    """Obeys the launcher's commands.

    The methods named `on_…` are the commands; their arguments are the message's other fields.
    """

    def __init__(self, descriptor: int, train_module: str) -> None:
        self._answers = os.fdopen(descriptor, "w")
        self._commands: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._stop = threading.Event()
        # Ctrl-C reaches the launcher, which decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: self._stop.set())
        threading.Thread(target=self._listen, daemon=True).start()
        self._train_module = train_module

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            message = json.loads(line)
            if message["do"] == "stop":
                self._stop.set()
            else:
                self._commands.put(message)
        os._exit(0)

    def run(self) -> None:
        """Obeys until it is stopped."""
        self._train = importlib.import_module(self._train_module)
        if "jax" in sys.modules:
            from playbook_jax import compilation_cache

            compilation_cache.enable()
        self._answer(kind="ready")
        while not self._stop.is_set():
            try:
                message = self._commands.get(timeout=_PROGRESS_SECONDS)
            except queue.Empty:
                continue
            getattr(self, f"on_{message.pop('do')}")(**message)

    def _answer(self, **message: Any) -> None:
        self._answers.write(json.dumps(message) + "\n")
        self._answers.flush()

    def on_open(
        self, base_config: Message, vary_seed: bool, command: list[str], time_limit: float
    ) -> None:
        """Takes what all trials share; `time_limit` in seconds a trial."""
        from playbook_jax import config as config_lib

        self._time_limit = time_limit
        self._base_config = config_lib.from_dict(base_config)
        self._vary_seed, self._command = vary_seed, command

    def on_validate(self, trials: list[Message]) -> None:
        """Checks the configs of all these trials; answers with the first thing that is wrong."""
        from playbook_jax.errors import UsageError

        for trial in trials:
            try:
                self._train.validate(self._config(**trial))
            except UsageError as error:
                self._answer(kind="usage_error", error=f"trial {trial['trial']}: {error}")
                return
        self._answer(kind="valid")

    def on_train(self, trial: int, parameters: Message, directory: str) -> None:
        """Runs a trial to its end, or to where it is stopped."""
        from playbook_jax import trial as trial_lib
        from playbook_jax.errors import UsageError

        began = said = time.monotonic()

        def progress(done: int, total: int, text: str) -> None:
            nonlocal said
            if time.monotonic() - said > _PROGRESS_SECONDS:
                said = time.monotonic()
                self._answer(kind="step", trial=trial, step=done)

        def should_stop() -> bool:
            return self._stop.is_set() or time.monotonic() - began > self._time_limit

        try:
            status = self._train.train(
                self._config(trial, parameters),
                directory,
                progress=progress,
                should_stop=should_stop,
                command=self._command,
            )
        except UsageError as error:
            self._answer(kind="usage_error", error=f"trial {trial}: {error}")
            return
        if status["state"] == trial_lib.INTERRUPTED and not self._stop.is_set():
            reason = f"out of time: stopped after {self._time_limit:g} s"
            status = trial_lib.new_status(trial_lib.FAILED, reason, status["step"])
            trial_lib.write_json(Path(directory) / "status.json", status)
        self._answer(kind="status", trial=trial, status=status)

    def _config(self, trial: int, parameters: Message) -> Any:
        from playbook_jax.studies import specification

        return specification.trial_config(self._base_config, trial, parameters, self._vary_seed)


def main(descriptor: str, core: str, train_module: str) -> None:
    """Runs a worker on one core, or where the system likes if `core` is NO_CORE."""
    if int(core) != NO_CORE:
        # Before jax is imported, which makes a thread for each core that it sees: one, so that what
        # a trial computes does not depend on how many workers run beside it.
        os.sched_setaffinity(0, {int(core)})
    code = 1
    try:
        _Worker(int(descriptor), train_module).run()
        code = 0
    except BrokenPipeError:
        pass  # the launcher is gone
    except BaseException:
        traceback.print_exc()
    # Not by the interpreter's own way out, which takes its time, and aborts while a thread reads.
    os._exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
