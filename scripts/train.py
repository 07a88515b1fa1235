#!/usr/bin/env python3
"""Trains one model: one trial, from a config to a finished trial directory.

    scripts/train.py --config=configs/digits_mlp.py --workdir=/tmp/run
    scripts/train.py --config=configs/digits_mlp.py --workdir=/tmp/run2 --config.hparams.learning_rate=0.3

Every key of the config can be set by --config.KEY=VALUE. The same command again goes on where the
run was stopped; while one run has the directory, a second is refused (but on gs://, which has no
locks). Exit codes: 0 complete, 1 failed, 2 bad input, 3 infeasible (it diverged), 75
interrupted (continue by the same command).
"""

import os
import shlex
import signal
import socket
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line, hosts
from playbook_jax.tracking import clock

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "workdir", None, "The trial directory: made if missing, resumed if it holds this run."
)
flags.DEFINE_integer(
    "cores", 0, "On how many CPU cores to run; other numbers give other last bits. 0: all."
)
flags.DEFINE_string("profile", None, "A:B traces from step A to step B, and times as many after.")
flags.DEFINE_bool("tensorboard", False, "Also write TensorBoard events, into DIR/tensorboard.")
flags.DEFINE_float(
    "peak_flops", None, "With --profile: operations a second that one device could do."
)
flags.DEFINE_string("coordinator", None, "Several hosts: ADDRESS:PORT of host 0, the same on all.")
flags.DEFINE_integer("num_hosts", None, "Several hosts: how many there are.")
flags.DEFINE_integer("host", None, "Several hosts: which one this is, from 0.")
flags.DEFINE_integer("host_timeout", 300, "After how many seconds a silent host counts as lost.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if not FLAGS.workdir:
        raise UsageError("--workdir=DIR is missing")
    if FLAGS.cores:
        if not 0 < FLAGS.cores <= (os.cpu_count() or 1):
            raise UsageError(f"--cores={FLAGS.cores}: this machine has {os.cpu_count()}")
        # Before jax is imported: it makes one thread for each core that it sees.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: FLAGS.cores])

    all_hosts = hosts.find(FLAGS.coordinator, FLAGS.num_hosts, FLAGS.host, FLAGS.host_timeout)
    if hosts.is_parent(all_hosts):
        return hosts.watch(all_hosts, on_loss=lambda reason: _say_lost(all_hosts, reason))

    stopped: list[int] = []
    _note_signals(stopped)
    from playbook_jax import workload
    from playbook_jax.runtime import compilation_cache, progress
    from playbook_jax.tracking import profiling
    from playbook_jax.training import loop, tensorboard

    compilation_cache.enable()
    if all_hosts:
        hosts.join(all_hosts)
        _note_signals(stopped)  # jax listens to them too, and has taken them over
    workload.recall(trial.read_json(Path(FLAGS.workdir) / "provenance.json"))
    config = loop.validate(FLAGS.config)
    steps = profiling.parse(FLAGS.profile) if FLAGS.profile else None
    profiler = profiling.Profiler(steps, config, FLAGS.peak_flops)
    line = progress.Steps()
    view = tensorboard.View(config) if FLAGS.tensorboard else None
    status = loop.train(
        config,
        FLAGS.workdir,
        progress=line,
        should_stop=lambda: bool(stopped),
        profiler=profiler,
        view=view,
    )
    if view:
        view.catch_up(FLAGS.workdir)
    line.close()
    _report(status, config.checkpoint.metric, profiler.describe())
    if all_hosts and status["state"] == trial.FAILED:
        hosts.leave(trial.EXIT_CODES[trial.FAILED])
    return trial.EXIT_CODES[status["state"]]


def _note_signals(stopped: list[int]) -> None:
    """Lets requests to stop be noted in `stopped`; the run asks for them when it can save.

    A second one ends the process at once. A thread listens, since the main one hears nothing while it
    compiles or waits for the devices.
    """
    heard, wake = socket.socketpair()
    wake.setblocking(False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)
    signal.set_wakeup_fd(wake.fileno())
    threading.Thread(target=_listen, args=[heard, wake, stopped], daemon=True).start()


def _listen(heard: socket.socket, wake: socket.socket, stopped: list[int]) -> None:
    del wake  # which must stay open
    while numbers := heard.recv(1):
        if numbers[0] not in (signal.SIGTERM, signal.SIGINT):
            continue
        stopped.append(numbers[0])
        if len(stopped) == 1:
            print(
                "Stopping: it saves first. Once more (Ctrl-C), and it stops at once, without saving.",
                file=sys.stderr,
                flush=True,
            )
        else:
            print(
                "Stopped at once; the same command goes on from the latest checkpoint.", flush=True
            )
            os._exit(trial.EXIT_CODES[trial.INTERRUPTED])


def _say_lost(all_hosts: hosts.Hosts, reason: str) -> None:
    """Writes what the aborted process could not, unless another host has ended the trial."""
    path = Path(FLAGS.workdir) / "status.json"
    status = trial.read_status(FLAGS.workdir)
    if all_hosts.index == 0 and status["state"] == trial.RUNNING:
        try:
            trial.write_json(path, status | {"state": trial.FAILED, "reason": reason})
        except OSError as error:
            print(f"error: {path} can't say so: {error.strerror or error}", file=sys.stderr)


def _report(status: dict, metric: str, profile: list[str]) -> None:
    text = f"{status['state']} at step {status['step']:,}"
    if status["state"] == trial.COMPLETE:
        text += f": best {metric} {status['objective']:.4g} at step {status['best_step']:,}"
    elif status["reason"]:
        text += f": {status['reason']}"
    timing = trial.read_timing(FLAGS.workdir)
    print("\n".join([text, *clock.describe(timing), *profile]))
    if status["state"] == trial.INTERRUPTED:
        print(f"Continue with: {shlex.join(command_line.command())}")
    else:
        print(f"The trial is in {FLAGS.workdir}")


if __name__ == "__main__":
    command_line.run(main, config_flag=True)
