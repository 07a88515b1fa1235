import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from playbook_jax import checkpoints, config as config_lib, hosts, train, trial
from playbook_jax.errors import UsageError
from tests import small


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(config, workdir, *, timeout=30):
    """Two hosts on this machine, with two devices each."""
    port = free_port()
    flags = [f"--config={config}", f"--coordinator=127.0.0.1:{port}", "--num_hosts=2"]
    workdirs = workdir if isinstance(workdir, list) else [workdir, workdir]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    return [
        subprocess.Popen(
            [
                *(sys.executable, "scripts/train.py", *flags, f"--host={host}"),
                *(f"--workdir={workdirs[host]}", f"--host_timeout={timeout}"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=small.ROOT,
            env=environment,
        )
        for host in range(2)
    ]


def finish(processes):
    outputs = [process.communicate(timeout=120) for process in processes]
    return [process.returncode for process in processes], outputs


def write_config(path, **overrides):
    config = config_lib.complete(small.digits(dataset__num_shards=2, **overrides))
    path.write_text(json.dumps(config_lib.to_dict(config)))
    return config


@pytest.fixture(scope="module")
def one_host(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one_host")
    train.train(write_config(directory / "config.json"), directory / "trial")
    return directory / "trial"


@pytest.mark.playbook("one-host-writes", "seeds-on-several-hosts")
def test_two_hosts_train_as_one_does(one_host, tmp_path):
    write_config(tmp_path / "config.json")
    codes, outputs = finish(start(tmp_path / "config.json", tmp_path / "trial"))
    assert codes == [0, 0], outputs
    # The same global batches on the same four devices; only the order of the sums differs.
    np.testing.assert_allclose(
        trial.read_steps(tmp_path / "trial"), trial.read_steps(one_host), rtol=1e-5
    )
    # One set of files: nothing is there twice.
    evaluations = trial.load(tmp_path / "trial").evaluations
    assert evaluations["step"].tolist() == [10, 20, 30, 40]
    np.testing.assert_allclose(
        evaluations["validation/loss"],
        trial.load(one_host).evaluations["validation/loss"],
        rtol=1e-5,
    )
    assert int(checkpoints.load(tmp_path / "trial", "latest")["step"]) == 40


def saved_steps(directory):
    names = [path.name for path in (directory / "checkpoints").glob("*")]
    return [int(name) for name in names if name.isdigit()]


def wait_for(path, text="", seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.05)
    pytest.fail(f"{path} did not appear")


LONG = {"max_train_steps": 1_000_000, "eval_every_steps": 100, "checkpoint__every_steps": 200}


def test_all_hosts_stop_after_the_same_step_and_go_on(tmp_path):
    write_config(tmp_path / "config.json", **LONG)
    processes = start(tmp_path / "config.json", tmp_path / "trial")
    wait_for(tmp_path / "trial" / "metrics.jsonl")
    processes[1].send_signal(signal.SIGTERM)  # one host is enough
    codes, outputs = finish(processes)
    assert codes == [75, 75], outputs
    status = trial.load(tmp_path / "trial").status
    assert status["state"] == "INTERRUPTED"
    assert len(trial.read_steps(tmp_path / "trial")) == status["step"]
    assert int(checkpoints.load(tmp_path / "trial", "latest")["step"]) == status["step"]


def test_a_lost_host_is_said_and_the_run_goes_on_afterwards(one_host, tmp_path):
    write_config(tmp_path / "config.json", **LONG)
    processes = start(tmp_path / "config.json", tmp_path / "trial", timeout=10)
    deadline = time.monotonic() + 60
    while not saved_steps(tmp_path / "trial") and time.monotonic() < deadline:
        time.sleep(0.05)
    children = subprocess.run(
        ["pgrep", "-P", str(processes[1].pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    codes, outputs = finish(processes)
    assert codes == [1, 1]
    for _, errors in outputs:
        last = errors.strip().splitlines()[-1]
        assert last.startswith("error: host ")
        assert "lost contact with another host, or was killed" in last
    assert trial.load(tmp_path / "trial").status["state"] == "FAILED"
    # The same command goes on; here until it is asked to stop.
    step = max(saved_steps(tmp_path / "trial"))
    processes = start(tmp_path / "config.json", tmp_path / "trial")
    wait_for(tmp_path / "trial" / "status.json", "RUNNING")
    time.sleep(2)
    processes[0].send_signal(signal.SIGTERM)
    codes, outputs = finish(processes)
    assert codes == [75, 75], outputs
    assert trial.load(tmp_path / "trial").status["step"] >= step


def test_hosts_that_do_not_share_the_workdir_are_told(tmp_path):
    write_config(tmp_path / "config.json")
    codes, outputs = finish(
        start(tmp_path / "config.json", [tmp_path / "mine", tmp_path / "yours"])
    )
    assert codes == [2, 2], outputs
    assert "must be a directory that all hosts share" in outputs[1][1]


def test_a_missing_host_is_said_in_time(tmp_path):
    write_config(tmp_path / "config.json")
    processes = start(tmp_path / "config.json", tmp_path / "trial", timeout=5)
    processes[1].kill()
    subprocess.run(["pkill", "-P", str(processes[1].pid)], check=False)
    _, errors = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 1
    assert errors.strip().splitlines()[-1].startswith("error: host 0 of 2 lost contact")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a:1", None, 0), "--num_hosts missing"),
        ((None, 2, 1), "--coordinator missing"),
        (("a:1", 2, 2), "--host=2 must be from 0 to 1"),
        (("a", 2, 1), "--coordinator=a must be ADDRESS:PORT"),
    ],
)
def test_incomplete_descriptions_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        hosts.find(*arguments, 300, {})


def test_hosts_are_found_in_the_environment():
    assert hosts.find(None, None, None, 300, {}) is None
    environment = {
        "JAX_COORDINATOR_ADDRESS": "a:1",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": "3",
    }
    assert hosts.find(None, None, None, 300, environment) == hosts.Hosts("a:1", 4, 3, 300)
    slurm = {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}
    assert hosts.find(None, None, None, 300, slurm) == hosts.Hosts(None, None, None, 300)
    pod = {"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}
    assert hosts.find(None, None, None, 300, pod) == hosts.Hosts(None, None, None, 300)
