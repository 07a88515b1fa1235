"""Studies that the launcher runs in a process of its own, with fake_train.py in place of training."""

import contextlib
import json
import os
import subprocess
import sys
import time

from playbook_jax import trial
from tests.small import ROOT
from tests.studies.test_specification import RATE, write

# The launcher in a process of its own, with a sampler and a report that cost no second to import; before
# it stands what gives the executor.
LAUNCH = """
import errno
import json
import sys
from pathlib import Path
from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.studies import conclusion, launcher
from playbook_jax.studies.space import samplers
conclusion.REPORT_MODULE = "tests.fake_train"
samplers.ALGORITHMS["halton"] = lambda dimensions, n, seed, arm: [
    [i * 0.618 % 1] * dimensions for i in range(n)
]
train_module, config, workdir, workers, options = sys.argv[1:]
options = json.loads(options)
no_room_for, write_text = options.pop("no_room_for", None), trial.write_text
def write(path, text):
    if Path(path).name == no_room_for:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))
    write_text(path, text)
trial.write_text = write
command = ["scripts/launch_study.py", f"--config={config}", f"--workdir={workdir}"]
try:
    code = launcher.launch(
        config,
        workdir,
        launcher.Options(
            command,
            int(workers),
            train_module=train_module,
            make_executor=make_executor(train_module),
            **options,
        ),
    )
except UsageError as error:
    print(f"error: {error}", file=sys.stderr)
    code = 2
assert not {"jax", "pandas", "scipy"} & set(sys.modules)
sys.exit(code)
"""
ON_THIS_MACHINE = "make_executor = lambda train_module: None"
STEPS = 20


class Study:
    """A study in a directory of its own, run by the launcher in a subprocess."""

    executor, environment = ON_THIS_MACHINE, None  # of the launcher; None: as here

    def __init__(self, directory, notes="", **changes):
        directory.mkdir(exist_ok=True)
        self.path = directory / "s"
        self.directory, self.notes = directory, notes
        self.train_module = "tests.fake_train"
        self.change(**changes)

    def change(self, **changes):
        values = {
            "num_trials": 6,
            "fixed": {"max_train_steps": STEPS, "notes": self.notes},
            "nuisance": {"hparams.learning_rate": RATE},
        }
        self.config = write(self.directory / "study.py", **(values | changes))

    def start(self, workers=2, **options):
        """Starts the launcher; `options` are those of `launcher.launch`, or `no_room_for` a file."""
        arguments = [self.train_module, self.config, self.path, str(workers), json.dumps(options)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.executor + LAUNCH, *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def wait(self):
        """Returns the exit code, standard output and standard error, doubts left out."""
        output, errors = self.process.communicate(timeout=120)
        lines = errors.splitlines(keepends=True)
        self.doubts = [line for line in lines if line.startswith("warning: ")]
        errors = "".join(line for line in lines if line not in self.doubts)
        return self.process.returncode, output, errors

    def run(self, workers=2, **options):
        return self.start(workers, **options).wait()

    def attempts(self, number):
        return trial.read_json_lines(self.path / "trials" / f"{number:03d}" / "attempts")

    def steps(self, number):
        path = self.path / "trials" / f"{number:03d}" / "steps"
        return [int(step) for step in path.read_text().split()] if path.exists() else []

    def states(self):
        return [
            trial.read_json(self.path / "trials" / f"{row['trial']:03d}" / "status.json")["state"]
            for row in trial.read_json(self.path / "study.json")["trials"]
        ]

    def workers(self):
        """The processes that have begun to run trials."""
        return {a["process"] for number in range(10) for a in self.attempts(number)}

    def until(self, condition):
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)


def gone(processes):
    """Waits until none of the processes is left."""
    deadline = time.monotonic() + 5
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.kill(process, 0)
                time.sleep(0.01)
            raise AssertionError(f"process {process} is still there")
    return True
