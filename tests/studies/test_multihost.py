"""A study whose trials run on several hosts at once, here threads: jax's part is not in it."""

import collections
import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
import types

import pytest

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import hosts
from playbook_jax.studies import conclusion, launcher
from playbook_jax.studies.execution.executor import Stop
from playbook_jax.studies.multihost import executor as slice_lib
from playbook_jax.studies.multihost.in_process import InProcess
from playbook_jax.studies.multihost.key_value_store import HostLostError
from playbook_jax.studies.multihost.restarts import ENDED, Restarts
from tests.studies.test_specification import write

STEPS = 10
LOST, LATE = "another host was lost, or the network: closed", "out of time: stopped after 0.1 s"


class Meeting:
    """Where hosts that are threads gather what they say, until one has left."""

    def __init__(self, count=2):
        self.count, self.said = count, collections.defaultdict(dict)
        self.change, self.is_over = threading.Condition(), False

    def end(self):
        with self.change:
            self.is_over = True
            self.change.notify_all()


class LocalChannel:
    def __init__(self, meeting, index):
        self._meeting, self.index, self.count, self._times = meeting, index, meeting.count, 0

    def gather(self, message):
        self._times += 1
        said = self._meeting.said[self._times]
        with self._meeting.change:
            said[self.index] = json.dumps(message)
            self._meeting.change.notify_all()
            all_said = lambda: len(said) == self.count  # noqa: E731
            self._meeting.change.wait_for(lambda: all_said() or self._meeting.is_over, 60)
            if not all_said():
                raise HostLostError("the hosts lost contact")
        return [json.loads(said[host]) for host in range(self.count)]


class Left(SystemExit):
    """In place of the end of a process."""


class Hosts:
    """A study on two hosts that are threads, and train as `behave` says.

    `behave(host, trial)` gives a status or raises; None lets both make their steps in turn, as
    train.py does, until one of them is asked to stop.
    """

    def __init__(self, directory, monkeypatch, behave=lambda host, number: None, **changes):
        self.config = write(directory / "study.py", **({"num_trials": 4} | changes))
        self.path = directory / "s"
        self.behave, self.monkeypatch = behave, monkeypatch
        self.stops = [Stop(), Stop()]
        self.trained = [[], []]
        self.timeout, self.time_limit, self.silent_limit = 0.2, float("inf"), 60.0
        self.left, self.is_over = [], threading.Event()
        self.told, self.thread = [[], []], threading.local()
        self.thread.host = 0
        monkeypatch.setattr(hosts, "leave", self._leave)
        monkeypatch.setattr(hosts, "tell", lambda line: self.told[self.thread.host].append(line))
        monkeypatch.setattr(hosts, "told_before", lambda: self.before[self.thread.host])
        monkeypatch.setattr(conclusion, "REPORT_MODULE", "tests.fake_train")
        monkeypatch.setattr(slice_lib, "_LOOK_SECONDS", 0.02)

    def _leave(self, code):
        self.left.append(code)
        self.is_over.set()  # of which the others learn
        self.meeting.end()
        raise Left

    def _in_process(self, host):
        def validate(config):
            if config.hparams.momentum > 0.9 and host == 1:
                raise UsageError("too much momentum for this host")

        def train(config, workdir, *, progress, should_stop, command):
            number = int(workdir.name)
            writer = trial.Writer(workdir, config_lib.to_dict(config)) if host == 0 else None
            self.trained[host].append((number, config.hparams.learning_rate))
            status = self.behave(host, number) or self._steps(host, progress, should_stop)
            if writer:
                writer.write("status.json", status)
            return status

        name = f"train_on_host_{host}"
        module = types.SimpleNamespace(validate=validate, train=train, unread=lambda config: set())
        self.monkeypatch.setitem(sys.modules, name, module)
        return InProcess(name)

    def _steps(self, host, progress, should_stop):
        for step in range(STEPS):
            time.sleep(0.002)
            self.votes[host] = should_stop()
            self.barrier.wait(5)
            stops = any(self.votes)
            self.barrier.wait(5)
            if stops:
                return trial.new_status(trial.INTERRUPTED, step=step)
            progress(step, STEPS, "")
        done = {"objective": 1.0, "best_step": STEPS}
        return trial.new_status(trial.COMPLETE, step=STEPS) | done

    def stuck(self):
        """What a host does that waits for another one in a collective."""
        assert self.is_over.wait(10)
        return failed(LOST)

    def run(self, retry_failed=False, workdir=None):
        """Returns how each host has ended: its exit code, or the error.

        Where one has left in the run before, the processes have been started again.
        """
        self.meeting = Meeting()
        self.before = [lines[-1] if self.left else "" for lines in self.told]
        self.told = [[], []]
        self.votes, self.barrier = [False, False], threading.Barrier(2)
        self.left.clear()
        self.is_over.clear()
        ends = [None, None]
        options = launcher.Options(
            ["scripts/launch_study.py"],
            retry_failed=retry_failed,
            time_limit=self.time_limit,
            silent_limit=self.silent_limit,
        )

        def launch(host, path):
            self.thread.host = host
            here = self._in_process(host)
            channel = LocalChannel(self.meeting, host)
            with self._noting(ends, host), slice_lib._leaving_when_lost():
                side = slice_lib._Host(channel, here, path, self.timeout)
                ends[host] = side.launch(self.config, options, self.stops[host])

        follower = threading.Thread(target=launch, args=[1, workdir or self.path], daemon=True)
        follower.start()
        launch(0, self.path)
        follower.join(60)
        assert not follower.is_alive()
        return ends

    @contextlib.contextmanager
    def _noting(self, ends, host):
        try:
            yield
        except (UsageError, HostLostError, Left) as error:
            ends[host] = error

    def statuses(self):
        paths = sorted(self.path.glob("trials/*/status.json"))
        return [trial.read_json(path) for path in paths]

    def states(self):
        return [status["state"] for status in self.statuses()]


