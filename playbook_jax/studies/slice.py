"""One trial on several hosts at once: those of a TPU slice, or a group of GPU hosts, walk a study in step.

The same command runs on every host. Host 0 launches the study as anywhere else; its executor, `Slice`,
tells the others what comes next, so that all train the same trial at the same time, each in its own
process and with what it has compiled. Only host 0 writes, and its clock counts. A request to stop on any
host ends them all after the same step. A host that is lost ends the processes of all, which their
parents start again (see `hosts.watch`); the trial goes on from its checkpoint.
"""

import contextlib
import dataclasses
import itertools
import math
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax import config as config_lib, hosts, raised, trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.studies import (
    full_disk,
    jobs,
    launcher,
    leaving,
    running as running_lib,
    specification as specification_lib,
)
from playbook_jax.studies.channel import Channel, HostLostError, Message
from playbook_jax.studies.directory import Status, StudyDirectory
from playbook_jax.studies.executor import Listener, Stop, Trial
from playbook_jax.studies.in_process import InProcess
from playbook_jax.studies.restarts import ENDED, Restarts

_BAD_INPUT = 2
_GRACE_SECONDS = 30.0  # between the failures of hosts that fail alike
_SHARED_SECONDS = 5.0  # within which the others must see a file that host 0 has written
# A reason for which a trial is tried again: what failure.py says of jax's errors, and an error of its
# connections on CPUs that is raised as a ValueError.
_LOST = "^another host was lost|Gloo"


def refuse(**asked: bool) -> None:
    """Raises a UsageError where something is asked for that makes no sense here, by flag."""
    for flag, is_asked in asked.items():
        if is_asked:
            raise UsageError(
                f"--{flag} makes no sense on several hosts, where one trial at a time runs on all of "
                "them; leave it out"
            )


def launch(
    all_hosts: hosts.Hosts,
    config_path: str | Path,
    workdir: str | Path,
    options: launcher.Options,
) -> int:
    """Runs a study, or what is left of it, on all these hosts; called on each of them.

    Args:
      all_hosts: the hosts.
      config_path: the study config, the same on all hosts.
      workdir: the study directory, which all hosts see.
      options: how; but for the module that trains, those of host 0 count. One worker is all of the hosts.

    Returns:
      The exit code of `launcher.launch`, the same on all hosts; 1 where a host was lost for good.

    Raises:
      UsageError: the study can't be run; for the same reason on all hosts.
    """
    if hosts.is_parent(all_hosts):
        restarts = Restarts()
        return hosts.watch(all_hosts, restarts.give_up, restarts.again)
    hosts.join(all_hosts)
    with Stop() as stop, _leaving_when_lost():  # only now: jax listens to the signals too
        import jax

        from playbook_jax import compilation_cache

        compilation_cache.enable()
        channel = Channel()
        _agree_on_the_study(channel, config_path, options.overrides)
        jax.devices()  # which waits until all hosts have come here, so not where one alone does
        here = InProcess(options.train_module)
        if channel.index:
            with leaving.looking(lambda: leaving.leave_if_told(channel)):
                return _follow(channel, here, Path(workdir), stop)
        return _lead(channel, here, all_hosts.timeout, config_path, workdir, options)


@contextlib.contextmanager
def _leaving_when_lost() -> Iterator[None]:
    """Ends the process at once where an orderly end would wait for hosts that wait for this one."""
    try:
        yield
    except UsageError:
        raise  # on all hosts
    except HostLostError as error:
        print(f"error: {error}", file=sys.stderr)
        hosts.leave(hosts.LOST)
    except Exception:
        traceback.print_exc()
        hosts.leave(trial_lib.EXIT_CODES[trial_lib.FAILED])


def _agree_on_the_study(
    channel: Channel, config_path: str | Path, overrides: Sequence[str]
) -> None:
    """Has every host read the study config.

    Raises:
      UsageError: one can't, or reads another study than host 0; on all hosts with the same text.
    """
    mine: Message = {"error": "", "study": None}
    try:
        mine["study"] = specification_lib.load(config_path, overrides).to_dict()
    except UsageError as error:
        mine["error"] = str(error)
    found = channel.gather("study", mine)
    for host, message in enumerate(found):
        if message["error"]:
            alike = all(other["error"] == message["error"] for other in found)
            raise UsageError(message["error"] if alike else f"host {host}: {message['error']}")
    for host, message in enumerate(found):
        changed = config_lib.differences(found[0]["study"], message["study"])
        if changed:
            shown = "; ".join(changed[:5]) + (" …" if len(changed) > 5 else "")
            raise UsageError(
                f"host {host} has another study than host 0 ({shown}); all hosts need the same --config"
            )


