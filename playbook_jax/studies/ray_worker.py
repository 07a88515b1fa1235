"""One worker on a Ray cluster, as the pool sees it: like a `WorkerProcess`, but on another machine."""

import contextlib
import json
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from playbook_jax import trial as trial_lib
from playbook_jax.studies import full_disk, leases, mirror
from playbook_jax.studies.ray_relay import Relay, Settings
from playbook_jax.studies.worker import Message
from playbook_jax.studies.worker_process import Worker

_PATIENCE_SECONDS = 5.0  # for an actor to end
_NOTICE_SECONDS = 20.0  # before it is said that there is no room
_HOW = {
    "ActorDiedError": "its Ray actor or its node was lost",
    "ActorUnavailableError": "its node does not answer",
}


class RayWorker(Worker):
    """A worker behind an actor; a thread hears it and writes what it says into a pipe.

    That the pipe ends tells that the worker is gone, on whatever machine it was: only then may another
    one get its trials.
    """

    def __init__(
        self, ray: ModuleType, settings: Settings, resources: Mapping[str, float], logs: Path
    ) -> None:
        """Asks Ray for a place; commands wait until there is one.

        Args:
          ray: the module ray, connected.
          settings: what the relay is started with.
          resources: what it takes of the cluster.
          logs: the directory of its log.
        """
        super().__init__(settings.index, logs)
        self._ray = ray
        self._lease = leases.directory(Path(settings.study)) / settings.lease
        # Whether it writes in the study directory; as long as nobody has seen that, it does not.
        self._shares = False
        self._arriving = self._lease.with_suffix(".tar")
        self._how = self._last_words = ""
        self._directories: dict[int, Path] = {}
        self._sent: queue.SimpleQueue = queue.SimpleQueue()  # what Ray gives for each command
        self._pending: list[Any] = []
        self.answers, self._writes = os.pipe()
        # Never started again by Ray, and none of its tasks: what follows is for the pool to decide.
        actor = ray.remote(
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"hear": 1},  # besides the commands, which keep their order
        )(Relay)
        self._actor = actor.options(**resources).remote(settings)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, do: str, **message: Any) -> None:
        """Sends a command. A lost worker does not hear it; `receive` tells of its end."""
        for trial in [message, *(lane for lane in message.get("lanes", []) if lane)]:
            if "directory" in trial:
                directory = self._directories[trial["trial"]] = Path(trial["directory"]).absolute()
                trial["directory"] = str(directory)
                if not self._shares:
                    self._put(trial["trial"], directory)
        self._sent.put(self._actor.tell.remote({"do": do, **message}))

    def hang_up(self) -> None:
        """Ends the worker, which saves nothing, without waiting for it."""
        self._ray.kill(self._actor)

    def kill(self, why: str) -> None:
        """Has the worker end, whatever it is at; `close` will say why."""
        self._killed = why
        self.hang_up()

    def close(self) -> str:
        """Ends the worker; returns how it ended, in words."""
        self.hang_up()
        os.close(self.answers)  # the thread does not wait to be heard
        self._listener.join(_PATIENCE_SECONDS)
        return f"{self._killed}, then killed" if self._killed else self._how

    def last_words(self) -> str:
        """Returns the last line of the log, or what Ray says."""
        return self._last_words or "it printed nothing"

    def _put(self, trial: int, directory: Path) -> None:
        """Sends what was saved of a trial to the node that goes on with it."""
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "trial.tar"
            if mirror.pack(directory, {}, archive) is not None:
                for part in mirror.chunks(archive):
                    self._sent.put(self._actor.put.remote(trial, *part))

    def _listen(self) -> None:
        try:
            self._greet()
            while not self._how:
                for item in self._ray.get(self._remote("hear")):
                    self._take(*item)
                self._check_commands()
        except BrokenPipeError:
            pass  # closed
        except (self._ray.exceptions.RayError, OSError) as error:
            self._how, self._last_words = _words(error)
            if full_disk.is_meant(error):
                self._say_full()
        finally:
            self._ray.kill(self._actor)
            if self._shares:
                deadline = time.monotonic() + leases.SECONDS + leases.MARGIN_SECONDS
                leases.wait_until_free(self._lease, deadline)
            self._lease.unlink(missing_ok=True)
            self._arriving.unlink(missing_ok=True)
            os.close(self._writes)

    def _remote(self, method: str) -> Any:
        return getattr(self._actor, method).options(concurrency_group="hear").remote()

    def _greet(self) -> None:
        hello = self._remote("hello")
        started, _ = self._ray.wait([hello], timeout=_NOTICE_SECONDS)
        if not started:
            print(f"worker {self.index} waits for room in the Ray cluster", file=sys.stderr)
        _, sees = self._ray.get(hello)
        # A lock that this machine does not see protects nothing.
        self._shares = sees and not leases.is_free(self._lease)
        if not self._shares:
            self._ray.get(self._remote("send_back"))

    def _take(self, kind: str, value: Any) -> None:
        match kind:
            case "message":
                self._pass_on(value)
            case "chunk":
                trial, chunk, last = value
                with self._arriving.open("ab") as file:
                    file.write(chunk)
                if last:
                    mirror.unpack(self._arriving, self._directories[trial])
                    self._arriving.unlink()
            case "log":
                with self.log.open("ab") as file:
                    file.write(value)
            case "end":
                self._how, self._last_words = value

    def _pass_on(self, message: Message) -> None:
        os.write(self._writes, json.dumps(message).encode() + b"\n")

    def _say_full(self) -> None:
        """Says that the trials met a full disk, here or there, as `running.Running` does."""
        if not self.job:
            return
        status = trial_lib.new_status(trial_lib.FAILED, full_disk.REASON)
        for trial in self.job.trials:
            self._pass_on({"kind": "status", "trial": trial["trial"], "status": status})
        self._pass_on({"kind": "over"})

    def _check_commands(self) -> None:
        """Raises what went wrong with commands on the other side: no answer will come to them."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._pending.append(self._sent.get_nowait())
        if self._pending:
            n = len(self._pending)
            done, self._pending = self._ray.wait(self._pending, num_returns=n, timeout=0)
            self._ray.get(done)


def _words(error: Exception) -> tuple[str, str]:
    """Returns what happened to a worker, and the last thing that Ray says about it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = (lines[-1] if lines else "")[:300]
    how = _HOW.get(type(error).__name__, type(error).__name__)
    return how, last
