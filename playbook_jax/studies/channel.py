"""Messages between the hosts of one run: small JSON objects under names, each written once.

They go through the service by which jax's processes find each other and not through the devices, so
they also reach a host while others wait in a collective.
"""

import itertools
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import jax

Message = dict[str, Any]

_WAIT_SECONDS = 0.2  # how late a signal may be seen while waiting


class HostLostError(RuntimeError):
    """The service does not answer, because host 0 is gone. Its text is one line."""


class Channel:
    """What one host says and hears; jax.distributed must be up.

    Attributes:
      index: which host this is.
      count: how many there are.
    """

    def __init__(self) -> None:
        """Sends nothing yet, and touches no device."""
        # jax gives the service no public name; its own multihost_utils and orbax use this one.
        from jax._src import distributed

        self._client = distributed.global_state.client
        self.index: int = distributed.global_state.process_id
        self.count: int = distributed.global_state.num_processes
        self._commands = 0

    def put(self, name: str, message: Message) -> None:
        """Says something under a name that was not used before."""
        try:
            self._client.key_value_set(_key(name), json.dumps(message))
        except jax.errors.JaxRuntimeError as error:
            raise _lost(error) from error

    def get(self, name: str, seconds: float = math.inf) -> Message | None:
        """Waits for what is said under a name; None where nothing is within so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                text = self._client.blocking_key_value_get(_key(name), int(1000 * _WAIT_SECONDS))
                return json.loads(text)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise _lost(error) from error
            if time.monotonic() > deadline:
                return None

    def peek(self, name: str) -> dict[int, Message]:
        """Returns what hosts have said under a name and their number so far, by host."""
        try:
            found = self._client.key_value_dir_get(_key(name))
        except jax.errors.JaxRuntimeError as error:
            raise _lost(error) from error
        return {int(key.rsplit("/", 1)[1]): json.loads(text) for key, text in found}

    def command(self, message: Message) -> int:
        """Says what all are to do next, for `commands`; returns the number of that command."""
        self._commands += 1
        self.put(f"command/{self._commands}", message)
        return self._commands

    def commands(self) -> Iterator[tuple[int, Message]]:
        """Gives host 0's commands one after another, with their numbers, as they come."""
        for number in itertools.count(1):
            yield number, self.get(f"command/{number}")

    def gather(self, name: str, message: Message) -> list[Message]:
        """Says something to all and waits for what the others say under this name; in host order."""
        self.put(f"{name}/{self.index}", message)
        return [self.get(f"{name}/{host}") for host in range(self.count)]


def _key(name: str) -> str:
    return f"playbook_jax/study/{name}"


def _lost(error: Exception) -> HostLostError:
    return HostLostError(f"host 0 does not answer any more ({str(error).splitlines()[0][:200]})")
