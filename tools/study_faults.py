"""What tools/fault_study.py does: a study whose processes are killed, beside one that is left alone."""

import collections
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.studies.execution import pool
from tools import digits_study

ROOT = Path(__file__).resolve().parent.parent
STARTING, RUNNING, ENDING = MOMENTS = ("starting", "running", "ending")
LAUNCHER, WORKER, WORKERS, ALL = VICTIMS = ("launcher", "a worker", "all workers", "all of them")
_PATIENCE_SECONDS = 10.0  # for processes to end that must
_POLL_SECONDS = 0.005
_ENDINGS = 12  # of so many kills one comes when all trials are over
_CHECKPOINTS = 20  # a trial makes
# A trial whose process is killed at its very end keeps its lock, which nobody holds.
_LEFT_OVER = ("**/.*.part", "**/*.orbax-checkpoint-tmp*", "**/*.unreadable", ".lock")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is killed, and when.

    Attributes:
      victim: one of VICTIMS.
      moment: one of MOMENTS.
      seconds: after how many of it.
    """

    victim: str
    moment: str
    seconds: float

    def __str__(self) -> str:
        """Returns it in words."""
        return f"{self.victim}, {self.moment} for {self.seconds:.2f} s"


class Study:
    """A study in a directory of its own, and the processes that run it.

    Attributes:
      path: its directory.
      processes: the launcher and worker processes that were ever seen, by number.
      launcher: the one that runs now, or ran last.
      spared: how many workers have been killed since it was started.
    """

    def __init__(self, config: Path, path: Path, workers: int, pack: int = 1) -> None:
        """Starts nothing yet; see the flags of scripts/launch_study.py."""
        self.path = path
        arguments = [f"--config={config}", f"--workdir={path}", f"--workers={workers}"]
        arguments += [f"--pack={pack}"] if pack > 1 else []
        self._command = [sys.executable, str(ROOT / "scripts/launch_study.py"), *arguments]
        self.processes: set[int] = set()
        self.launcher: subprocess.Popen | None = None
        self.spared = 0

    def launch(self) -> None:
        """Gives the command, again."""
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        with (self.path.parent / f"{self.path.name}.log").open("a") as log:
            self.launcher = subprocess.Popen(
                self._command, cwd=ROOT, stdout=log, stderr=log, env=environment
            )
        self.launched, self.spared = time.time(), 0
        self.processes.add(self.launcher.pid)

    def workers(self) -> list[int]:
        """Returns the workers of the launcher that runs now."""
        found = [number for number in _children(self.launcher.pid) if _is_worker(number)]
        self.processes.update(found)
        return found

    def has_begun(self) -> bool:
        """Says whether this launcher's workers have begun to run trials, or need not."""
        paths = self.path.glob("trials/*/status.json")
        return any(_modified(path) > self.launched for path in paths) or self.is_over()

    def is_over(self) -> bool:
        """Says whether all trials have come to their end."""
        states = self.states()
        return bool(states) and all(state in trial.FINISHED for state in states.values())

    def numbers(self) -> list[int]:
        """Returns the numbers of its trials; none as long as it has no study.json."""
        path = self.path / "study.json"
        return [row["trial"] for row in trial.read_json(path)["trials"]] if path.exists() else []

    def states(self) -> dict[int, str]:
        """Returns the states of its trials, by their numbers."""
        return {number: self.status(number)["state"] for number in self.numbers()}

    def status(self, number: int) -> dict:
        """Returns a trial's status."""
        return trial.read_json(self.trial(number) / "status.json", trial.new_status())

    def trial(self, number: int) -> Path:
        """Returns a trial's directory."""
        return self.path / "trials" / f"{number:03d}"

    def kill(self, fault: Fault, choice: random.Random) -> list[int]:
        """Kills what the fault names, as far as it is there; returns the victims."""
        workers = self.workers()
        victims = {
            LAUNCHER: [],
            WORKER: [choice.choice(workers)] if workers else [],
            WORKERS: workers,
            ALL: workers,
        }[fault.victim]
        if fault.victim in (LAUNCHER, ALL):
            victims = [*victims, self.launcher.pid]
            choice.shuffle(victims)
        else:
            self.spared += len(victims)
        for number in victims:
            os.kill(number, signal.SIGKILL)
        if self.launcher.pid in victims:
            self.launcher.wait()
        return victims

    def left(self) -> list[int]:
        """Returns the processes that are still there when they should long be gone."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (
            alive := [p for p in self.processes if _is_alive(p)]
        ) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return alive


def _children(process: int) -> list[int]:
    try:
        return [
            int(p) for p in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ]
    except OSError:
        return []


def _is_worker(process: int) -> bool:
    try:
        return b"playbook_jax.studies" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _is_alive(process: int) -> bool:
    """Says whether a process of ours runs; one that only waits to be reaped by init does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        ours = b"playbook_jax.studies" in (line := Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False
    return state != "Z" and (ours or b"launch_study" in line)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


class Record:
    """What was seen while a study was killed, and what was wrong with it.

    Attributes:
      wrong: in words.
      kills: how often each victim was hit at each moment.
      repeated: the steps that had been written and were made again, of kills that hit all workers.
      interrupted: how many trials such kills met.
    """

    def __init__(self, study: Study) -> None:
        """Begins with nothing."""
        self.wrong: list[str] = []
        self.kills: collections.Counter[tuple[str, str]] = collections.Counter()
        self.repeated = self.interrupted = 0
        self._study = study
        self._ended: dict[int, tuple] = {}
        self._points = b""

    def look(self, fault: Fault | None = None) -> None:
        """Looks at the study directory; just after a fault, or at the end."""
        study = self._study
        points = study.path / "study.json"
        if self._points and points.read_bytes() != self._points:
            self.wrong.append(f"study.json is another one after {fault}")
        if not points.exists():
            return
        self._points = points.read_bytes()
        for number, state in study.states().items():
            directory = study.trial(number)
            if number in self._ended and self._ended[number] != _stamp(directory):
                self.wrong.append(f"trial {number} had ended, and was touched before {fault}")
            if state in trial.FINISHED:
                self._ended[number] = _stamp(directory)
            elif state == trial.RUNNING and fault and fault.victim in (WORKERS, ALL):
                saved = [
                    int(p.name)
                    for p in (directory / "checkpoints").glob("[0-9]*")
                    if p.name.isdigit()
                ]
                self.repeated += max(0, len(trial.read_steps(directory)) - max(saved, default=0))
                self.interrupted += 1

    def runs(self) -> int:
        """Returns how often a trial was begun or gone on with, over all trials."""
        return sum(
            1 + len(trial.load(path.parent).provenance["earlier_runs"])
            for path in self._study.path.glob("trials/*/provenance.json")
        )


def _stamp(directory: Path) -> tuple:
    paths = [directory / name for name in ("status.json", "steps.f32", "summary.json")]
    return tuple((p.stat().st_ino, p.stat().st_mtime_ns) for p in paths if p.exists())


def write_config(path: Path, trials: int, steps: int) -> Path:
    """Writes the config of the study: the digits study, longer, with trials that save often."""
    every = max(4, steps // _CHECKPOINTS // 4 * 4)
    fixed = {
        "max_train_steps": steps,
        # What is written between two checkpoints is to be cut and made again.
        "eval_every_steps": every // 2,
        "log_every_steps": every // 4,
        "checkpoint.every_steps": every,
        "steps_per_call": min(100, every // 4),
    }
    return digits_study.write_study(path, num_trials=trials, fixed=fixed)


def left_alone(config: Path, path: Path, workers: int, pack: int = 1) -> tuple[Study, float, float]:
    """Runs the study; returns it, the seconds until its first trial began, and those after it.

    Raises:
      UsageError: it does not come to its end.
    """
    study = Study(config, path, workers, pack)
    study.launch()
    began = time.monotonic()
    while study.launcher.poll() is None and not study.has_begun():
        time.sleep(_POLL_SECONDS)
    started = time.monotonic()
    if study.launcher.wait():
        raise UsageError(f"the study fails without any fault; see {path}.log")
    return study, started - began, time.monotonic() - started


def draw(kills: int, starting: float, running: float, choice: random.Random) -> list[Fault]:
    """Returns random faults that a study, left alone, would survive about as long as it lasts.

    Args:
      kills: how many.
      starting: the seconds that the study takes until its first trial begins.
      running: the seconds that it runs from then on.
      choice: the source of chance.
    """
    endings = max(1, kills // _ENDINGS) if kills > 1 else 0
    faults = []
    for number in range(kills):
        moment = ENDING if number >= kills - endings else choice.choice([RUNNING] * 4 + [STARTING])
        most = {STARTING: starting, RUNNING: 2 * running / kills, ENDING: 2.0}[moment]
        faults.append(Fault(choice.choice(VICTIMS), moment, choice.uniform(0, most)))
    return faults


def disturb(study: Study, faults: Iterable[Fault], choice: random.Random) -> Record:
    """Runs a study to its end with these faults on its way; returns what was seen."""
    record = Record(study)
    for number, fault in enumerate(faults, start=1):
        if study.launcher is None or study.launcher.poll() is not None:
            study.launch()
        while not _wait(study, fault):  # it came to its end before
            if code := study.launcher.returncode:
                record.wrong.append(f"the launcher exits with {code} before {fault}")
            study.launch()
            fault = dataclasses.replace(fault, moment=ENDING, seconds=fault.seconds / 2)
        fault = bearable(study, fault)
        victims = study.kill(fault, choice)
        record.kills[fault.victim, fault.moment] += 1
        record.look(fault)
        ended = sum(state in trial.FINISHED for state in study.states().values())
        print(f"{number:>4}  {fault!s:<34} {len(victims)} killed, {ended} trials ended", flush=True)
    if study.launcher is None or study.launcher.poll() is not None:
        study.launch()
    study.workers()
    if code := study.launcher.wait():
        record.wrong.append(f"the launcher exits with {code} at the end; see {study.path}.log")
    record.look()
    return record


def bearable(study: Study, fault: Fault) -> Fault:
    """Returns a fault that also hits the launcher where the workers alone have died often enough.

    A launcher gives up a trial whose worker dies again and again, and itself where workers do not start.
    """
    enough = study.spared >= pool.MAX_RETRIES or not study.workers()
    if fault.victim in (WORKER, WORKERS) and enough:
        return dataclasses.replace(fault, victim=ALL)
    return fault


def _wait(study: Study, fault: Fault) -> bool:
    """Waits for the moment of a fault; returns whether it came before the end of the launcher."""
    since, has_come = (
        None,
        {
            STARTING: lambda: True,
            RUNNING: study.has_begun,
            ENDING: study.is_over,
        }[fault.moment],
    )
    while study.launcher.poll() is None:
        if since is None and has_come():
            since = time.monotonic()
        if since is not None and time.monotonic() >= since + fault.seconds:
            return True
        time.sleep(_POLL_SECONDS)
        study.workers()
    return False


def judge(alone: Study, killed: Study, record: Record, at_once: int) -> list[str]:
    """Returns what is wrong with a study that was killed, beside one that was left alone.

    Args:
      alone: the study that was left alone.
      killed: the same study.
      record: what was seen of it.
      at_once: how many trials run at a time at most.
    """
    from playbook_jax.procedures import bitwise_diff

    wrong = list(record.wrong)
    numbers = alone.numbers()
    if (alone.path / "study.json").read_bytes() != (killed.path / "study.json").read_bytes():
        wrong.append("study.json is not the same")
    for number in numbers:
        found = bitwise_diff.compare(alone.trial(number), killed.trial(number))
        texts = [*found.differences, *(f"missing: {text}" for text in found.missing)]
        wrong += [f"trial {number}: {text}" for text in texts]
    for name in ("study.csv", "best_config.py", "report.html"):
        if not (killed.path / name).exists():
            wrong.append(f"{name} is missing")
    if (alone.path / "study.csv").read_bytes() != (killed.path / "study.csv").read_bytes():
        wrong.append("study.csv is not the same")
    wrong += [f"process {number} is still there" for number in killed.left()]
    for pattern in _LEFT_OVER:
        wrong += [f"left over: {p.relative_to(killed.path)}" for p in killed.path.glob(pattern)]
    again = record.runs() - len(numbers)
    if again > at_once * record.kills.total():
        wrong.append(f"trials were begun {again} times more than the kills can explain")
    return wrong


def table(alone: Study, killed: Study, record: Record) -> str:
    """Returns the summary."""
    lines = ["", f"{'kills of':<12}" + "".join(f"{moment:>10}" for moment in MOMENTS)]
    for victim in VICTIMS:
        counts = [record.kills[victim, moment] for moment in MOMENTS]
        lines.append(f"{victim:<12}" + "".join(f"{count:>10}" for count in counts))
    states = list(killed.states().values())
    counts = collections.Counter(states)
    lines.append("")
    lines.append(f"{len(states)} trials: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    lines.append(f"Trials were taken up again {record.runs() - len(states)} times.")
    if record.interrupted:
        lines.append(
            f"Where all workers died, {record.interrupted} trials were under way: on average "
            f"{record.repeated / record.interrupted:,.0f} steps that were on disk were made again."
        )
    return "\n".join(lines)
