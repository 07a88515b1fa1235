"""Several hosts: how a process finds the others, and what is said when one is lost.

The same command runs on every host. On TPU pods and under Slurm jax finds the others by itself; elsewhere
flags or the environment name them. When a host dies, the others' collectives abort their processes without
any exception, so the work is done in a child process and a small parent says what happened, or starts
it again. Parent and child hold the two ends of a socket: the child says there how far it is, and ends
when the parent is gone.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from playbook_jax.errors import UsageError

# Set in the process that does the work: the number of its end of the socket.
_CHILD = "PLAYBOOK_JAX_HOST_CHILD"
# There too: the last line that the child before it told, if one was lost.
_TOLD = "PLAYBOOK_JAX_HOST_TOLD"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# With it a child ends that has noticed the loss of another host itself.
LOST = 70
JOINED = "joined"  # what a child tells first
LOST_REASON = (
    "another host was lost"  # how the reason of a trial begins that failed because of that
)

_link: socket.socket | None = None  # the child's end


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Which hosts share the work.

    Attributes:
      coordinator: "ADDRESS:PORT" of host 0; None where jax finds the cluster by itself.
      count: how many hosts there are; None likewise.
      index: which one this is; None likewise.
      timeout: seconds after which a host that is missing or silent counts as lost.
    """

    coordinator: str | None
    count: int | None
    index: int | None
    timeout: int

    def __str__(self) -> str:
        """Returns this host's name in messages."""
        return "this host" if self.index is None else f"host {self.index} of {self.count}"


def find(
    coordinator: str | None,
    count: int | None,
    index: int | None,
    timeout: int,
    environment: Mapping[str, str] = os.environ,
    *,
    even_one: bool = False,
) -> Hosts | None:
    """Returns the hosts that the flags or the environment name; None where there is only this one.

    Args:
      coordinator: as in `Hosts`; JAX_COORDINATOR_ADDRESS when None.
      count: as in `Hosts`; JAX_NUM_PROCESSES when None.
      index: as in `Hosts`; JAX_PROCESS_ID when None.
      timeout: as in `Hosts`.
      environment: where to look.
      even_one: whether one host counts as several where the flags say that there is one.

    Raises:
      UsageError: only some of the three are given, or they make no sense.
    """
    if timeout < 1:
        raise UsageError(f"--host_timeout={timeout} must be at least 1")
    given = {
        "--coordinator": coordinator or environment.get("JAX_COORDINATOR_ADDRESS"),
        "--num_hosts": count if count is not None else environment.get("JAX_NUM_PROCESSES"),
        "--host": index if index is not None else environment.get("JAX_PROCESS_ID"),
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        slurm = int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in environment
        tpu_pod = "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        return Hosts(None, None, None, timeout) if slurm or tpu_pod else None
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} missing: several hosts need --coordinator=ADDRESS:PORT of host "
            "0, --num_hosts=N, and --host=I, from 0 to N − 1"
        )
    try:
        count, index = int(given["--num_hosts"]), int(given["--host"])
    except ValueError as error:
        raise UsageError(f"--num_hosts and --host must be whole numbers ({error})") from error
    if not 0 <= index < count:
        raise UsageError(f"--host={index} must be from 0 to {count - 1}, with --num_hosts={count}")
    if ":" not in given["--coordinator"]:
        raise UsageError(f"--coordinator={given['--coordinator']} must be ADDRESS:PORT")
    found = Hosts(given["--coordinator"], count, index, timeout)
    return found if count > 1 or even_one else None


def is_parent(hosts: Hosts | None) -> bool:
    """Returns whether this process is the one that only watches."""
    return hosts is not None and _CHILD not in os.environ


