"""One worker on a Ray cluster, as the pool sees it: like a `WorkerProcess`, but on another machine."""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from playbook_jax.studies.execution.worker import Message
from playbook_jax.studies.execution.worker_process import Worker
from playbook_jax.studies.ray.actor import Actor, Settings
from playbook_jax.studies.store import leases

_PATIENCE_SECONDS = 5.0  # for an actor to end
_NOTICE_SECONDS = 20.0  # before it is said that there is no room
_HOW = {
    "ActorDiedError": "its process or its node was lost, perhaps out of memory",
    "ActorUnavailableError": "its node does not answer",
}


class RayWorker(Worker):
    """A worker in an actor; a thread hears it and writes what it says into a pipe.

    That the pipe ends tells that the worker is gone, on whatever machine it was: only then may another
    one get its trials.
    """

    def __init__(
        self, ray: ModuleType, settings: Settings, resources: Mapping[str, float], study: Path
    ) -> None:
        """Asks Ray for a place; commands wait until there is one.

        Args:
          ray: the module ray, connected.
          settings: what the actor is started with.
          resources: what it takes of the cluster.
          study: the study directory.
        """
        super().__init__(settings.index, Path(settings.log).parent)
        self._ray, self._study = ray, study
        self._lease = Path(settings.lease)
        leases.offer(self._lease)
        self._sees_lock = True
        self._how = self._last_words = ""
        self.answers, self._writes = os.pipe()
        # Never started again by Ray, and none of its tasks: what follows is for the pool to decide.
        actor = ray.remote(
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"hear": 1},  # besides the commands, which keep their order
        )(Actor)
        self._actor = actor.options(**resources).remote(settings)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, do: str, **message: Any) -> None:
        """Sends a command. A lost worker does not hear it; `receive` tells of its end."""
        self._actor.tell.remote({"do": do, **message})

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
        return super().last_words() if self.log.exists() else self._last_words

    def _listen(self) -> None:
        try:
            self._greet()
            while True:
                for message in self._ray.get(self._remote("hear")):
                    self._pass_on(message)
        except BrokenPipeError:
            pass  # closed
        except (self._ray.exceptions.RayError, OSError) as error:
            self._how, self._last_words = _words(error)
        finally:
            self._ray.kill(self._actor)
            if self.job or self._sees_lock:  # without a job, it writes nothing
                deadline = time.monotonic() + leases.SECONDS + leases.MARGIN_SECONDS
                leases.wait_until_free(self._lease, deadline)
            self._lease.unlink(missing_ok=True)
            os.close(self._writes)

    def _greet(self) -> None:
        hello = self._remote("hello")
        started, _ = self._ray.wait([hello], timeout=_NOTICE_SECONDS)
        if not started:
            print(f"worker {self.index} waits for room in the Ray cluster", file=sys.stderr)
        node, sees = self._ray.get(hello)
        if not sees:
            error = (
                f"node {node}: {self._study} is not the directory that the launcher writes to; "
                "--workdir must be a directory that all nodes share"
            )
            self._pass_on({"kind": "usage_error", "error": error})
        elif leases.is_free(self._lease):
            self._sees_lock = False
            leases.distrust(self._lease)

    def _remote(self, method: str) -> Any:
        return getattr(self._actor, method).options(concurrency_group="hear").remote()

    def _pass_on(self, message: Message) -> None:
        os.write(self._writes, json.dumps(message).encode() + b"\n")


def _words(error: Exception) -> tuple[str, str]:
    """Returns what happened to a worker, and the last thing that Ray says about it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = (lines[-1] if lines else "")[:300]
    how = _HOW.get(type(error).__name__, type(error).__name__)
    return how, last
