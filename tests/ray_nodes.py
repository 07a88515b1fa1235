"""A Ray cluster of two nodes on 127.0.0.1, in a process of its own: started, told what to kill, ended.

    python tests/ray_nodes.py

prints the cluster's address, then a line for each line that it reads: `kill` kills the second node,
`add` puts another one in its place. It ends with its standard input, and all of its processes with it.
The environment decides on the token.
"""

import contextlib
import os
import signal
import sys

import psutil
from ray.cluster_utils import Cluster

_NODE = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 80_000_000}


def main():
    cluster = Cluster(initialize_head=True, head_node_args=_NODE | {"include_dashboard": False})
    node = cluster.add_node(wait=False, **_NODE)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            raylet = node.all_processes["raylet"][0].process.pid
            _kill(psutil.Process(raylet))
        else:
            node = cluster.add_node(wait=False, **_NODE)
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
