"""One trial on several hosts at once: those of a TPU slice, or a group of GPU hosts, walk a study in step.

The same command runs on every host. Host 0 launches the study as anywhere else; its executor, `Slice`,
tells the others what comes next, so that all train the same trial at the same time, each in its own
process and with what it has compiled. Only host 0 writes, and its clock counts. A request to stop on any
host ends them all after the same step. A host that is lost ends the processes of all, which their
parents start again (see `hosts.watch`); the trial goes on from its checkpoint. So does a host that fails
while others wait for it: what it told its parent is the first thing that the new processes gather.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.runtime import hosts
from playbook_jax.studies import launcher, specification as specification_lib
from playbook_jax.studies.execution import full_disk, jobs, running as running_lib
from playbook_jax.studies.execution.executor import Listener, Stop, Trial
from playbook_jax.studies.multihost.in_process import InProcess
from playbook_jax.studies.multihost.key_value_store import Channel, Failures, HostLostError, Message
from playbook_jax.studies.multihost.restarts import ENDED, Restarts
from playbook_jax.studies.store.directory import StudyDirectory

_BAD_INPUT = 2
_INTERRUPTED = trial_lib.EXIT_CODES[trial_lib.INTERRUPTED]
_GRACE_SECONDS = 30.0  # between the failures of hosts that fail alike
_LOOK_SECONDS = 1.0
_SHARED_SECONDS = 5.0  # within which the others must see a file that host 0 has written
_FAILURES = ".failures"  # in the study directory, while all hosts are up


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
      The exit code of `launcher.launch`, the same on all hosts. Where a host was lost for good, 75 on the
      others: the same command on all hosts goes on; 1 if no trial came to its end.

    Raises:
      UsageError: the study can't be run; for the same reason on all hosts.
    """
    if hosts.is_parent(all_hosts):
        restarts = Restarts()
        code = hosts.watch(all_hosts, restarts.give_up, restarts.again)
        return restarts.code or code
    hosts.join(all_hosts)
    with Stop() as stop, _leaving_when_lost():  # only now: jax listens to the signals too
        from playbook_jax.runtime import compilation_cache

        compilation_cache.enable()
        host = _Host(Channel(), InProcess(options.train_module), Path(workdir), all_hosts.timeout)
        return host.launch(config_path, options, stop)


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


