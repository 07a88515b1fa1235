#!/usr/bin/env python3
"""Kills a training run again and again, and compares its end with that of a run left alone.

    tools/fault_test.py --config=configs/digits_mlp.py --workdir=/tmp/faults --kills=20
    tools/fault_test.py --config=configs/digits_cnn.py --workdir=/tmp/faults2 --kills=20 --devices=4

The moments are random, or while a checkpoint is being written, or just after an evaluation; the signals
SIGKILL, SIGTERM and SIGINT. With --damage, what a power cut can do follows: the file that was written
last, or one of those before, is cut, blanked or deleted. Every key of the config can be set by
--config.KEY=VALUE: many checkpoints in a run of some seconds show most. Exits with 0 if every bit is the
same, 1 if not.
"""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import flags

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line
from playbook_jax.tracking import record_files

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Where the runs are made; must not exist.")
flags.DEFINE_integer("kills", 20, "How often a run is killed.")
flags.DEFINE_integer("fault_seed", 0, "Of the moments and signals.")
flags.DEFINE_bool("damage", False, "Whether each kill is followed by damage to the newest files.")
flags.DEFINE_integer("devices", 1, "How many virtual devices the CPU has.")

SAVING, EVALUATED, ANY_TIME = MOMENTS = ("saving", "evaluated", "any time")
CUT, ZEROED, DELETED = DAMAGES = ("loses {} bytes", "ends in {} zeros", "is deleted")
_NEWEST = 6  # of which one is damaged
_NOT_DAMAGED = {"config.json", ".lock"}
# What depends on the clock or on the process.
_NOT_COMPARED = {"provenance.json", "timing.jsonl", "checkpoints", "profile", "tensorboard"}


@dataclasses.dataclass(frozen=True)
class Fault:
    """When a run is killed, and how.

    Attributes:
      moment: one of MOMENTS.
      signal: the signal's number.
      seconds: with ANY_TIME, after how many of training.
    """

    moment: str
    signal: int
    seconds: float = 0.0

    def __str__(self) -> str:
        """Returns it in words."""
        when = f"after {self.seconds:.2f} s" if self.moment == ANY_TIME else self.moment
        return f"{signal.Signals(self.signal).name} {when}"


def train(config: Path, directory: Path, devices: int, fault: Fault | None = None) -> int | None:
    """Runs scripts/train.py, until its end or its fault; returns its exit code.

    Args:
      config: a config file.
      directory: the trial directory.
      devices: how many virtual devices the CPU has.
      fault: what happens to it, if it does not end before that.
    """
    command = [sys.executable, ROOT / "scripts/train.py", f"--config={config}"]
    virtual = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": virtual}
    with (directory.parent / "log.txt").open("a") as log:
        process = subprocess.Popen(
            [*command, f"--workdir={directory}"], stdout=log, stderr=log, env=environment
        )
        if fault:
            has_come = _moment(fault, directory)
            while process.poll() is None and not has_come():
                time.sleep(0.001)
            process.send_signal(fault.signal)
        return process.wait()


def _moment(fault: Fault, directory: Path) -> Callable[[], bool]:
    """Returns the function that says whether the moment has come, from now on."""
    status, metrics = directory / "status.json", directory / "metrics.jsonl"
    started, evaluated, deadline = time.time(), _size(metrics), None

    def has_come() -> bool:
        nonlocal deadline
        if not status.exists() or status.stat().st_mtime < started:
            return False  # still on its way to where it was
        if fault.moment == SAVING:
            return any((directory / "checkpoints").glob("*.orbax-checkpoint-tmp"))
        if fault.moment == EVALUATED:
            return _size(metrics) > evaluated
        deadline = deadline or time.monotonic() + fault.seconds
        return time.monotonic() > deadline

    return has_come


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def damage(directory: Path, choice: random.Random) -> str:
    """Damages one of the files of a stopped trial that were written last; returns in words what was done.

    All but the config, without which nobody knows what the trial is, and what says that it has ended.
    """
    files = [
        (path.stat().st_mtime_ns, str(path))
        for path in directory.rglob("*")
        if path.is_file() and path.name not in _NOT_DAMAGED and "unreadable" not in str(path)
    ]
    newest = [name for _, name in sorted(files)[-_NEWEST:]]
    records = [str(p) for n in record_files.COUNTED if (p := directory / n).exists()]
    path = Path(choice.choice(choice.choice([newest, records or newest])))
    data, how = path.read_bytes(), choice.choice(DAMAGES)
    lost = choice.randint(1, max(1, min(len(data), choice.choice([40, 4096, 1 << 20]))))
    if how == DELETED:
        path.unlink()
    else:
        path.write_bytes(data[:-lost] + (bytes(min(lost, len(data))) if how == ZEROED else b""))
    return f"{path.relative_to(directory)} {how.format(lost)}"