def _lead(
    channel: Channel,
    here: InProcess,
    timeout: float,
    config_path: str | Path,
    workdir: str | Path,
    options: launcher.Options,
) -> int:
    """Launches the study, on host 0; however that ends, the others end with it."""

    def make_executor(study: StudyDirectory, stop: Stop) -> Slice:
        return Slice(channel, here, timeout, options.silent_limit, study, stop)

    options = dataclasses.replace(options, num_workers=1, make_executor=make_executor)
    end = {"do": "end", "code": trial_lib.EXIT_CODES[trial_lib.FAILED], "error": ""}
    try:
        end["code"] = launcher.launch(config_path, workdir, options)
    except HostLostError:
        raise  # nobody goes on
    except UsageError as error:
        channel.command(end | {"code": _BAD_INPUT, "error": str(error)})
        raise
    except BaseException:
        channel.command(end)
        raise
    channel.command(end)
    return end["code"]


def _follow(channel: Channel, here: InProcess, workdir: Path, stop: Stop) -> int:
    """Does what host 0 says, on the other hosts, until it ends; returns its exit code.

    Raises:
      UsageError: host 0 has raised it.
    """
    print(f"Host {channel.index} of {channel.count}: host 0 shows how the study gets on.")
    running = False
    for number, command in channel.commands():
        if running:
            hosts.tell(ENDED)
        running = command["do"] == "train"
        match command.pop("do"):
            case "validate":
                answer = {"error": _see(workdir, command.pop("lock")) or here.validate(**command)}
            case "train":
                hosts.tell(str(command["trial"]))
                directory = workdir / command.pop("directory")
                answer = here.train(
                    **command, directory=directory, stop=lambda: bool(stop.requests)
                )
            case "end":
                if command["error"]:
                    raise UsageError(command["error"])
                return command["code"]
        channel.put(f"answer/{number}/{channel.index}", answer)
    raise AssertionError("host 0 always says when it ends")


def _see(workdir: Path, lock: str) -> str:
    """Returns what is wrong where this host does not see the lock that host 0 has taken."""
    deadline = time.monotonic() + _SHARED_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if (workdir / ".lock").read_text() == lock:
                return ""
        time.sleep(0.1)
    return (
        f"{workdir} is not the directory that host 0 writes to; "
        "--workdir must be a directory that all hosts share"
    )