def failed(reason, step=3):
    return trial.new_status(trial.FAILED, reason, step)


def test_all_hosts_train_the_same_trials_in_the_same_order(tmp_path, monkeypatch):
    sizes = {"model.hidden_sizes": {"values": [[8], [8, 8]]}}
    study = Hosts(tmp_path, monkeypatch, scientific=sizes)
    assert study.run() == [0, 0]
    assert study.states() == ["COMPLETE"] * 4
    assert study.trained[0] == study.trained[1]
    order = [number for number, _ in study.trained[0]]
    assert sorted(order) == [0, 1, 2, 3]
    # Those of one program behind each other.
    rows = trial.read_json(study.path / "study.json")["trials"]
    programs = [len(rows[number]["parameters"]["model.hidden_sizes"]) for number in order]
    assert sum(a != b for a, b in itertools.pairwise(programs)) == 1
    # A second time there is nothing to do.
    assert study.run() == [0, 0]
    assert len(study.trained[0]) == len(study.trained[1]) == 4


@pytest.mark.parametrize("host", [0, 1])
def test_a_host_that_is_asked_to_stop_stops_all_of_them(tmp_path, monkeypatch, host):
    study = Hosts(tmp_path, monkeypatch)

    def behave(on, number):
        if (on, number) == (host, 1):
            ask()

    def ask():
        study.stops[1].requests += 1

    if host == 0:  # whose launcher listens to signals
        ask = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    study.behave = behave
    assert study.run() == [75, 75]
    assert study.states() == ["COMPLETE", "INTERRUPTED"]
    study.behave, study.stops[1] = (lambda on, number: None), Stop()
    assert study.run() == [0, 0]
    assert [number for number, _ in study.trained[1]] == [0, 1, 1, 2, 3]


def test_the_clock_of_host_0_limits_a_trial(tmp_path, monkeypatch):
    slow = lambda host, number: time.sleep(0.3) if (host, number) == (0, 1) else None  # noqa: E731
    study = Hosts(tmp_path, monkeypatch, slow)
    study.time_limit = 0.1
    assert study.run() == [1, 1]
    assert study.states() == ["COMPLETE", "FAILED", "COMPLETE", "COMPLETE"]
    assert study.statuses()[1]["reason"] == LATE
    study.time_limit = float("inf")
    assert study.run(retry_failed=True) == [0, 0]
    assert [number for number, _ in study.trained[0]] == [0, 1, 2, 3, 1]


def test_a_trial_that_fails_on_all_hosts_is_one_that_failed(tmp_path, monkeypatch):
    behave = lambda host, number: failed(f"no such thing {host}") if number == 1 else None  # noqa: E731
    study = Hosts(tmp_path, monkeypatch, behave)
    assert study.run() == [1, 1]
    assert study.states() == ["COMPLETE", "FAILED", "COMPLETE", "COMPLETE"]
    assert study.statuses()[1] == failed("no such thing 0")
    assert study.left == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("host", [0, 1])