def differences(left: Path, right: Path) -> list[str]:
    """Returns what is not the same in two finished trials, bit for bit; empty where all is."""
    from playbook_jax import checkpoints
    from playbook_jax.procedures import bitwise_diff

    names = {p.name for d in (left, right) for p in d.iterdir() if p.name not in _NOT_COMPARED}
    found = [
        name
        for name in sorted(names)
        if (left / name).is_file() != (right / name).is_file()
        or ((left / name).is_file() and (left / name).read_bytes() != (right / name).read_bytes())
    ]
    for step in ("best", "latest"):
        states = (checkpoints.load(directory, step) for directory in (left, right))
        found += [f"checkpoint {step}{path}" for path in bitwise_diff.unlike_arrays(*states)]
    return found


def _faults(kills: int, seconds: float, seed: int) -> Iterator[Fault]:
    generator = random.Random(seed)
    for _ in range(kills):
        yield Fault(
            generator.choice([ANY_TIME, ANY_TIME, SAVING, EVALUATED]),
            generator.choice([signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT]),
            generator.uniform(0, seconds),
        )


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; see --help")
    if not FLAGS.workdir or Path(FLAGS.workdir).exists():
        raise UsageError("--workdir=DIR is missing, or exists already")
    place = Path(FLAGS.workdir)
    place.mkdir(parents=True)
    config = place / "config.json"
    config.write_text(json.dumps(config_lib.to_dict(FLAGS.config)))
    if train(config, place / "alone", FLAGS.devices):
        print(f"error: the run fails without any fault; see {place / 'log.txt'}", file=sys.stderr)
        return 1
    seconds = trial.read_json_lines(place / "alone" / "timing.jsonl")[-1]["seconds"]
    print(f"Left alone, training takes {seconds:.1f} s")

    runs, found, choice = [place / "killed-0"], [], random.Random(FLAGS.fault_seed)
    for number, fault in enumerate(_faults(FLAGS.kills, seconds / 3, FLAGS.fault_seed), start=1):
        code = train(config, runs[-1], FLAGS.devices, fault)
        status = trial.read_json(runs[-1] / "status.json", trial.new_status())
        print(f"{number:>4}  {fault!s:<24} exit {code:>3}, step {status['step']:>7,}", flush=True)
        if FLAGS.damage and code:
            print(f"      {damage(runs[-1], choice)}", flush=True)
        if code == 0:  # it came to its end before: the faults go on with another
            found += _compare(place / "alone", runs[-1])
            runs.append(place / f"killed-{len(runs)}")
        elif code not in (-fault.signal, trial.EXIT_CODES[trial.INTERRUPTED]):
            found.append(f"{runs[-1].name} exits with {code}")
    train(config, runs[-1], FLAGS.devices)
    found += _compare(place / "alone", runs[-1])
    warnings = re.findall(
        r"^warning: \S+ (can't be read|counts on)", (place / "log.txt").read_text(), re.M
    )
    print(f"{len(runs)} trials; checkpoints left aside: {dict(Counter(warnings)) or 'none'}")
    print(*(found or ["Every bit is the same."]), sep="\n")
    return 1 if found else 0


def _compare(alone: Path, killed: Path) -> list[str]:
    return [f"{killed.name}: {difference}" for difference in differences(alone, killed)]


if __name__ == "__main__":
    command_line.run(main, config_flag=True)
