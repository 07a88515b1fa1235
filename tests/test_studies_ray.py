import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from launched_study import ON_THIS_MACHINE, STEPS, Study, gone
from small import ROOT

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.studies import leases, mirror, ray_cluster, ray_executor, ray_relay

TOKEN = "0123456789abcdef0123456789abcdef"
# "apart": the launcher's lease is not seen, as where the nodes do not share a disk.
ON_RAY = """
import os
from playbook_jax.studies import leases, ray_executor, ray_relay
if os.environ.get("APART"):
    ray_relay.SEND_SECONDS = 0.2
    leases.is_free = lambda path: True
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

    def __init__(self, directory, cluster, apart=False, **changes):
        super().__init__(directory, **changes)
        self.environment = cluster.environment | {"ADDRESS": cluster.address}
        self.environment |= {"APART": "1"} if apart else {}


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
    study = RayStudy(tmp_path, cluster, notes="seconds=0.05", num_trials=4).start()
    attempts = lose_a_node(study, cluster, running=[0, 1])
    assert sorted(map(len, attempts)) == [1, 1, 1, 2]
    again = max(attempts, key=len)
    assert again[1]["from"] >= 3
    assert all(len(attempt["cores"]) == 1 for trials in attempts for attempt in trials)


@pytest.mark.playbook("studies-survive-interruptions", "studies-run-on-several-machines")
def test_nodes_that_share_no_disk_send_back_what_they_save_also_of_packs(tmp_path, cluster):
    study = RayStudy(tmp_path, cluster, apart=True, notes="seconds=0.05", num_trials=4)
    attempts = lose_a_node(study.start(pack=2), cluster, running=range(4))
    assert sorted(map(len, attempts)) == [1, 1, 2, 2]
    for number, trials in enumerate(attempts):
        assert all(a["packing"] == {"lanes": 2, "lane": number % 2} for a in trials)
        assert all(again["from"] >= 3 for again in trials[1:])


@pytest.mark.playbook("studies-survive-interruptions")
def test_ctrl_c_saves_and_a_worker_that_dies_is_replaced(tmp_path, cluster):
    study = RayStudy(tmp_path, cluster, apart=True, notes="seconds=0.1 die=1", num_trials=2)
    study.start()
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
    assert reason.startswith("its worker ended 3 times (SIGKILL, perhaps out of memory)")
    # What the workers print comes back, into the logs that are named.
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
            ray_cluster.connect(address)
    with pytest.raises(UsageError, match="not HOST:PORT"):
        ray_cluster.connect("head")
    with pytest.raises(UsageError, match="run the launcher on a node of the cluster"):
        ray_cluster.connect("ray://head:10001")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"not installed: pip install playbook_jax\[ray\]"):
        ray_cluster.connect(cluster.address)


def test_what_a_worker_takes_of_a_cluster():
    def places(resources, num_workers=0):
        found = ray_executor.Places.of(resources, num_workers)
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
    taken = [ray_relay._take_core(index) for index in range(2 * len(cores))]
    assert taken == cores * 2  # one each while there are enough; then they share


def tree(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_copy_follows_its_original(tmp_path):
    original, copy, archive = tmp_path / "a", tmp_path / "b", tmp_path / "tar"

    def update(known):
        sent = mirror.pack(original, known, archive)
        mirror.unpack(archive, copy)
        return sent

    write(original / "status.json", "running")
    write(original / "checkpoints" / "10" / "d" / "x", "ten")
    (original / "checkpoints" / "10" / "empty").mkdir()
    write(original / "checkpoints" / "20.orbax-checkpoint-tmp" / "x", "half")
    known = update({})
    half = {"checkpoints/20.orbax-checkpoint-tmp", "checkpoints/20.orbax-checkpoint-tmp/x"}
    assert tree(copy) == {k: v for k, v in tree(original).items() if k not in half}
    assert mirror.pack(original, known, archive) is None

    (original / "checkpoints" / "20.orbax-checkpoint-tmp").rename(original / "checkpoints" / "20")
    shutil.rmtree(original / "checkpoints" / "10")
    write(original / "metrics.jsonl", "one")
    write(original / "status.json", "complete")
    write(original / "checkpoints" / "20" / "large", "x" * 100_000)
    known = update(known)
    assert archive.stat().st_size > 100_000
    assert tree(copy) == tree(original)
    write(original / "metrics.jsonl", "one, two")
    update(known)
    assert archive.stat().st_size < 100_000  # what has not changed is not sent again
    assert tree(copy) == tree(original)


def test_a_copy_is_whole_wherever_it_is_cut(tmp_path, monkeypatch):
    original, archive = tmp_path / "a", tmp_path / "tar"
    write(original / "steps.f32", "1" * 10)
    write(original / "status.json", "at 10")
    write(original / "checkpoints" / "10" / "x", "ten")
    write(original / "checkpoints" / "10" / "y", "ten")
    known = mirror.pack(original, {}, tmp_path / "first")
    write(original / "steps.f32", "1" * 20)
    write(original / "status.json", "at 20")
    write(original / "checkpoints" / "20" / "x", "twenty")
    write(original / "checkpoints" / "20" / "y", "twenty")
    shutil.rmtree(original / "checkpoints" / "10")
    mirror.pack(original, known, archive)

    class CutError(Exception):
        pass

    replace = Path.replace
    for cut in range(10):
        copy = tmp_path / f"copy-{cut}"
        mirror.unpack(tmp_path / "first", copy)
        left = iter(range(cut))

        def replace_some(self, target, left=left):
            if next(left, None) is None:
                raise CutError
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", replace_some)
        try:
            mirror.unpack(archive, copy)
            whole = True
        except CutError:
            whole = False
        monkeypatch.setattr(Path, "replace", replace)
        steps = len((copy / "steps.f32").read_text())
        saved = [int(path.name) for path in (copy / "checkpoints").iterdir()]
        assert saved
        assert max(saved) <= steps
        assert all(len(list((copy / "checkpoints" / str(s)).iterdir())) == 2 for s in saved)
        assert ((copy / "status.json").read_text() == "at 20") <= (saved == [20])
        mirror.unpack(archive, copy)  # the next time
        assert tree(copy) == tree(original)
        if whole:
            break
    assert whole
    assert cut > 3


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


# A relay without Ray, whose launcher falls silent after three seconds.
SILENCE = """
import sys, time
from pathlib import Path
from playbook_jax.studies import leases, ray_relay
leases.SECONDS = 1.5
study = sys.argv[1]
relay = ray_relay.Relay(ray_relay.Settings(
    index=0, train_module="tests.fake_train", study=study, probe=study + "/.leases/probe",
    lease="lease", directory="/", environment={}, on_gpu=False, memory=0.0, send_seconds=30.0,
))
assert relay.hello()[1]
deadline = time.monotonic() + 3
while time.monotonic() < deadline:
    relay.hear()
print(relay._worker._process.pid, flush=True)
time.sleep(60)
"""


def test_a_worker_whose_launcher_is_silent_ends_itself(tmp_path):
    (tmp_path / "logs").mkdir()
    leases.directory(tmp_path).mkdir()
    (leases.directory(tmp_path) / "probe").touch()
    relay = subprocess.Popen(
        [sys.executable, "-c", SILENCE, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    worker = int(relay.stdout.readline())  # it lived as long as it heard something
    os.kill(worker, 0)
    assert not leases.is_free(leases.directory(tmp_path) / "lease")
    assert relay.wait(15) == 1
    assert gone([worker])
    assert leases.is_free(leases.directory(tmp_path) / "lease")
    relay.stdout.close()
