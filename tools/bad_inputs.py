#!/usr/bin/env python3
"""Throws bad inputs at all commands, and shows in a table which of them end badly.

    tools/bad_inputs.py                        all cases, before a release; half an hour on two cores
    tools/bad_inputs.py --only='stored: '      those whose title contains this
    tools/bad_inputs.py --sample=8             a few of each kind

A case is a process of its own, in a directory of its own with a small finished study. It ends badly with a
traceback, an exit code that is not one of those that are right, more than a minute or two, or something
half made: `.part` files, or a new directory though the command was refused.

Exits with 1 if one ends badly. Cases of rights need root, to run as a user who has none; else they are
skipped, and said to be.
"""

import collections
import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import flags

from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line
from tools import bad_input_cases
from tools.bad_input_cases import NOBODY, REFUSED, Case

GOOD, SKIPPED = "good", "skipped"

FLAGS = flags.FLAGS
flags.DEFINE_string("only", "", "Only the cases whose title contains this.")
flags.DEFINE_integer("sample", 0, "So many cases, from all kinds alike; 0: all.", 0)
flags.DEFINE_integer("jobs", 2, "How many cases run at a time.", 1)
flags.DEFINE_integer("time_limit", 180, "Seconds after which a case hangs.", 1)

# Three trials that take a moment, and all that a study leaves.
_TRAINING = """
from playbook_jax import config as config_lib


def get_config():
    config = config_lib.load({digits!r})
    small = {{"model.hidden_sizes": (8,), "batch_size": 32, "eval_batch_size": 64, "max_train_steps": 20}}
    small |= {{"eval_every_steps": 10, "log_every_steps": 10, "checkpoint.every_steps": 10}}
    return config_lib.override(config, small | {{"eval_train_examples": 32, "steps_per_call": 10}})
"""
_STUDY = """
from ml_collections import ConfigDict


def get_config():
    rate = {"scale": "log", "low": 0.01, "high": 0.1}
    study = {
        "name": "small",
        "goal": "Which rate?",
        "base_config": "config.py",
        "objective": {"metric": "validation/error_rate", "mode": "min"},
        "num_trials": 3,
        "nuisance": {"hparams.learning_rate": rate},
    }
    return ConfigDict(study, convert_dict=False)
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a case ended: GOOD, SKIPPED or what is bad, the exit code, and the last line that was said."""

    case: Case
    verdict: str
    code: int | None
    said: str


def make_study(directory: Path) -> None:
    """Trains the small study that the cases are given copies of.

    Raises:
      UsageError: it fails.
    """
    directory.mkdir()
    digits = str(ROOT / "configs" / "digits_mlp.py")
    (directory / "config.py").write_text(_TRAINING.format(digits=digits))
    (directory / "study.py").write_text(_STUDY)
    arguments = ["--config=study.py", "--workdir=study", "--workers=1"]
    command = [sys.executable, str(ROOT / "scripts" / "launch_study.py"), *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"the study for the cases fails: {done.stderr.strip()[-500:]}")


def run(case: Case, study: Path, place: Path, time_limit: float) -> Outcome:
    """Returns how a case ends in the directory `place`, a copy of `study`, which is then removed."""
    if case.nobody and os.geteuid():
        return Outcome(case, SKIPPED, None, "only root can run it as another user")
    shutil.copytree(study, place)
    try:
        case.prepare(place)
        before = _names(place)
        done = _run(case, place, time_limit)
        said = (done.stderr + done.stdout).decode(errors="replace")
        verdict = judge(case, done.returncode, said, _names(place) - before)
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return Outcome(case, verdict, done.returncode, lines[-1] if lines else "")
    except subprocess.TimeoutExpired:
        return Outcome(case, "hangs", None, f"more than {time_limit} s")
    finally:
        for path in (place, *place.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(place)


def _run(case: Case, place: Path, time_limit: float) -> subprocess.CompletedProcess:
    script = ROOT / "scripts" / f"{case.command}.py"
    words = [sys.executable, str(script), *case.arguments]
    if case.streams:
        words = ["bash", "-c", f"{shlex.join(words)} {case.streams}"]
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if case.nobody else {}
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "HOME": str(place), **case.environment}
    return subprocess.run(
        [os.fsencode(word) for word in words],
        cwd=place,
        env=environment,
        timeout=time_limit,
        capture_output=True,
        check=False,
        **user,
    )


