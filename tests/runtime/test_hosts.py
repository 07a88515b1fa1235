import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from playbook_jax import checkpoints, config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import hosts, parallel
from playbook_jax.training import loop, program
from tests import small


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(config, workdir, *, timeout=30, hosts=(0, 1)):
    """Two hosts on this machine, or one of them, with two devices each."""
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
        for host in hosts
    ]


def finish(processes):
    outputs = [process.communicate(timeout=120) for process in processes]
    return [process.returncode for process in processes], outputs


def write_config(path, **overrides):
    """A CNN whose batch norm takes its statistics from the 32 examples on all hosts."""
    values = {
        "model.channels": (4,),
        "model.virtual_batch_size": 32,
        "dataset.num_shards": 2,
        "batch_size": 32,
        "eval_batch_size": 128,
        "eval_train_examples": 100,
        "max_train_steps": 12,
        "eval_every_steps": 4,
        "checkpoint.every_steps": 8,
        "optimizer": "nesterov",
        "hparams.learning_rate": 0.02,
    }
    config = config_lib.override(
        config_lib.load(small.ROOT / "configs" / "digits_cnn.py"), values | overrides
    )
    config = config_lib.complete(config)
    path.write_text(json.dumps(config_lib.to_dict(config)))
    return config


@pytest.mark.playbook("one-host-writes", "seeds-on-several-hosts", "synchronized-batch-norm")
def test_two_hosts_train_as_one_does(tmp_path):
    config = write_config(tmp_path / "config.json")
    processes = start(tmp_path / "config.json", tmp_path / "two")
    loop.train(config, tmp_path / "one")
    codes, outputs = finish(processes)
    assert codes == [0, 0], outputs
    # The same global batches on the same four devices; only the order of the sums differs.
    np.testing.assert_allclose(
        trial.read_steps(tmp_path / "two"), trial.read_steps(tmp_path / "one"), rtol=1e-5
    )
    # One set of files: nothing is there twice.
    evaluations = trial.load(tmp_path / "two").evaluations
    assert evaluations["step"].tolist() == [4, 8, 12]
    np.testing.assert_allclose(
        evaluations["validation/loss"],
        trial.load(tmp_path / "one").evaluations["validation/loss"],
        rtol=1e-5,
    )
    one, two = (checkpoints.load(tmp_path / name, "latest") for name in ("one", "two"))
    assert int(two["step"]) == 12
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            two["batch_stats"]["BatchNorm_0"][name],
            one["batch_stats"]["BatchNorm_0"][name],
            rtol=1e-4,
            atol=1e-6,
        )


def saved_steps(directory):
    names = [path.name for path in (directory / "checkpoints").glob("*")]
    return [int(name) for name in names if name.isdigit()]


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.playbook("checkpoints-survive-interruptions")
def test_a_lost_host_is_said_and_all_go_on_until_one_is_asked_to_stop(tmp_path):
    # Without batch norm over the hosts: here each device has statistics of its own.
    long = {"max_train_steps": 100_000, "checkpoint.every_steps": 20, "eval_every_steps": 20}
    config = write_config(tmp_path / "config.json", **long, **{"model.virtual_batch_size": 4})
    directory = tmp_path / "trial"
    processes = start(tmp_path / "config.json", directory, timeout=5)
    wait_for(lambda: saved_steps(directory))
    children = subprocess.run(
        ["pgrep", "-P", str(processes[1].pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    codes, outputs = finish(processes)
    assert codes == [1, 1]
    for _, errors in outputs:
        assert re.search(
            "lost contact with another host, or was killed|another host was lost", errors
        )
    assert trial.load(directory).status["state"] == "FAILED"

    # The same command goes on, until one host, not that which writes, is asked to stop.
    step = max(saved_steps(directory))
    records = trial.read_steps(directory)[:step]
    processes = start(tmp_path / "config.json", directory)
    wait_for(lambda: max(saved_steps(directory)) > step)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = finish(processes)
    assert codes == [75, 75], outputs
    status = trial.load(directory).status
    assert status["state"] == "INTERRUPTED"
    assert status["step"] > step
    np.testing.assert_array_equal(trial.read_steps(directory)[:step], records)
    # All stopped after the same step, with the statistics of all hosts' devices.
    assert len(trial.read_steps(directory)) == status["step"]
    like = parallel.first(program.get(config).init(0))
    with checkpoints.Checkpoints(directory, keep_best=1, mode="min") as saved:
        restored = saved.restore(like)
    assert restored.step == status["step"]
    if restored.step % 20:
        means = restored.of_devices["batch_stats"]["BatchNorm_0"]["mean"]
        assert means.shape == (4, 4)
        assert np.ptp(means, axis=0).min() > 0


def test_hosts_that_do_not_share_the_workdir_are_told(tmp_path):
    write_config(tmp_path / "config.json")
    codes, outputs = finish(
        start(tmp_path / "config.json", [tmp_path / "mine", tmp_path / "yours"])
    )
    assert codes == [2, 2], outputs
    assert "must be a directory that all hosts share" in outputs[1][1]


def test_a_missing_host_is_said_in_time(tmp_path):
    write_config(tmp_path / "config.json")
    (process,) = start(tmp_path / "config.json", tmp_path / "trial", timeout=2, hosts=[0])
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
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


@pytest.mark.playbook("checkpoints-survive-interruptions")
def test_hosts_that_are_asked_to_stop_do_not_wait_for_the_next_boundary(tmp_path):
    far = dict.fromkeys(("log_every_steps", "eval_every_steps", "checkpoint.every_steps"), 50_000)
    long = {"max_train_steps": 100_000, "model.virtual_batch_size": 4} | far
    write_config(tmp_path / "config.json", **long)
    directory = tmp_path / "trial"
    processes = start(tmp_path / "config.json", directory)
    wait_for(lambda: trial.read_json(directory / "status.json"), seconds=180)
    processes[1].send_signal(signal.SIGTERM)  # not the one that writes
    codes, outputs = finish(processes)
    assert codes == [75, 75], outputs
    status = trial.load(directory).status
    assert status["state"] == "INTERRUPTED"
    assert 0 < status["step"] < 50_000
    assert len(trial.read_steps(directory)) == status["step"]
    assert saved_steps(directory) == [status["step"]]