class _Host:
    """What every host does."""

    def __init__(self, channel: Channel, here: InProcess, workdir: Path, timeout: float) -> None:
        """Says nothing yet.

        Args:
          channel: to the other hosts.
          here: what validates and trains on this host.
          workdir: the study directory.
          timeout: seconds after which jax aborts the processes when a host is silent.
        """
        self.channel, self.here, self.workdir = channel, here, workdir
        self._grace = min(_GRACE_SECONDS, timeout)

    def launch(self, config_path: str | Path, options: launcher.Options, stop: Stop) -> int:
        """Runs the study with the others; returns the exit code."""
        if self.channel.index:
            me = f"Host {self.channel.index} of {self.channel.count}"
            print(f"{me}: host 0 shows how the study gets on.", flush=True)
        found = self._agree_on_the_study(config_path, options.overrides)
        self._failures = Failures(
            self.workdir / _FAILURES / found[0]["run"], self.channel, self._grace
        )
        told = {host: message["told"] for host, message in enumerate(found) if message["told"]}
        if told:
            hosts.tell(ENDED)  # that trial is not the one to be given up
            options = dataclasses.replace(options, retry_failed=False)  # that it just did
        if reason := self._heed(told):
            print(f"error: {reason}", file=sys.stderr)
            return _INTERRUPTED
        if self.channel.index:
            return self._follow(stop)
        return self._lead(config_path, options)

    def train(self, command: Message, **how: Callable) -> list[Message]:
        """Runs a trial to where all hosts end it.

        Args:
          command: the trial, and its `directory` in the study directory.
          **how: what else `InProcess.train` takes.

        Returns:
          What `InProcess.train` returns, of all hosts.

        Raises:
          HostLostError: they did not end alike, or one is lost.
        """
        trial, where = command["trial"], command["directory"]
        directory = self.workdir / where
        hosts.tell(str(trial) if self.channel.index else f"{trial} {directory}")
        answer = self.here.train(trial, command["parameters"], directory, **how)
        if not _has_failed(answer):
            answers = self.channel.gather(answer)
        else:
            answers = self._failed(trial, where, answer)
        hosts.tell(ENDED)
        return answers

    def _failed(self, trial: int, where: str, answer: Message) -> list[Message]:
        reason = answer["error"] or answer["status"]["reason"]
        if reason.startswith(hosts.LOST_REASON):
            if not self.channel.index:
                self.write(where, trial_lib.INTERRUPTED, "a host was lost")
            raise HostLostError(f"trial {trial}: {reason}")
        answers = self._failures.gather(trial, answer)
        if answers is None:  # others wait for this one in a collective
            hosts.tell(ENDED)
            hosts.tell(json.dumps({"trial": trial, "directory": where, **answer}))
            raise HostLostError(f"trial {trial} FAILED on host {self.channel.index}: {reason}")
        return answers

    def _agree_on_the_study(
        self, config_path: str | Path, overrides: Sequence[str]
    ) -> list[Message]:
        """Has every host read the study config, and say what it told before it was started again.

        Raises:
          UsageError: one can't, or reads another study than host 0; on all hosts with the same text.
        """
        last = hosts.told_before()
        told = json.loads(last) if last.startswith("{") else None
        mine: Message = {"error": "", "study": None, "told": told, "run": uuid.uuid4().hex}
        try:
            mine["study"] = specification_lib.load(config_path, overrides).to_dict()
        except UsageError as error:
            mine["error"] = str(error)
        found = self.channel.gather(mine)
        for host, message in enumerate(found):
            if message["error"]:
                alike = all(other["error"] == message["error"] for other in found)
                raise UsageError(message["error"] if alike else f"host {host}: {message['error']}")
        for host, message in enumerate(found):
            changed = config_lib.differences(found[0]["study"], message["study"])
            if changed:
                shown = "; ".join(changed[:5]) + (" …" if len(changed) > 5 else "")
                raise UsageError(
                    f"host {host} has another study than host 0 ({shown}); all hosts need the same "
                    "--config"
                )
        return found

    def _heed(self, told: Mapping[int, Message]) -> str:
        """Does what follows from a failure that ended the processes of all; host 0 writes it down.

        Args:
          told: of the hosts that have failed, what they told their parents.

        Returns:
          Why the study has to wait, or "".

        Raises:
          UsageError: a trial can't be run.
        """
        for host, last in told.items():
            error, status, where = last["error"], last["status"], last["directory"]
            alone = f"on host {host} alone: " if len(told) < self.channel.count else ""
            state, reason = trial_lib.FAILED, ""
            if error:
                state, reason = trial_lib.INTERRUPTED, f"host {host}: {error}" if host else error
            elif full_disk.has_stopped(status):
                what = full_disk.describe(self.workdir, f"trial {last['trial']}")
                state, reason = trial_lib.INTERRUPTED, f"host {host}: {what}"
            if not self.channel.index:
                self.write(where, state, reason or alone + status["reason"])
            if error:
                raise UsageError(reason)
            return reason
        return ""

    def write(self, where: str, state: str, reason: str) -> None:
        """Writes how a trial is that is not over, or says that it can't be written."""
        path = self.workdir / where / "status.json"
        if not path.exists():  # it was refused before it was made
            return
        stored = trial_lib.read_json(path, trial_lib.new_status())
        if stored["state"] in (trial_lib.COMPLETE, trial_lib.INFEASIBLE):
            return
        try:
            trial_lib.write_json(path, trial_lib.new_status(state, reason, stored["step"]))
        except OSError as error:  # a full disk, perhaps; the trial then goes on another time
            print(f"error: {path} can't be written: {error.strerror or error}", file=sys.stderr)

    def _lead(self, config_path: str | Path, options: launcher.Options) -> int:
        """Launches the study, on host 0; the others end with it."""

        def make_executor(study: StudyDirectory, stop: Stop) -> Slice:
            return Slice(self, options.silent_limit, stop)

        leading = dataclasses.replace(options, num_workers=1, make_executor=make_executor)
        end = {"do": "end", "code": _BAD_INPUT, "error": ""}
        try:
            end["code"] = launcher.launch(config_path, self.workdir, leading)
        except UsageError as error:
            self.channel.gather(end | {"error": str(error)})
            raise
        finally:
            shutil.rmtree(self.workdir / _FAILURES, ignore_errors=True)
        self.channel.gather(end)
        return end["code"]

    def _follow(self, stop: Stop) -> int:
        """Does what host 0 says, on the other hosts, until it ends; returns its exit code.

        Raises:
          UsageError: host 0 has raised it.
        """
        while True:
            command = self.channel.gather({})[0]
            match command.pop("do"):
                case "validate":
                    error = _see(self.workdir, command.pop("lock"))
                    self.channel.gather({"error": error or self.here.validate(**command)})
                case "train":
                    self.train(command, stop=lambda: bool(stop.requests))
                case "end":
                    if command["error"]:
                        raise UsageError(command["error"])
                    return command["code"]


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

    def __init__(self, host: _Host, silent_limit: float, stop: Stop) -> None:
        """Says nothing yet.

        Args:
          host: host 0.
          silent_limit: seconds without progress after which all start again.
          stop: asked whether to go on.
        """
        self._host, self._silent_limit, self._stop = host, silent_limit, stop
        self.failures: Mapping[int, str] = {}

    def validate(self, shared: Mapping[str, Any], trials: Sequence[Trial]) -> bool:
        """Implements `executor.Executor`; all hosts check all configs."""
        self._time_limit = shared["time_limit"]
        arguments = {"shared": shared, "trials": list(trials)}
        lock = (self._host.workdir / ".lock").read_text()
        self._host.channel.gather({"do": "validate", "lock": lock, **arguments})
        _refuse(self._host.channel.gather({"error": self._host.here.validate(**arguments)}))
        self.failures = self._host.here.failures
        return not self._stop.requests

    def run(
        self, trials: Sequence[Trial], directory: Callable[[int], Path], listener: Listener
    ) -> bool:
        """Implements `executor.Executor`; trials of one program follow each other."""
        by_program = jobs.by_program(trials).values()
        for trial in itertools.chain.from_iterable(by_program):
            if self._stop.requests:
                return False
            where = os.path.relpath(directory(trial["trial"]), self._host.workdir)
            answers = self._train({**trial, "directory": where}, listener)
            _refuse(answers)
            status, stopped = answers[0]["status"], any(answer["stop"] for answer in answers)
            if status["state"] == trial_lib.INTERRUPTED and not stopped:
                status = running_lib.out_of_time(self._time_limit, status["step"])
            if status["state"] == trial_lib.FAILED:
                self._host.write(where, trial_lib.FAILED, status["reason"])
            listener.ended(trial["trial"], status)
            if stopped:
                return False
        return True

    def close(self) -> None:
        """Implements `executor.Executor`; the other hosts wait for what comes next."""

    def _train(self, command: Message, listener: Listener) -> list[Message]:
        began = time.monotonic()

        def progress(step: int) -> None:
            self._heard = time.monotonic()
            listener.step(command["trial"], step)

        self._host.channel.gather({"do": "train", **command})
        self._heard = time.monotonic()
        with self._looking(command):
            return self._host.train(
                command,
                stop=lambda: bool(self._stop.requests),
                progress=progress,
                out_of_time=lambda: time.monotonic() - began > self._time_limit,
            )

    @contextlib.contextmanager
    def _looking(self, command: Message) -> Iterator[None]:
        """Ends this process, and so those of all, where the hosts wait for each other for ever."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(_LOOK_SECONDS):
                if time.monotonic() - self._heard > self._silent_limit:
                    limit = f"{self._silent_limit:g} s"
                    text = f"trial {command['trial']} has given no sign of life for {limit}"
                    print(f"error: {text}", file=sys.stderr)
                    self._host.write(command["directory"], trial_lib.INTERRUPTED, text)
                    hosts.leave(hosts.LOST)

        threading.Thread(target=look, daemon=True).start()
        try:
            yield
        finally:
            over.set()


def _refuse(answers: Sequence[Message]) -> None:
    """Raises a UsageError where a host has found something wrong."""
    for host, answer in enumerate(answers):
        if answer["error"]:
            raise UsageError(f"host {host}: {answer['error']}" if host else answer["error"])


def _has_failed(answer: Message) -> bool:
    return bool(answer["error"]) or answer["status"]["state"] == trial_lib.FAILED
