"""A study whose trials run on several hosts at once, which are processes of this machine."""

import os
import re
import signal
import subprocess
import sys

import pytest

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import hosts
from tests.runtime.test_hosts import free_port, wait_for
from tests.small import ROOT, one_device
from tests.studies.test_specification import write

# Of two hosts with a device each. The rates are such that every trial comes to its end.
TINY = {
    "model.hidden_sizes": [16],
    "batch_size": 32,
    "eval_batch_size": 128,
    "eval_train_examples": 100,
    "max_train_steps": 600,
    "eval_every_steps": 100,
    "log_every_steps": 50,
    "steps_per_call": 25,
    "checkpoint.every_steps": 50,
    "dataset.num_shards": 2,
}


class Processes:
    """launch_study.py on two hosts, which are processes of this machine."""

    def __init__(self, config, path):
        self.config, self.path = config, path

    def start(self, *flags, workdirs=None):
        command = [sys.executable, "scripts/launch_study.py", f"--config={self.config}", *flags]
        command += [f"--coordinator=127.0.0.1:{free_port()}", "--num_hosts=2", "--host_timeout=4"]
        self.hosts = [
            subprocess.Popen(
                [*command, f"--host={host}", f"--workdir={(workdirs or 2 * [self.path])[host]}"],
                cwd=ROOT,
                env=one_device(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for host in range(2)
        ]
        return self

    def wait(self):
        """Returns the exit codes, and what was said on standard output and error by each host."""
        said = [process.communicate(timeout=240) for process in self.hosts]
        return [process.returncode for process in self.hosts], said

    def child(self, host):
        """The process that does a host's work."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.hosts[host].pid)], capture_output=True, text=True, check=True
        )
        return int(found.stdout.split()[0])

    def until_saved(self, number):
        """Waits until a trial has a checkpoint, but not its last one."""
        directory = self.path / "trials" / f"{number:03d}" / "checkpoints"
        wait_for(lambda: any(path.name.isdigit() for path in directory.glob("*")), seconds=180)
        assert self.status(number)["state"] == "RUNNING"

    def status(self, number):
        return trial.load(self.path / "trials" / f"{number:03d}").status

    def earlier_runs(self):
        """How often each trial has gone on after it was stopped."""
        paths = [self.path / "trials" / f"{number:03d}" for number in range(3)]
        return [len(trial.load(path).provenance["earlier_runs"]) for path in paths]


@pytest.mark.playbook("one-host-writes", "checkpoints-survive-interruptions")
def test_two_processes_are_killed_and_stopped_and_end_as_if_they_had_been_left_alone(tmp_path):
    rates = {"hparams.learning_rate": {"scale": "log", "low": 1e-2, "high": 1e-1}}
    config = write(tmp_path / "study.py", num_trials=3, nuisance=rates, fixed=TINY)
    study = Processes(config, tmp_path / "study").start()
    study.until_saved(0)
    # The process that does the work on one host: all start again by themselves.
    os.kill(study.child(1), signal.SIGKILL)
    study.until_saved(1)
    # All of a host: the others wait a while for it, and then say so.
    child = study.child(0)
    study.hosts[0].kill()
    alone = Processes(config, tmp_path / "alone").start()
    codes, said = study.wait()
    assert codes == [-signal.SIGKILL, 75], said
    assert re.search(
        "host 1 of 2 lost contact .* the same command on all hosts goes on", said[1][1]
    )
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    codes, said = alone.wait()
    assert codes == [0, 0], said
    assert said[1][0].startswith("Host 1 of 2: host 0 shows how the study gets on.\n")

    # The same command goes on, until one host is asked to stop.
    study.start().until_saved(2)
    study.hosts[1].terminate()
    codes, said = study.wait()
    assert codes == [75, 75], said
    assert "Stopped with 2 of 3 trials at their end.\nContinue with: scripts/launch" in said[0][0]
    codes, said = study.start().wait()
    assert codes == [0, 0], said

    assert study.earlier_runs() == [1, 1, 1]
    assert alone.earlier_runs() == [0, 0, 0]
    for number in range(3):
        assert study.status(number)["state"] == "COMPLETE"
        for name in ("status.json", "metrics.jsonl", "steps.f32"):
            path = f"trials/{number:03d}/{name}"
            assert (study.path / path).read_bytes() == (alone.path / path).read_bytes(), path


def test_two_processes_refuse_together(tmp_path):
    """A workdir that is not shared; nothing is left of it."""
    config = write(tmp_path / "study.py", num_trials=2, fixed=TINY)
    paths = [tmp_path / "mine", tmp_path / "yours"]
    codes, said = Processes(config, None).start(workdirs=paths).wait()
    text = f"error: host 1: {paths[1]} is not the directory that host 0 writes to; "
    text += "--workdir must be a directory that all hosts share\n"
    assert codes == [2, 2], said
    assert [errors.endswith(text) for _, errors in said] == [True, True], said
    assert [path.name for path in tmp_path.iterdir()] == ["study.py"]


def test_what_makes_no_sense_on_several_hosts_is_refused(tmp_path):
    config = write(tmp_path / "study.py", fixed=TINY)
    codes, said = Processes(config, tmp_path / "s").start("--workers=2").wait()
    assert codes == [2, 2]
    text = "error: --workers makes no sense on several hosts, where one trial at a time runs on all of "
    assert [errors for _, errors in said] == [f"{text}them; leave it out\n"] * 2
    assert not (tmp_path / "s").exists()
    with pytest.raises(UsageError, match="--host_timeout=0 must be at least 1"):
        hosts.find("a:1", 2, 0, 0, {})