def test_a_trial_that_fails_on_one_host_ends_the_processes(tmp_path, monkeypatch, host):
    def behave(on, number):
        if number == 1:
            return failed("bad luck") if on == host else study.stuck()
        return None

    study = Hosts(tmp_path, monkeypatch, behave)
    study.run()
    assert study.left == [hosts.LOST] * 2
    # The parents start them again.
    study.behave = lambda on, number: None
    assert study.run(retry_failed=True) == [1, 1]
    assert study.states() == ["COMPLETE", "FAILED", "COMPLETE", "COMPLETE"]
    assert study.statuses()[1] == failed(f"on host {host} alone: bad luck")
    # As often as trials fail: none of that counts.
    assert [lines[0] for lines in study.told] == [ENDED] * 2
    assert not (study.path / ".failures").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_connection_that_breaks_because_a_host_has_failed_is_that_hosts_failure(
    tmp_path, monkeypatch
):
    behave = lambda host, number: failed("bad luck" if host else LOST)  # noqa: E731
    study = Hosts(tmp_path, monkeypatch, behave)
    study.run()
    assert study.left == [hosts.LOST] * 2
    assert study.states() == ["INTERRUPTED"]
    study.behave = lambda on, number: None
    study.run()
    assert study.statuses()[0] == failed("on host 1 alone: bad luck")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_of_host_0_leaves_the_trial_for_another_time(tmp_path, monkeypatch, capsys):
    reason = "disk full: nothing more can be written"
    behave = lambda host, number: study.stuck() if host else failed(reason)  # noqa: E731
    study = Hosts(tmp_path, monkeypatch, behave)
    study.run()
    assert study.left == [hosts.LOST] * 2
    assert study.run() == [75, 75]  # and not to go on: it would be full again
    assert study.states() == ["INTERRUPTED"]
    text = f"error: host 0: the disk is full: no room for trial 0 in {study.path} ("
    assert capsys.readouterr().err.count(text) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_hosts_that_wait_for_each_other_for_ever_start_again(tmp_path, monkeypatch):
    study = Hosts(tmp_path, monkeypatch, lambda host, number: study.stuck())
    study.silent_limit = 0.1
    study.run()
    assert set(study.left) == {hosts.LOST}
    assert ENDED not in study.told[0]  # so that it counts
    assert study.states() == ["INTERRUPTED"]


def test_a_trial_during_which_a_host_was_lost_has_not_failed(tmp_path, monkeypatch):
    behave = lambda host, number: failed(LOST) if number == 1 else None  # noqa: E731
    study = Hosts(tmp_path, monkeypatch, behave)
    study.run()
    assert study.left == [hosts.LOST] * 2
    assert study.states() == ["COMPLETE", "INTERRUPTED"]


def test_a_config_that_one_host_cannot_run_is_refused_by_all(tmp_path, monkeypatch):
    study = Hosts(tmp_path, monkeypatch, fixed={"hparams.momentum": 0.95})
    ends = study.run()
    assert str(ends[0]) == str(ends[1]) == "host 1: trial 0: too much momentum for this host"
    assert not study.path.exists()


def test_a_workdir_that_is_not_shared_is_refused_by_all(tmp_path, monkeypatch):
    monkeypatch.setattr(slice_lib, "_SHARED_SECONDS", 0.1)
    study = Hosts(tmp_path, monkeypatch)
    ends = study.run(workdir=tmp_path / "other")
    assert str(ends[0]) == str(ends[1])
    assert str(ends[0]).startswith(f"host 1: {tmp_path / 'other'} is not the directory that host 0")
    assert not study.path.exists()


def agree(*configs):
    """Returns what each host says of the others' study configs."""
    meeting, said = Meeting(len(configs)), [None] * len(configs)

    def on(index):
        host = slice_lib._Host(LocalChannel(meeting, index), None, None, 1.0)
        try:
            host._agree_on_the_study(configs[index], ())
        except UsageError as error:
            said[index] = str(error)

    threads = [threading.Thread(target=on, args=[host]) for host in range(len(configs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_hosts_with_other_studies_say_which_and_why(tmp_path):
    for host in range(3):
        write(tmp_path / f"{host}.py", num_trials=4 + (host == 2))
    same, alike, other = (tmp_path / f"{host}.py" for host in range(3))
    assert agree(same, alike, same) == [None] * 3
    text = (
        "host 2 has another study than host 0 (num_trials: 4 → 5); all hosts need the same --config"
    )
    assert agree(same, alike, other) == [text] * 3
    first, *others = agree(same, tmp_path / "none.py")
    assert first.startswith("host 1: ")
    assert "none.py" in first
    assert others == [first]
    first, *others = agree(tmp_path / "none.py", tmp_path / "none.py")
    assert not first.startswith("host")
    assert others == [first]


def lose(restarts, *told):
    return restarts.again([hosts.JOINED, *told])


def test_lost_processes_start_again_while_trials_come_to_their_end(tmp_path):
    (tmp_path / "status.json").write_text(json.dumps(trial.new_status(trial.RUNNING, step=7)))
    running = f"3 {tmp_path}"
    restarts = Restarts()
    assert not restarts.again([])  # a host was missing from the beginning
    restarts = Restarts()
    assert all(lose(restarts, "1", ENDED, "2") for _ in range(10))
    # Not if it was the same trial each time: then it may be the trial's fault.
    restarts = Restarts()
    assert lose(restarts, "2", ENDED, running)
    assert lose(restarts, running)
    assert trial.read_json(tmp_path / "status.json")["state"] == "RUNNING"
    assert lose(restarts, running)
    assert trial.read_json(tmp_path / "status.json") == failed(
        "its hosts were lost 3 times; see what they printed", 7
    )
    # And not if no trial at all comes to its end.
    assert lose(restarts, "4")
    assert lose(restarts, "4")
    assert not lose(restarts, "4")
    restarts.give_up("lost")
