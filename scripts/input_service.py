#!/usr/bin/env python3
"""Starts a tf.data service, whose workers read, decode and augment examples for training runs.

    scripts/input_service.py --port=5050                               a dispatcher, and a worker
    scripts/input_service.py --join=HOST:5050 --workers=2              two more, on another machine

Trainings then take --config.dataset.service=grpc://HOST:5050. Workers read the files themselves, so
dataset.data_dir must be a place that they all see. Ends on SIGTERM or Ctrl-C. Whoever reaches the port
can have the workers run TensorFlow graphs: keep it inside a trusted network.
"""

import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from playbook_jax.errors import UsageError
from playbook_jax.lazy_tensorflow import import_tensorflow
from playbook_jax.runtime import command_line

FLAGS = flags.FLAGS
flags.DEFINE_integer("port", 0, "Where the dispatcher listens; 0: wherever there is room.")
flags.DEFINE_string("join", None, "HOST:PORT of a dispatcher that runs elsewhere.")
flags.DEFINE_integer("workers", 1, "How many workers; each uses all cores.")
flags.DEFINE_string("host", "localhost", "Under which name the others reach this machine.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if FLAGS.workers < 0 or (FLAGS.join and FLAGS.workers < 1):
        raise UsageError(f"--workers={FLAGS.workers}: there must be at least one")
    service = import_tensorflow().data.experimental.service
    dispatcher, address = None, FLAGS.join
    if not address:
        dispatcher = service.DispatchServer(service.DispatcherConfig(port=FLAGS.port))
        address = f"{FLAGS.host}:{dispatcher.target.rpartition(':')[2]}"
    workers = [
        service.WorkerServer(
            service.WorkerConfig(
                dispatcher_address=address, worker_address=f"{FLAGS.host}:%port%", port=0
            )
        )
        for _ in range(FLAGS.workers)
    ]
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: ended.set())
    print(f"--config.dataset.service=grpc://{address} ({len(workers)} workers here)", flush=True)
    while not ended.wait(1):
        pass
    os._exit(0)  # TensorFlow's own end of a server waits for its clients


if __name__ == "__main__":
    command_line.run(main)
