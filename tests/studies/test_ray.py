import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.studies.ray import (
    actor as actor_lib,
    cluster as cluster_lib,
    executor as executor_lib,
)
from playbook_jax.studies.store import leases
from tests.launched_study import ON_THIS_MACHINE, STEPS, Study, gone
from tests.small import ROOT

TOKEN = "0123456789abcdef0123456789abcdef"
# "apart": the launcher writes elsewhere than where the nodes look; "unlocked": it does not see their locks.
ON_RAY = """
import os
import re
from playbook_jax.studies.ray import cluster as ray_cluster, executor as ray_executor
from playbook_jax.studies.store import leases
ray_cluster._SECONDS = 100.0  # for a busy machine
if os.environ.get("DISK") == "apart":
    leases.offer = lambda path: path.parent.mkdir(exist_ok=True)
if os.environ.get("DISK") == "unlocked":
    leases.SECONDS, leases.MARGIN_SECONDS = 2.0, 0.0
    leases.take = lambda path: os.open(path, os.O_RDWR | os.O_CREAT)
def make_executor(train_module):
    return ray_executor.maker(os.environ["ADDRESS"], 0, train_module)
"""


class Cluster:
    """Two nodes with a CPU each."""

    def __init__(self, environment):
        self.environment = environment
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "ray_nodes.py"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.address = self.process.stdout.readline().strip()

    def tell(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture(scope="module")
def cluster():
    # Ray's sockets are in it, whose names must be short.
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    (folder / "ray").mkdir()
    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(folder),
        # Otherwise 127.0.0.1 is replaced by the address of the machine in its network.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    result = Cluster(os.environ | ours)
    try:
        assert result.address.startswith("127.0.0.1:")
        yield result
    finally:
        result.process.stdin.close()
        try:
            result.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(result.process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


class RayStudy(Study):
    executor = ON_RAY

    def __init__(self, directory, cluster, disk="", **changes):
        super().__init__(directory, **changes)
        self.environment = cluster.environment | {"ADDRESS": cluster.address, "DISK": disk}


def lose_a_node(study, cluster, running):
    """Kills a node when these trials run, and something of each is saved."""
    study.until(lambda: all(len(study.steps(number)) > 3 for number in running))
    cluster.tell("kill")
    code, output, errors = study.wait()
    assert (code, errors) == (0, "")
    assert "test: 4 trials, 4 COMPLETE\n" in output
    assert study.states() == ["COMPLETE"] * 4
    # Each step once, and of a lost trial none again that was saved.
    assert all(study.steps(number) == list(range(1, STEPS + 1)) for number in range(4))
    assert gone(study.workers())
    assert len(study.workers()) == 2
    assert not (study.path / ".leases").exists()
    cluster.tell("add")
    return [study.attempts(number) for number in range(4)]


@pytest.mark.playbook("studies-survive-interruptions", "studies-run-on-several-machines")
def test_a_node_is_lost_and_every_trial_is_complete_once(tmp_path, cluster):
    study = RayStudy(tmp_path, cluster, notes="seconds=0.05 meet=0", num_trials=4).start()
    attempts = lose_a_node(study, cluster, running=[0, 1])
    assert sorted(map(len, attempts)) == [1, 1, 1, 2]
    again = max(attempts, key=len)
    assert again[1]["from"] >= 3
    assert all(len(attempt["cores"]) == 1 for trials in attempts for attempt in trials)


@pytest.mark.playbook("studies-survive-interruptions", "studies-run-on-several-machines")
def test_a_node_whose_locks_are_not_seen_is_waited_for_and_its_packs_go_on(tmp_path, cluster):
    study = RayStudy(tmp_path, cluster, disk="unlocked", notes="seconds=0.05", num_trials=4)
    attempts = lose_a_node(study.start(pack=2), cluster, running=range(4))
    assert sorted(map(len, attempts)) == [1, 1, 2, 2]
    for number, trials in enumerate(attempts):
        assert all(a["packing"] == {"lanes": 2, "lane": number % 2} for a in trials)
        assert all(again["from"] >= 3 for again in trials[1:])


def test_a_workdir_that_nodes_do_not_share_is_refused_in_one_line(tmp_path, cluster):
    study = RayStudy(tmp_path, cluster, disk="apart", num_trials=2)
    code, output, errors = study.run()
    # Ray tells there, too, of nodes that earlier tests have killed.
    assert (code, re.sub(r"\x1b\[33m\(raylet\).*", "", output, flags=re.DOTALL)) == (2, "")
    assert errors == (
        f"error: node {socket.gethostname()}: {study.path} is not the directory that the launcher writes "
        "to; --workdir must be a directory that all nodes share\n"
    )
    assert not study.path.exists()


@pytest.mark.playbook("studies-survive-interruptions")
def test_ctrl_c_saves_and_a_worker_that_dies_is_replaced(tmp_path, cluster):
    study = RayStudy(tmp_path, cluster, notes="seconds=0.1 die=1 meet=0", num_trials=2).start()
    study.until(lambda: len(study.steps(0)) > 3)
    study.process.send_signal(signal.SIGINT)
    code, _, errors = study.wait()
    assert (code, errors) == (75, "")
    assert study.states()[0] == "INTERRUPTED"
    assert gone(study.workers())
    assert study.run()[0] == 1
    assert study.states() == ["COMPLETE", "FAILED"]
    assert study.steps(0) == list(range(1, STEPS + 1))
    assert len(study.attempts(0)) == 2
    reason = trial.read_json(study.path / "trials" / "001" / "status.json")["reason"]
    lost = "its process or its node was lost, perhaps out of memory"
    assert reason.startswith(f"its worker ended 3 times ({lost})")
    # What the workers print is in the logs that are named.
    logs = {path: path.read_text() for path in (study.path / "logs").iterdir()}
    assert sum(text.count("out of luck\n") for text in logs.values()) >= 3
    assert "out of luck\n" in logs[Path(reason.split("; see ")[1])]


@pytest.mark.playbook("studies-survive-interruptions")
def test_a_killed_launcher_leaves_nothing_and_another_executor_goes_on(tmp_path, cluster):
    study = RayStudy(tmp_path, cluster, notes="seconds=0.05", num_trials=2).start()
    study.until(lambda: study.attempts(0) and len(study.steps(1)) > 3)
    workers = study.workers()
    study.process.kill()
    study.process.wait()
    # At once, and on this machine: the workers elsewhere are waited for.
    study.executor = ON_THIS_MACHINE
    assert study.run()[0] == 0
    assert gone(workers)
    assert study.states() == ["COMPLETE"] * 2
    assert all(study.steps(number) == list(range(1, STEPS + 1)) for number in range(2))


def test_what_keeps_a_launcher_from_a_cluster_is_said_in_one_line(tmp_path, cluster, monkeypatch):
    study = RayStudy(tmp_path, cluster)
    study.environment |= {"RAY_AUTH_TOKEN": "f" * 32}
    code, output, errors = study.run()
    assert (code, output) == (2, "")
    assert errors.startswith(
        f"error: the Ray cluster at {cluster.address} does not accept this token"
    )
    assert errors.count("\n") == 1
    assert not study.path.exists()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"no Ray cluster at {address}: .*refused"):
            cluster_lib.connect(address)
    with pytest.raises(UsageError, match="not HOST:PORT"):
        cluster_lib.connect("head")
    with pytest.raises(UsageError, match="run the launcher on a node of the cluster"):
        cluster_lib.connect("ray://head:10001")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"not installed: pip install playbook_jax\[ray\]"):
        cluster_lib.connect(cluster.address)


