#!/usr/bin/env python3
"""Exports a trained model to files that load without this code and give the same predictions.

    scripts/export.py --trial=/tmp/run
    scripts/export.py --trial=/tmp/run --step=latest --polyak --format=stablehlo --output=/tmp/model

Writes StableHLO (loads with jax alone) and, where TensorFlow is installed, a SavedModel; README.txt
beside them says how to load each. The model takes a batch's raw features and any batch size.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line

FLAGS = flags.FLAGS
flags.DEFINE_string("trial", None, "The trial directory.")
flags.DEFINE_string("step", "best", "Which checkpoint: best, latest, or a number of steps.")
flags.DEFINE_bool("polyak", False, "Export the averaged parameters.")
flags.DEFINE_list("format", None, "stablehlo, savedmodel; all that can be written here if not set.")
flags.DEFINE_list("platforms", None, "Where it is to run: cpu, cuda, tpu; all if not set.")
flags.DEFINE_string("output", None, "Where to write; exported/STEP in the trial if not set.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if not FLAGS.trial:
        raise UsageError("--trial=DIR is missing")
    step = int(FLAGS.step) if FLAGS.step.isdigit() else FLAGS.step
    if step not in ("best", "latest") and not isinstance(step, int):
        raise UsageError(f"--step={step}: give best, latest, or a number of steps")
    trial.load(FLAGS.trial)

    from playbook_jax.inference import export
    from playbook_jax.runtime import compilation_cache

    compilation_cache.enable()
    signature = export.export(
        FLAGS.trial,
        step,
        polyak=FLAGS.polyak,
        formats=FLAGS.format or export.available_formats(),
        platforms=FLAGS.platforms or export.PLATFORMS,
        output=FLAGS.output,
    )
    for kind in ("inputs", "outputs"):
        for name, x in signature[kind].items():
            print(f"{kind[:-1]} {name}: {x['dtype']} [{', '.join(map(str, x['shape']))}]")
    for name, entry in signature["formats"].items():
        print(f"{name}: differs from the original by at most {entry['largest_difference']:.2g}")
    print(f"The model is in {signature['directory']}; README.txt there says how to load it")


if __name__ == "__main__":
    command_line.run(main)
