"""Connects to a Ray cluster, or says in one line why that can't be.

    python -m playbook_jax.studies.ray.cluster ADDRESS

connects and prints what the cluster has, as JSON. The launcher has that done by another process
first: where the token is wrong or nothing answers, Ray goes on trying for a minute, prints what it
meets, and then ends the process.
"""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from types import ModuleType

from playbook_jax.errors import UsageError

AUTO = "auto"  # the cluster that RAY_ADDRESS names, or the one running on this machine
_SECONDS = 30.0  # to connect; it takes 2
_KNOCK_SECONDS = 5.0
_NO_TOKEN = "InvalidAuthToken|Unauthenticated|AuthenticationError"


def connect(address: str) -> tuple[ModuleType, dict[str, float]]:
    """Connects this process to a running cluster.

    Args:
      address: HOST:PORT of its head, or AUTO.

    Returns:
      The module ray, and how much of each resource the cluster has.

    Raises:
      UsageError: ray is not installed, or the cluster can't be reached or does not take this process.
    """
    if "://" in address:
        raise UsageError(
            f"--ray_address={address}: Ray Client is not supported; run the launcher on a node of the "
            "cluster, with HOST:PORT of its head"
        )
    if not importlib.util.find_spec("ray"):
        raise UsageError(
            "--executor=ray needs ray, which is not installed: pip install playbook_jax[ray] "
            "(in a checkout: scripts/setup.sh ray)"
        )
    _knock(address)
    resources = _ask(address)
    _init(address)
    return sys.modules["ray"], resources


def _knock(address: str) -> None:
    """Sees whether anything listens there."""
    if address == AUTO:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"--ray_address={address!r} is not HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
    except OSError as error:
        raise UsageError(f"no Ray cluster at {address}: {error.strerror or error}") from error


def _ask(address: str) -> dict[str, float]:
    """Has another process connect; returns what it learns of the cluster's resources."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the launcher
    )
    timer = threading.Timer(_SECONDS, process.kill)
    timer.start()
    importlib.import_module("ray")  # meanwhile; it takes as long there
    said: list[str] = []
    for line in process.stderr:
        said.append(line.strip())
        if re.search(_NO_TOKEN, line):
            process.kill()
    output = process.stdout.read()
    timer.cancel()
    if process.wait() == 0:
        return json.loads(output)
    where = "" if address == AUTO else f" at {address}"
    text = "\n".join(said)
    if re.search(_NO_TOKEN, text):
        raise UsageError(
            f"the Ray cluster{where} does not accept this token: set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as the cluster has them"
        )
    if "ConnectionError: Could not find any running Ray instance" in text:
        raise UsageError(
            "no Ray cluster runs on this machine: start one with `ray start --head`, or join one with "
            "`ray start --address=HOST:PORT`, and name it by --ray_address=HOST:PORT"
        )
    reason = next((line for line in reversed(said) if line), f"no answer in {_SECONDS:g} s")
    raise UsageError(f"cannot connect to the Ray cluster{where}: {reason[:300]}")


def _init(address: str) -> None:
    import ray

    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    for number, handler in handlers.items():  # ray takes SIGTERM
        signal.signal(number, handler)


if __name__ == "__main__":
    import ray

    _init(sys.argv[1])
    print(json.dumps(ray.cluster_resources()), flush=True)
    os._exit(0)
