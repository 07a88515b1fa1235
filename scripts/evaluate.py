#!/usr/bin/env python3
"""Evaluates a saved checkpoint on any split, without training, and writes every prediction.

    scripts/evaluate.py --trial=/tmp/run --split=validation
    scripts/evaluate.py --trial=/tmp/run --split=test --test
    scripts/evaluate.py --trial=/tmp/run --split=validation --predictions=served.csv

The last one scores predictions from elsewhere: a CSV file with the columns example (the number in the
split) and prediction. --split=train also tells whether the sample of the training set that periodic
evaluations see represents the whole.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line

SKEWED = 3  # standard errors: by chance in 1 of 370 cases

FLAGS = flags.FLAGS
flags.DEFINE_string("trial", None, "The trial directory.")
flags.DEFINE_string("step", "best", "Which checkpoint: best, latest, or a number of steps.")
flags.DEFINE_string("split", "validation", "train, validation or test.")
flags.DEFINE_bool("test", False, "Allow --split=test; the trial's provenance notes it.")
flags.DEFINE_bool("polyak", False, "Evaluate the averaged parameters.")
flags.DEFINE_string("predictions", None, "Score this CSV file instead of a checkpoint.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if not FLAGS.trial:
        raise UsageError("--trial=DIR is missing")
    if FLAGS.split == "test" and not FLAGS.test:
        raise UsageError(
            "every look at the test set makes it worth less; when exploration is over, add --test "
            "(the trial's provenance will say so)"
        )
    step = int(FLAGS.step) if FLAGS.step.isdigit() else FLAGS.step
    if step not in ("best", "latest") and not isinstance(step, int):
        raise UsageError(f"--step={step}: give best, latest, or a number of steps")
    if FLAGS.predictions and (FLAGS.polyak or FLAGS["step"].present):
        raise UsageError("--predictions scores a file, so --step and --polyak do not go with it")
    trial.load(FLAGS.trial)

    from playbook_jax.inference import evaluate
    from playbook_jax.runtime import compilation_cache

    compilation_cache.enable()
    if FLAGS.predictions:
        name = f"{FLAGS.split}-of-{Path(FLAGS.predictions).stem}"
        result = evaluate.score(FLAGS.trial, FLAGS.predictions, FLAGS.split)
    else:
        name = f"{FLAGS.split}-{step}" + ("-polyak" if FLAGS.polyak else "")
        result = evaluate.evaluate(FLAGS.trial, step, FLAGS.split, polyak=FLAGS.polyak)
    path = evaluate.write(FLAGS.trial, name, result)
    where = "" if result.step is None else f" at step {result.step:,}"
    print(f"{FLAGS.split}{where}, {result.examples:,} examples")
    for metric, value in result.metrics.items():
        print(f"  {metric:<20} {value:.4g} ± {result.standard_errors[metric]:.2g} (standard error)")
    for label, counts in result.classes.items():
        print(f"  class {label:<14} {counts['correct']} of {counts['examples']} correct")
    for metric, skew in result.skew.items():
        print(
            f"  {FLAGS.split}/{metric} of periodic evaluations: {skew['sample']:.4g} on their sample, "
            f"{skew['whole']:.4g} on all ({skew['standard_errors']:.1f} standard errors)"
        )
    if any(skew["standard_errors"] > SKEWED for skew in result.skew.values()):
        print("  The sample does not represent the whole; change eval_train_examples")
    print(f"Every prediction is in {path}")


if __name__ == "__main__":
    command_line.run(main)
