"""Two runs never write in one directory, and one that was killed blocks no other."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import lock
from playbook_jax.training import loop, packing
from tests import small
from tests.runs import run

HOLD = """
import sys, time
from pathlib import Path
from playbook_jax.runtime.lock import Lock
held = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / lock.NAME)]
    process = subprocess.Popen(command, cwd=small.ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def of_another_machine(directory, age):
    """Leaves the lock of a run on another machine, last touched some seconds ago."""
    owner = {"host": "node-7", "machine": "m", "process": 1, "since": "2026-01-02 03:04:05 UTC"}
    path = directory / lock.NAME
    path.write_text(json.dumps(owner))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def no_locks(descriptor, operation):
    raise OSError(lock.errno.ENOLCK, "No locks available")


def test_a_second_run_in_one_workdir_is_refused_in_one_line(tmp_path):
    going, done = threading.Event(), threading.Event()

    def wait(finished, total, text):
        going.set()
        assert done.wait(60)

    first = threading.Thread(
        target=lambda: loop.train(small.digits(), tmp_path / "trial", progress=wait)
    )
    first.start()
    assert going.wait(60)
    before = (tmp_path / "trial" / "status.json").read_bytes()
    with pytest.raises(UsageError, match=rf"is in use by process {os.getpid()} on \S+ since") as e:
        run(tmp_path / "trial")
    assert "\n" not in str(e.value)
    assert (tmp_path / "trial" / "status.json").read_bytes() == before
    done.set()
    first.join()
    assert trial.load(tmp_path / "trial").status["state"] == "COMPLETE"
    assert len(trial.read_steps(tmp_path / "trial")) == 40
    assert not (tmp_path / "trial" / lock.NAME).exists()


def test_each_packed_trial_has_its_own_lock_and_lets_go_of_it(tmp_path):
    lanes = [packing.Lane(small.digits(seed=i), tmp_path / str(i)) for i in range(2)]
    with lock.hold(tmp_path / "1"), pytest.raises(UsageError, match=r"/1 is in use by process"):
        packing.train(lanes)
    locked = []
    packing.train(
        lanes,
        progress=lambda *_: locked.append([(lane.workdir / lock.NAME).exists() for lane in lanes]),
    )
    assert locked[0] == [True, True]
    assert not list(tmp_path.glob(f"*/{lock.NAME}"))


def test_a_run_that_was_killed_blocks_nobody(tmp_path, holder):
    with pytest.raises(UsageError, match=f"in use by process {holder.pid} on"):
        lock.Lock(tmp_path / lock.NAME)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / lock.NAME).exists()  # it could not clean up
    with lock.hold(tmp_path):
        owner = json.loads((tmp_path / lock.NAME).read_text())
        assert owner["process"] == os.getpid()
    assert not (tmp_path / lock.NAME).exists()


def test_what_inherited_the_lock_of_a_dead_process_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_HEIRS_SECONDS", 0.2)
    held = lock.Lock(tmp_path / lock.NAME)
    owner = json.loads((tmp_path / lock.NAME).read_text())
    # As if this process were a worker, and the launcher gone.
    (tmp_path / lock.NAME).write_text(json.dumps(owner | {"process": 2**22 + 1}))
    with pytest.raises(UsageError, match="in use by what is left of process 4194305"):
        lock.Lock(tmp_path / lock.NAME)
    monkeypatch.setattr(lock, "_HEIRS_SECONDS", 60)
    threading.Timer(0.2, lambda: os.close(held.fd)).start()
    lock.Lock(tmp_path / lock.NAME).release()
    held._released.set()


def test_a_silent_run_on_another_machine_counts_as_gone(tmp_path):
    of_another_machine(tmp_path, age=lock._SILENT_SECONDS + 1)
    with lock.hold(tmp_path):
        assert "node-7" not in (tmp_path / lock.NAME).read_text()


def test_a_run_on_another_machine_that_was_heard_of_lately_is_waited_for(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(lock, "_SILENT_SECONDS", 1.0)
    monkeypatch.setattr(lock, "_TELL_SECONDS", 0.1)
    path = of_another_machine(tmp_path, age=0)
    threading.Timer(0.3, lambda: os.utime(path)).start()
    # Its lock may not be seen here, but its sign of life is.
    with pytest.raises(UsageError, match="in use by process 1 on node-7 since 2026-01-02 03:04:05"):
        lock.Lock(path)
    assert path.exists()
    lock.Lock(path).release()  # no more of them
    assert f"waiting for the lock on {tmp_path}: process 1 on node-7" in capfd.readouterr().err


def test_a_lock_that_is_kept_for_a_machine_that_is_gone_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_HEIRS_SECONDS", 0.1)
    path = of_another_machine(tmp_path, age=600)
    with path.open() as file:  # by the server of a network disk, say
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match=rf"silent for 6\d\d s: .* delete {path}"):
            lock.Lock(path)


def test_where_the_disk_has_no_locks_a_living_run_is_seen_by_its_touches(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.1)
    with lock.hold(tmp_path), pytest.raises(UsageError, match=f"in use by process {os.getpid()}"):
        lock.Lock(tmp_path / lock.NAME)
    assert not list(tmp_path.iterdir())


def test_an_object_store_has_no_locks():
    with lock.hold("gs://bucket/run") as held:
        assert held is None
