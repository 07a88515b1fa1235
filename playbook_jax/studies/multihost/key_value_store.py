"""What the hosts of one run say to each other, as small JSON objects.

They go through the devices, as a trial's gradients do, so all hosts must speak at the same points of the
program. A host that has failed may be waited for elsewhere; it says so in a file of the study directory.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from playbook_jax import trial as trial_lib
from playbook_jax.tracking import raised

Message = dict[str, Any]

_POLL_SECONDS = 0.2
_LEAST_BYTES = 1 << 12


class HostLostError(RuntimeError):
    """Another host does not take part any more. Its text is one line."""


class Channel:
    """What one host says and hears; jax.distributed must be up.

    Attributes:
      index: which host this is.
      count: how many there are.
    """

    def __init__(self) -> None:
        """Waits until all hosts have come here, for their devices."""
        self.index: int = jax.process_index()
        self.count: int = jax.process_count()

    def gather(self, message: Mapping[str, Any]) -> list[Message]:
        """Returns what each host says here, in the order of the hosts; all must call it.

        Raises:
          HostLostError: one does not.
        """
        text = np.frombuffer(json.dumps([self.index, message]).encode(), np.uint8)
        if self.count == 1:
            return [json.loads(text.tobytes())[1]]
        try:
            sizes = multihost_utils.process_allgather(np.int32(text.size))
            # Of few different sizes, for each is compiled.
            length = max(_LEAST_BYTES, 1 << int(sizes.max() - 1).bit_length())
            texts = multihost_utils.process_allgather(np.pad(text, (0, length - text.size)))
        except (jax.errors.JaxRuntimeError, ValueError) as error:  # gloo raises the latter
            raise HostLostError(
                f"the hosts lost contact ({str(error).splitlines()[0][:200]})"
            ) from error
        found = [json.loads(t[:n].tobytes()) for t, n in zip(texts, sizes, strict=True)]
        return [message for _, message in sorted(found, key=lambda pair: pair[0])]


class Failures:
    """What hosts say of a trial that has failed there, when others may wait for them in a collective."""

    def __init__(self, folder: Path, channel: Channel, seconds: float) -> None:
        """Writes nothing yet.

        Args:
          folder: of the study directory, in which nothing lies yet; host 0 may remove it at the end.
          channel: says which host this is.
          seconds: how far apart hosts may fail that fail alike.
        """
        self._folder, self._channel, self._seconds = folder, channel, seconds
        self._count = 0

    def gather(self, trial: int, answer: Mapping[str, Any]) -> list[Message] | None:
        """Returns what all hosts say of a trial, in their order; None unless all have failed, and alike."""
        self._count += 1
        paths = [
            self._folder / f"{trial}-{self._count}-{host}.json"
            for host in range(self._channel.count)
        ]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            trial_lib.write_json(paths[self._channel.index], answer)
        except OSError:  # a full disk, perhaps, which is no failure of all
            return None
        deadline = time.monotonic() + self._seconds
        while not all(path.exists() for path in paths):
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_SECONDS)
        answers = [json.loads(path.read_text()) for path in paths]
        return answers if _are_alike(answers) else None


def _are_alike(answers: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether all failed in the same place, so that they can go on together."""
    texts = {(a["error"], a["status"] and raised.cause(a["status"]["reason"])) for a in answers}
    return len(texts) == 1