def join(hosts: Hosts) -> None:
    """Makes this process one of the hosts; aborts the process where another is missing.

    Raises:
      UsageError: host 0 can't listen on its port.
    """
    global _link
    if _CHILD in os.environ:
        _link = socket.socket(fileno=int(os.environ[_CHILD]))
        _link.set_inheritable(False)
        threading.Thread(target=_end_with_parent, args=[_link], daemon=True).start()
    if hosts.index == 0:
        _check_port(hosts.coordinator)
    import jax

    jax.distributed.initialize(
        hosts.coordinator,
        num_processes=hosts.count,
        process_id=hosts.index,
        initialization_timeout=hosts.timeout,
        heartbeat_timeout_seconds=hosts.timeout,
    )
    tell(JOINED)


def _check_port(coordinator: str) -> None:
    try:  # jax would crash
        socket.create_server(("", int(coordinator.rsplit(":", 1)[1]))).close()
    except (OSError, OverflowError, ValueError) as error:
        raise UsageError(
            f"--coordinator={coordinator}: this host can't listen on that port ({error}); "
            "an earlier run may still be there"
        ) from error


def _end_with_parent(link: socket.socket) -> None:
    link.recv(1)
    os._exit(LOST)


def tell(line: str) -> None:
    """Says something to the parent, see `watch`; without a parent, nothing."""
    if _link:
        with contextlib.suppress(BrokenPipeError):  # it is gone, which ends this process
            _link.sendall(f"{line}\n".encode())


def told_before() -> str:
    """Returns the last line that this host's child told that was lost just before this one, or ""."""
    return os.environ.get(_TOLD, "")


def leave(code: int) -> None:
    """Ends this process at once, after a failure that only it may have had.

    An orderly end would wait for the other hosts, which wait for this one's part of the next step;
    so they learn of it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def watch(
    hosts: Hosts,
    on_loss: Callable[[str], Any],
    again: Callable[[Sequence[str]], bool] = lambda told: False,
) -> int:
    """Runs this command again as a child and returns its exit code, saying so if it is aborted.

    The first request to stop goes to the child, the second kills it.

    Args:
      hosts: the hosts; for the message.
      on_loss: is told the reason when the child was aborted and is not started again.
      again: gets what an aborted child has told (see `tell`); returns whether it is to start again.
    """
    from playbook_jax import trial  # with NumPy, for which --help need not wait

    asked: list[int] = []
    told: list[str] = []
    while True:
        code, told = _run_child(asked, told)
        if code >= 0 and code != LOST:
            return code
        if asked:
            print(f"{hosts} has stopped at once; the same command on all hosts goes on")
            return trial.EXIT_CODES[trial.INTERRUPTED]
        how = "" if code == LOST else f", or was killed ({signal.Signals(-code).name})"
        reason = f"{hosts} lost contact with another host{how}"
        if not again(told):
            break
        print(f"warning: {reason}; it starts again", file=sys.stderr)
    reason += f"; nothing was heard for {hosts.timeout} s"
    on_loss(reason)
    print(
        f"error: {reason}. See what the other hosts say; the same command on all hosts goes on "
        "from the latest checkpoint",
        file=sys.stderr,
    )
    return trial.EXIT_CODES[trial.FAILED]


def _run_child(asked: list[int], before: Sequence[str]) -> tuple[int, list[str]]:
    """Returns a child's exit code and what it told; `asked` gets the requests to stop.

    Args:
      asked: see above.
      before: what the child before it told.
    """
    ours, theirs = socket.socketpair()
    with ours:
        child = subprocess.Popen(
            [sys.executable, *sys.argv],
            env=os.environ | {_CHILD: str(theirs.fileno()), _TOLD: before[-1] if before else ""},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C on the terminal is for this process, which hands it on
        )
        theirs.close()

        def stop(number: int, frame: Any) -> None:
            asked.append(number)
            child.terminate() if len(asked) == 1 else child.kill()

        for number in _SIGNALS:
            signal.signal(number, stop)
        told = b""
        while data := ours.recv(4096):
            told += data
        return child.wait(), told.decode().splitlines()