def judge(case: Case, code: int, said: str, made: Iterable[str]) -> str:
    """Returns GOOD, or what is bad about the end of a case.

    Args:
      case: the case.
      code: its exit code.
      said: what it printed.
      made: the paths that were not there before.
    """
    made = [path for path in made if not path.startswith((".cache", ".config"))]
    if "Traceback (most recent call last)" in said:
        return "traceback"
    if any(path.endswith(".part") for path in made):
        return "half made"
    if code not in case.codes:
        return f"exit {code}"
    if case.codes == REFUSED and any("/" not in path for path in made):
        return "half made"
    return GOOD


def _names(place: Path) -> set[str]:
    return {
        os.fsencode(path.relative_to(place)).decode(errors="replace") for path in place.rglob("*")
    }


def chosen(cases: Sequence[Case], only: str, sample: int) -> list[Case]:
    """Returns the cases whose title contains `only`, or `sample` of them, spread over kinds and commands.

    Raises:
      UsageError: there is none.
    """
    found = [case for case in cases if only in case.title]
    if not found:
        raise UsageError(f"no case has {only!r} in its title")
    if not sample:
        return found
    groups: dict[str, list[Case]] = {}
    for case in found:
        groups.setdefault(case.kind, []).append(case)
    share = [-(-sample // len(groups))] * len(groups)
    spread = [
        [cases[i * len(cases) // n] for i in range(min(n, len(cases)))]
        for n, cases in zip(share, groups.values(), strict=True)
    ]
    turns = [cases[i] for i in range(max(map(len, spread))) for cases in spread if i < len(cases)]
    return turns[:sample]


def table(outcomes: Sequence[Outcome]) -> str:
    """Returns a line a kind: how many cases it has, and how they ended."""
    kinds: dict[str, collections.Counter[str]] = {}
    for outcome in outcomes:
        kinds.setdefault(outcome.case.kind, collections.Counter())[outcome.verdict] += 1
    lines = [f"{'':<16}{'cases':>6}{GOOD:>6}  bad"]
    for kind, verdicts in kinds.items():
        bad = [f"{n} {v}" for v, n in verdicts.most_common() if v != GOOD]
        lines.append(f"{kind:<16}{verdicts.total():>6}{verdicts[GOOD]:>6}  {', '.join(bad)}")
    return "\n".join(lines)


def line(outcome: Outcome) -> str:
    """Returns a line about a case that ended badly."""
    text = f"{outcome.verdict}: {outcome.case.title}: {outcome.said[:150]}"
    return text.encode("ascii", "backslashreplace").decode()


def main(argv: Sequence[str]) -> int:
    """Prints the table, and returns the exit code."""
    if len(argv) > 1:
        raise UsageError(f"unexpected argument {argv[1]!r}; see --help")
    with tempfile.TemporaryDirectory(prefix="bad-inputs-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        make_study(place / "whole")
        cases = chosen(bad_input_cases.every(place / "whole" / "study"), FLAGS.only, FLAGS.sample)
        outcomes = []
        with ThreadPoolExecutor(FLAGS.jobs) as pool:
            ends = pool.map(
                lambda numbered: run(
                    numbered[1], place / "whole", place / str(numbered[0]), FLAGS.time_limit
                ),
                enumerate(cases),
            )
            for outcome in ends:
                outcomes.append(outcome)
                if outcome.verdict not in (GOOD, SKIPPED):
                    print(line(outcome), flush=True)
    print(table(outcomes))
    return 0 if all(outcome.verdict in (GOOD, SKIPPED) for outcome in outcomes) else 1


if __name__ == "__main__":
    command_line.run(main)