def test_what_a_worker_takes_of_a_cluster():
    def places(resources, num_workers=0):
        found = executor_lib.Places.of(resources, num_workers)
        return found.num_workers, found.options, found.memory

    assert places({"CPU": 8.0}) == (8, {"num_cpus": 1}, 0.0)
    assert places({"CPU": 8.0}, 20) == (20, {"num_cpus": 1}, 0.0)  # some wait, or nodes are added
    gpu = {"num_cpus": 0, "num_gpus": 1}
    assert places({"CPU": 8.0, "GPU": 2.0}) == (2, gpu, 0.0)
    assert places({"CPU": 8.0, "GPU": 2.0}, 2) == (2, gpu, 0.0)
    assert places({"GPU": 2.0}, 3) == (3, {"num_cpus": 0, "num_gpus": 0.5}, 0.45)
    with pytest.raises(UsageError, match="neither GPUs nor CPUs"):
        places({"node:127.0.0.1": 1.0})


def test_workers_on_a_node_take_its_cores_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cores = sorted(os.sched_getaffinity(0))
    taken = [actor_lib._take_core(index) for index in range(2 * len(cores))]
    assert taken == cores * 2  # one each while there are enough; then they share


def test_a_lease_ends_with_its_holder_or_its_time(tmp_path):
    lease = tmp_path / "lease"
    held = leases.take(lease)
    assert not leases.is_free(lease)
    began = time.monotonic()
    leases.wait_until_free(lease, began + 0.2)
    assert 0.2 <= time.monotonic() - began < 5
    assert not lease.exists()
    os.close(held)
    held = leases.take(lease)
    os.close(held)
    assert leases.is_free(lease)
    leases.distrust(lease)  # of a machine whose locks are not seen here
    assert not leases.is_free(lease)


# An actor without Ray, whose launcher falls silent after three seconds; then nothing in Python runs.
SILENCE = """
import ctypes, sys, time
from playbook_jax.studies.ray import actor as ray_actor
from playbook_jax.studies.store import leases
leases.SECONDS = 1.5
study = sys.argv[1]
actor = ray_actor.Actor(ray_actor.Settings(
    index=0, train_module="tests.fake_train", lease=study + "/.leases/lease", log=study + "/log",
    directory="/nowhere", environment={}, on_gpu=False, memory=0.0,
))
assert actor.hello()[1]
deadline = time.monotonic() + 3
while time.monotonic() < deadline:
    assert {message["kind"] for message in actor.hear()} <= {"ready"}
print("silence", file=sys.stderr)
ctypes.PyDLL(None).sleep(60)
"""


def test_a_worker_whose_launcher_is_silent_ends_itself(tmp_path):
    lease = leases.directory(tmp_path) / "lease"
    leases.offer(lease)
    actor = subprocess.Popen([sys.executable, "-c", SILENCE, str(tmp_path)], cwd=ROOT)
    log = tmp_path / "log"
    while actor.poll() is None and not (log.exists() and "silence\n" in log.read_text()):
        time.sleep(0.01)  # it lives as long as it hears something
    assert not leases.is_free(lease)
    assert actor.wait(15) == 1
    assert leases.is_free(lease)


def test_a_node_that_does_not_see_the_study_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "_SEEN_SECONDS", 0.1)
    assert not leases.is_seen(leases.directory(tmp_path / "elsewhere") / "lease")
    leases.offer(leases.directory(tmp_path) / "lease")
    assert leases.is_seen(leases.directory(tmp_path) / "lease")
