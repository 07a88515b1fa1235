#!/usr/bin/env python3
"""Runs a study: many trials of one training config, each with other hyperparameters.

    scripts/launch_study.py --config=configs/studies/digits_mlp.py --workdir=/tmp/study
    scripts/launch_study.py --config=configs/studies/digits_mlp.py --workdir=/tmp/study --dry_run --measure

Every key of the study config can be set by --config.KEY=VALUE, e.g. --config.num_trials=40 or
--config.nuisance.hparams.learning_rate.high=3.0. The same command again goes on where the study was
stopped; after it, a larger num_trials extends it. Ctrl-C lets the running trials save, a second one does
not. Exit codes: 0 all trials came to their end (infeasible ones, that diverged, included), 1 some failed,
2 bad input, 75 interrupted (continue by the same command).
"""

import dataclasses
import math
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line, hosts
from playbook_jax.studies import overrides

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "The study config; --config.KEY=VALUE overrides a key.")
flags.DEFINE_string("workdir", None, "The study directory: made if missing, continued if not.")
flags.DEFINE_bool(
    "dry_run", False, "Show the trials and what they cost, write study.json, run nothing."
)
flags.DEFINE_bool("measure", False, "With --dry_run: also how long it takes, by a few real steps.")
flags.DEFINE_integer(
    "workers",
    0,
    "How many processes run trials; more than GPUs share them. 0: one a GPU or TPU chip, or one a core.",
)
flags.DEFINE_float("trial_minutes", 0.0, "After how many minutes a trial FAILED. 0: never.")
flags.DEFINE_string(
    "pack",
    None,
    "How many trials run in one program; auto: as a quick measurement says. Stored with the study.",
)
flags.DEFINE_float(
    "silent_minutes",
    30.0,
    "After how many minutes without a sign of life a trial's process is killed and the trial goes on in "
    "another one; more than compiling and one evaluation take. 0: never.",
)
flags.DEFINE_bool("retry_failed", False, "Run the trials that FAILED again; the others stay.")
flags.DEFINE_enum(
    "executor", "local", ["local", "ray"], "What runs the trials: this machine, or a Ray cluster."
)
flags.DEFINE_string(
    "ray_address",
    None,
    "HOST:PORT of the Ray cluster's head; the cluster of this machine if not given.",
)
flags.DEFINE_string(
    "coordinator", None, "One trial on several hosts: ADDRESS:PORT of host 0, the same on all."
)
flags.DEFINE_integer("num_hosts", None, "One trial on several hosts: how many there are.")
flags.DEFINE_integer("host", None, "One trial on several hosts: which one this is, from 0.")
flags.DEFINE_integer("host_timeout", 300, "After how many seconds a silent host counts as lost.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if not FLAGS.config:
        raise UsageError("--config=FILE is missing, e.g. --config=configs/studies/digits_mlp.py")
    if not FLAGS.workdir:
        raise UsageError("--workdir=DIR is missing")
    if FLAGS.workers < 0:
        raise UsageError(f"--workers={FLAGS.workers} must not be negative")
    for name in ("trial_minutes", "silent_minutes"):
        if not 0 <= FLAGS[name].value < math.inf:
            raise UsageError(f"--{name}={FLAGS[name].value:g} must not be negative")

    if FLAGS.measure and not FLAGS.dry_run:
        raise UsageError("--measure is for --dry_run, which launches nothing")
    from playbook_jax.studies.execution import pack_choice

    pack = pack_choice.parse(FLAGS.pack)
    changed = overrides.split(sys.argv[1:])[0]
    if FLAGS.dry_run:
        from playbook_jax.studies import preview

        preview.preview(
            FLAGS.config,
            FLAGS.workdir,
            num_workers=FLAGS.workers or None,
            pack=pack,
            measure=FLAGS.measure,
            overrides=changed,
        )
        return 0

    found = (FLAGS.coordinator, FLAGS.num_hosts, FLAGS.host, FLAGS.host_timeout)
    # On a cluster of Ray's the environment may name hosts, as Slurm's does, that are Ray's nodes.
    environment = os.environ if FLAGS.executor == "local" else {}
    all_hosts = hosts.find(*found, environment, even_one=True)
    from playbook_jax.studies import launcher
    from playbook_jax.studies.execution import device_placement

    options = launcher.Options(
        command=[word for word in command_line.command() if word != "--retry_failed"],
        retry_failed=FLAGS.retry_failed,
        time_limit=60 * FLAGS.trial_minutes or math.inf,
        silent_limit=60 * FLAGS.silent_minutes or math.inf,
        pack=pack,
        overrides=changed,
    )
    if all_hosts:
        from playbook_jax.studies.multihost import executor as slice_lib

        given = {"workers": FLAGS.workers > 1, "pack": pack is not None}
        slice_lib.refuse(**given, executor=FLAGS.executor != "local")
        return slice_lib.launch(all_hosts, FLAGS.config, FLAGS.workdir, options)
    options = dataclasses.replace(
        options,
        num_workers=FLAGS.workers or device_placement.default_num_workers(),
        make_executor=EXECUTORS[FLAGS.executor](),
    )
    return launcher.launch(FLAGS.config, FLAGS.workdir, options)


def on_this_machine() -> None:
    if FLAGS.ray_address:
        raise UsageError("--ray_address is for --executor=ray")


def on_ray():  # noqa: ANN201
    from playbook_jax.studies import launcher
    from playbook_jax.studies.ray import cluster, executor

    address = FLAGS.ray_address or cluster.AUTO
    return executor.maker(address, FLAGS.workers, launcher.TRAIN_MODULE)


EXECUTORS = {"local": on_this_machine, "ray": on_ray}  # give `launcher.Options.make_executor`

if __name__ == "__main__":
    command_line.run(main, split=overrides.split)
