"""How the processes of all hosts end at once where some wait in a collective, for one that has failed."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from playbook_jax import hosts
from playbook_jax.studies.channel import Channel, HostLostError
from playbook_jax.studies.restarts import ENDED

POLL_SECONDS = 1.0
_NOW_SECONDS = 0.2  # in which the others hear that they are to end now


@contextlib.contextmanager
def looking(look: Callable[[], None]) -> Iterator[None]:
    """Calls `look` now and then from a thread of its own."""
    over = threading.Event()

    def repeat() -> None:
        with contextlib.suppress(HostLostError):  # which this process learns by itself
            while not over.wait(POLL_SECONDS):
                look()

    threading.Thread(target=repeat, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def all_leave(
    channel: Channel,
    code: int,
    text: str,
    *,
    trial_has_ended: bool = False,
    at_last: Callable[[], None] = lambda: None,
) -> None:
    """Ends the processes of all hosts, on host 0.

    Args:
      channel: to the others, which are `looking` with `leave_if_told`.
      code: their exit code; after `hosts.LOST` the parents may start them again.
      text: what each of them says.
      trial_has_ended: whether the trial that ran is not to be tried again.
      at_last: called when the others are gone, which another thread here may have seen as a failure.
    """
    _say(text, trial_has_ended)
    channel.put("leave/0", {"code": code, "text": text, "trial_has_ended": trial_has_ended})
    # Together: a process that has started again, or the end of this one, would abort the others.
    for host in range(1, channel.count):
        channel.get(f"leaving/{host}", 3 * POLL_SECONDS)
    channel.put("leave_now", {})
    time.sleep(_NOW_SECONDS)
    at_last()
    hosts.leave(code)


def leave_if_told(channel: Channel) -> None:
    """Ends this process if host 0 has said so in `all_leave`."""
    for message in channel.peek("leave").values():
        _say(message["text"], message["trial_has_ended"])
        with contextlib.suppress(HostLostError):
            channel.put(f"leaving/{channel.index}", {})
            channel.get("leave_now", 3 * POLL_SECONDS)
        hosts.leave(message["code"])


def _say(text: str, trial_has_ended: bool) -> None:
    print(f"error: {text}", file=sys.stderr)
    if trial_has_ended:
        hosts.tell(ENDED)