class Slice:
    """The executor of host 0, see `executor.Executor`: all hosts run one trial after another."""

    def __init__(
        self,
        channel: Channel,
        here: InProcess,
        timeout: float,
        silent_limit: float,
        study: StudyDirectory,
        stop: Stop,
    ) -> None:
        """Says nothing yet.

        Args:
          channel: to the other hosts.
          here: what validates and trains on this host.
          timeout: seconds after which jax aborts the processes when a host is silent.
          silent_limit: seconds without progress after which all start again.
          study: the directory, which is locked.
          stop: asked whether to go on.
        """
        self._channel, self._here, self._timeout = channel, here, timeout
        self._grace, self._silent_limit = min(_GRACE_SECONDS, timeout), silent_limit
        self._path, self._stop = study.path, stop
        self.failures: Mapping[int, str] = {}
        self._ends = False  # whether all processes are about to

    def validate(self, shared: Mapping[str, Any], trials: Sequence[Trial]) -> bool:
        """Implements `executor.Executor`; all hosts check all configs."""
        self._time_limit = shared["time_limit"]
        arguments = {"shared": shared, "trials": list(trials)}
        lock = (self._path / ".lock").read_text()
        number = self._channel.command({"do": "validate", "lock": lock, **arguments})
        mine = {"error": self._here.validate(**arguments)}
        self._refuse([mine, *self._answers(number)])
        self.failures = self._here.failures
        return not self._stop.requests

    def run(
        self, trials: Sequence[Trial], directory: Callable[[int], Path], listener: Listener
    ) -> bool:
        """Implements `executor.Executor`; trials of one program follow each other."""
        by_program = jobs.by_program(trials).values()
        for trial in itertools.chain.from_iterable(by_program):
            if self._stop.requests:
                return False
            number = trial["trial"]
            answers = self._train(trial, directory(number), listener)
            listener.ended(number, self._conclude(number, directory(number), answers))
            hosts.tell(ENDED)
            if any(answer["stop"] for answer in answers):
                return False
        return True

    def close(self) -> None:
        """Implements `executor.Executor`; the other hosts wait for what comes next."""

    def _train(self, trial: Trial, directory: Path, listener: Listener) -> list[Message | None]:
        """Has all hosts run a trial; returns their answers, None of a host that gave none in time."""
        began = time.monotonic()
        where = os.path.relpath(directory, self._path)
        number = self._channel.command({"do": "train", **trial, "directory": where})
        hosts.tell(f"{trial['trial']} {directory}")

        def progress(step: int) -> None:
            self._heard = time.monotonic()
            listener.step(trial["trial"], step)

        self._heard, self._failed_since = began, math.inf
        with leaving.looking(lambda: self._look(number, trial["trial"], directory)):
            mine = self._here.train(
                **trial,
                directory=directory,
                stop=lambda: bool(self._stop.requests),
                progress=progress,
                out_of_time=lambda: time.monotonic() - began > self._time_limit,
            )
        if self._ends:  # in the other thread: what has come of the trial here is no news
            threading.Event().wait()
        if not _has_failed(mine):
            return [mine, *self._answers(number)]
        if mine["status"]:  # unless the others answer too, it was they who were lost
            waiting = {"state": trial_lib.INTERRUPTED, "reason": "a host was lost"}
            self._write(directory, mine["status"] | waiting)
        # A host that is dead does not answer either, but then jax aborts this process before.
        return [mine, *self._answers(number, self._timeout + self._grace)]

    def _answers(self, number: int, seconds: float = math.inf) -> list[Message | None]:
        deadline = time.monotonic() + seconds
        others = range(1, self._channel.count)
        names = [f"answer/{number}/{host}" for host in others]
        return [self._channel.get(name, deadline - time.monotonic()) for name in names]

    def _conclude(self, number: int, directory: Path, answers: Sequence[Message | None]) -> Status:
        """Returns how a trial has ended on all hosts, and writes what one alone could not know.

        Raises:
          UsageError: it can't be run.
        """
        if None in answers:
            self._end(number, directory, 0, answers[0])
        self._refuse(answers)
        status = answers[0]["status"]
        failed = {host: answer for host, answer in enumerate(answers) if _has_failed(answer)}
        reasons = [answer["status"]["reason"] for answer in failed.values()]
        lost = [bool(re.search(_LOST, reason)) for reason in reasons]
        if any(lost) and not all(lost):  # because of that one's failure
            host = list(failed)[lost.index(False)]
            self._end(number, directory, host, failed[host])
        if any(lost):
            raise HostLostError(f"trial {number}: {reasons[0]}")
        if status["state"] == trial_lib.FAILED:
            self._write(directory, status)
            if len(set(map(raised.cause, reasons))) > 1:
                # Who knows where in the program each of them is.
                hosts.tell(ENDED)
                raise HostLostError(f"trial {number} FAILED, but not alike on all hosts")
        elif status["state"] == trial_lib.INTERRUPTED and not any(a["stop"] for a in answers):
            status = running_lib.out_of_time(self._time_limit, status["step"])
            self._write(directory, status)
        return status

    def _refuse(self, answers: Sequence[Message]) -> None:
        """Raises a UsageError where a host has found something wrong."""
        for host, answer in enumerate(answers):
            if answer["error"]:
                raise UsageError(f"host {host}: {answer['error']}" if host else answer["error"])

    def _write(self, directory: Path, status: Status) -> None:
        if not directory.exists():  # it was refused before it was made
            return
        try:
            trial_lib.write_json(directory / "status.json", status)
        except OSError as error:  # a full disk, perhaps; the trial then goes on another time
            where = directory / "status.json"
            print(f"error: {where} can't be written: {error.strerror or error}", file=sys.stderr)

    def _look(self, number: int, trial: int, directory: Path) -> None:
        """Ends all where this host may wait for another one for ever; called while it trains."""
        answers = self._channel.peek(f"answer/{number}")
        failed = {host: answer for host, answer in answers.items() if _has_failed(answer)}
        now = time.monotonic()
        self._failed_since = min(self._failed_since, now) if failed else math.inf
        if now - self._failed_since > self._grace:
            host = min(failed)
            self._end(trial, directory, host, failed[host])
        if now - self._heard > self._silent_limit:
            text = f"trial {trial} has given no sign of life for {self._silent_limit:g} s"
            self._all_leave(hosts.LOST, text, directory, self._waiting(directory, text))

    def _waiting(self, directory: Path, reason: str) -> Status:
        """Returns the status of a trial that goes on from its checkpoint."""
        stored = trial_lib.read_json(directory / "status.json", trial_lib.new_status())
        return trial_lib.new_status(trial_lib.INTERRUPTED, reason, stored["step"])

    def _all_leave(self, code: int, text: str, directory: Path, status: Status) -> None:
        """Ends the processes of all hosts; `status` is what the trial is left with."""
        self._ends = True
        leaving.all_leave(
            self._channel,
            code,
            text,
            trial_has_ended=status["state"] == trial_lib.FAILED,
            at_last=lambda: self._write(directory, status),
        )

    def _end(self, trial: int, directory: Path, host: int, answer: Message) -> None:
        """Ends all after a failure that only one host had."""
        status = answer["status"]
        if answer["error"]:
            code, text = _BAD_INPUT, f"host {host}: {answer['error']}"
            status = self._waiting(directory, text)
        elif full_disk.has_stopped(status):
            code = trial_lib.EXIT_CODES[trial_lib.INTERRUPTED]
            text = f"host {host}: {full_disk.describe(self._path, f'trial {trial}')}"
            status = self._waiting(directory, status["reason"])
        else:
            reason = f"on host {host} alone: {status['reason']}"
            code, text = hosts.LOST, f"trial {trial} FAILED {reason}"
            status = status | {"reason": reason}
        self._all_leave(code, text, directory, status)


def _has_failed(answer: Message) -> bool:
    return bool(answer["error"]) or answer["status"]["state"] == trial_lib.FAILED
