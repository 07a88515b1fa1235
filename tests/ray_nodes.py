"""A Ray cluster of two nodes on 127.0.0.1, in a process of its own: started, told what to kill, ended.

    python tests/ray_nodes.py

prints the cluster's address, then a line for each line that it reads: `kill` kills the second node,
`add` puts another one in its place. It ends with its standard input, and all of its processes with it.
The environment decides on the token.
"""

import contextlib
import os
import signal
import socket
import sys

import psutil
from ray.cluster_utils import Cluster

_NODE = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 80_000_000}
# A raylet waits 15 s for agents that choose their own, which is short where the machine is busy.
_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)


def node():
    """What a node is made with."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in _PORTS]
        ports = [s.getsockname()[1] for s in sockets]
    return _NODE | dict(zip(_PORTS, ports, strict=True))


def main():
    cluster = Cluster(initialize_head=True, head_node_args=node() | {"include_dashboard": False})
    second = cluster.add_node(wait=False, **node())
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            raylet = second.all_processes["raylet"][0].process.pid
            _kill(psutil.Process(raylet))
        else:
            second = cluster.add_node(wait=False, **node())
        print("done", flush=True)


def _kill(raylet):
    """Kills all of a node's processes at once, as when its machine goes off."""
    everything = [raylet, *raylet.children(recursive=True)]
    for process in everything:
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    try:
        main()
    finally:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
