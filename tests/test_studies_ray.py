import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from launched_study import LAUNCH, STEPS, Study, gone
from small import ROOT

pytest.importorskip("ray", reason="ray is not installed: scripts/setup.sh test")

TOKEN = "0123456789abcdef0123456789abcdef"
# The launcher of the other tests, with the workers on the cluster. "apart": its lease is not seen, as
# where the nodes do not share a disk.
ON_RAY = LAUNCH.replace(
    "        train_module=train_module,\n",
    "        train_module=train_module,\n"
    "        make_executor=ray_executor.maker(os.environ['ADDRESS'], 0, train_module),\n",
).replace(
    "import sys\n",
    "import os, sys\n"
    "from playbook_jax.studies import leases, ray_executor, ray_relay\n"
    "if os.environ.get('APART'):\n"
    "    ray_relay.SEND_SECONDS = 0.2\n"
    "    leases.is_free = lambda path: True\n",
    1,
)


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
    def __init__(self, directory, cluster, apart=False, **changes):
        super().__init__(directory, **changes)
        self.environment = cluster.environment | {"ADDRESS": cluster.address}
        self.environment |= {"APART": "1"} if apart else {}

    def start(self, workers=2, **options):
        arguments = [self.train_module, self.config, self.path, str(workers), json.dumps(options)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_RAY, *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self


@pytest.mark.playbook("studies-survive-interruptions")
@pytest.mark.parametrize("apart", [False, True], ids=["shared", "apart"])
def test_a_node_is_lost_and_every_trial_is_complete_once(tmp_path, cluster, apart):
    study = RayStudy(tmp_path, cluster, apart, notes="seconds=0.05", num_trials=4).start()
    study.until(lambda: len(study.steps(0)) > 3 and len(study.steps(1)) > 3)
    cluster.tell("kill")
    code, output, errors = study.wait()
    assert (code, errors) == (0, "")
    assert "test: 4 trials, 4 COMPLETE\n" in output
    assert study.states() == ["COMPLETE"] * 4
    # Each step once, and of the lost trial none again that was saved.
    assert all(study.steps(number) == list(range(1, STEPS + 1)) for number in range(4))
    attempts = [study.attempts(number) for number in range(4)]
    assert sorted(map(len, attempts)) == [1, 1, 1, 2]
    lost = max(attempts, key=len)
    assert lost[1]["from"] >= 3
    assert gone(study.workers())
    assert len(study.workers()) == 2
    assert not (study.path / ".leases").exists()
    cluster.tell("add")


@pytest.mark.playbook("studies-survive-interruptions")
def test_a_killed_launcher_leaves_nothing_and_any_executor_goes_on(tmp_path, cluster):
    study = RayStudy(tmp_path, cluster, notes="seconds=0.05", num_trials=3).start()
    study.until(lambda: study.attempts(0) and len(study.steps(1)) > 3)
    workers = study.workers()
    study.process.kill()
    study.process.wait()
    # At once, and on this machine: the workers elsewhere are waited for.
    Study.start(study)
    assert study.wait()[0] == 0
    assert gone(workers)
    assert study.states() == ["COMPLETE"] * 3
    assert all(study.steps(number) == list(range(1, STEPS + 1)) for number in range(3))


@pytest.mark.playbook("studies-survive-interruptions")
def test_ctrl_c_saves_and_a_killed_worker_is_replaced(tmp_path, cluster):
    study = RayStudy(tmp_path, cluster, apart=True, notes="seconds=0.05 die=1", num_trials=2)
    study.start()
    study.until(lambda: len(study.steps(0)) > 10)
    study.process.send_signal(signal.SIGINT)
    code, _, errors = study.wait()
    assert (code, errors) == (75, "")
    assert study.states()[0] == "INTERRUPTED"
    assert gone(study.workers())
    code, output, _ = study.run()
    assert code == 1
    assert study.states() == ["COMPLETE", "FAILED"]
    assert study.steps(0) == list(range(1, STEPS + 1))
    assert len(study.attempts(0)) == 2
    reason = trial.read_json(study.path / "trials" / "001" / "status.json")["reason"]
    assert reason.startswith("its worker ended 3 times (SIGKILL, perhaps out of memory)")
    assert "out of luck\n" in (study.path / "logs" / "worker-1.log").read_text()


def test_trials_in_one_program_too(tmp_path, cluster):
    study = RayStudy(tmp_path, cluster, apart=True, num_trials=6)
    assert study.run(pack=2)[0] == 0
    lanes = [study.attempts(number)[0]["packing"] for number in range(6)]
    assert lanes == [{"lanes": 2, "lane": number % 2} for number in range(6)]
    assert study.states() == ["COMPLETE"] * 6


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
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"not installed: pip install playbook_jax\[ray\]"):
        ray_cluster.connect(cluster.address)
