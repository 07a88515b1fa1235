#!/usr/bin/env python3
"""Measures how often the findings of a report are wrong, on random studies whose truth is known.

    benchmarks/findings.py                                  all; a few minutes
    benchmarks/findings.py --only=overfit --studies=1000    those whose names contain a word

First how often advice is wrong, on studies in which it has been (tests/advice_cases.py), goal 5 % or none.
Then for each finding: the part of so many studies of 20 and of 100 trials in which it comes though there is
nothing (false alarm, goal 5 %), and in which it does not though there is an effect of three times the
noise (miss, goal 10 %). The studies are described where they are made, in tests/finding_studies.py
and tests/finding_cases.py.
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import flags

from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line

ALARMS, MISSES = 0.05, 0.10  # goals

FLAGS = flags.FLAGS
flags.DEFINE_integer("studies", 200, "Random studies of each kind.", lower_bound=1)
flags.DEFINE_list("trials", ["20", "100"], "Trials of a study.")
flags.DEFINE_string("only", "", "Only the findings whose names contain this.")
flags.DEFINE_integer("seed", 0, "Of the random studies.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if not all(trials in ("20", "100") for trials in FLAGS.trials):
        raise UsageError("--trials can be 20, 100 or 20,100: for these the studies are made")
    from tests import advice_cases, finding_cases, finding_studies

    cases = [case for case in finding_cases.CASES if FLAGS.only in case.name]
    advice = [
        case for case in (*advice_cases.CASES, advice_cases.RECOGNISED) if FLAGS.only in case.name
    ]
    if not cases and not advice:
        names = ", ".join(case.name for case in (*finding_cases.CASES, *advice_cases.CASES))
        raise UsageError(f"no finding's name contains {FLAGS.only!r}: {names}")
    _advice(advice)
    print(
        f"{FLAGS.studies} random studies each; goals: false alarms {ALARMS:.0%}, misses {MISSES:.0%}"
    )
    print(f"{'':<32}" + "".join(f"{f'{trials} trials':>22}" for trials in FLAGS.trials))
    print(f"{'':<32}" + f"{'false alarms':>14}{'misses':>8}" * len(FLAGS.trials))
    start, missed = time.process_time(), 0
    for case in cases:
        cells = []
        for trials in map(int, FLAGS.trials):
            alarms, misses = finding_studies.rates(case, trials, FLAGS.studies, FLAGS.seed)
            over = [rate > goal for rate, goal in ((alarms, ALARMS), (misses, MISSES))]
            missed += any(over)
            cells += [
                f"{alarms:.1%}{'!' * over[0]}".rjust(14),
                f"{misses:.1%}{'!' * over[1]}".rjust(8),
            ]
        print(f"{case.name:<32}" + "".join(cells), flush=True)
    print(
        f"{missed} of {len(cases) * len(FLAGS.trials)} miss a goal (!); {time.process_time() - start:.0f} s"
    )
    untried = finding_cases.untried()
    if untried:
        print(f"No random studies try: {', '.join(untried)}")


def _advice(cases: list) -> None:
    """Prints how often advice is wrong."""
    from tests import advice_cases

    print(f"{FLAGS.studies} random studies each: in how many the advice is wrong, and the goal")
    for case in cases:
        rates = [advice_cases.rate(case, int(n), FLAGS.studies, FLAGS.seed) for n in FLAGS.trials]
        cells = [f"{rate:.1%}{'!' * (rate > case.goal)}".rjust(10) for rate in rates]
        print(f"{case.name:<52}{''.join(cells)}{case.goal:>8.0%}", flush=True)


if __name__ == "__main__":
    command_line.run(main)
