import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from playbook_jax import trial
from tests import small

SMALL = [
    "--config=configs/digits_mlp.py",
    "--config.model.hidden_sizes=(8,)",
    "--config.batch_size=32",
    "--config.max_train_steps=20",
    "--config.eval_every_steps=10",
    "--config.steps_per_call=5",
]


def command(*arguments):
    return [sys.executable, "scripts/train.py", *arguments]


def train(*arguments):
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=small.ROOT, env=small.one_device()
    )


@pytest.mark.playbook("every-number-can-be-traced", "tracking-costs-nothing")
def test_training_resuming_and_changing_the_config(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    first = train(*SMALL, workdir)
    assert first.returncode == 0, first.stderr
    assert re.search(
        r"COMPLETE at step 20: best validation/error_rate 0\.\d+ at step", first.stdout
    )
    # The stored config is a config too, and a finished run reports again.
    config = tmp_path / "run" / "config.json"
    again = train(f"--config={config}", workdir)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["command"][1:] == command(*SMALL, workdir)[1:]
    assert provenance["threads"] == len(os.sched_getaffinity(0))
    other = train(*SMALL, workdir, "--config.hparams.learning_rate=0.2")
    assert other.returncode == 2
    assert "another config (hparams.learning_rate: 0.1 → 0.2)" in other.stderr


def test_an_infeasible_run_exits_with_3(tmp_path):
    result = train(*SMALL, f"--workdir={tmp_path}", "--config.hparams.learning_rate=1e30")
    assert result.returncode == 3
    assert re.search(r"INFEASIBLE at step \d+: .* is (nan|inf|-inf)", result.stdout)


@pytest.mark.playbook("checkpoints-survive-interruptions")
def test_sigterm_saves_and_exits_with_75(tmp_path):
    arguments = [*SMALL, f"--workdir={tmp_path}", "--config.max_train_steps=10000000"]
    process = subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        text=True,
        cwd=small.ROOT,
        env=small.one_device(),
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "Continue with: scripts/train.py --config=configs/digits_mlp.py" in output
    status = trial.load(tmp_path).status
    assert status["state"] == "INTERRUPTED"
    assert len(trial.read_steps(tmp_path)) == status["step"]
    assert (tmp_path / "checkpoints" / str(status["step"])).is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"--config=FILE is missing"),
        (
            ["--config=configs/digits_mpl.py"],
            r"no config file .* did you mean 'configs/digits_mlp.py'",
        ),
        (["--config=README.md"], r"README.md is not a Python file"),
        (SMALL, r"--workdir=DIR is missing"),
        ([*SMALL, "--workdir=DIR", "--workdr=x"], r"unknown flag --workdr; did you mean --workdir"),
        ([*SMALL, "--workdir=DIR", "x"], r"'x' is not a flag"),
        (
            [*SMALL, "--workdir=DIR", "--config.hparams.learning_rat=1"],
            r"the config has no 'hparams.learning_rat'; did you mean 'hparams.learning_rate'",
        ),
        ([*SMALL, "--workdir=DIR", "--config.batch_size=many"], r"config.batch_size=many: invalid"),
        ([*SMALL, "--workdir=DIR", "--config.optimizer=adma"], r"did you mean 'adam'"),
        ([*SMALL, "--workdir=DIR", "--cores=1000"], r"--cores=1000: this machine has \d+"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path, arguments, message):
    workdir = tmp_path / "run"
    result = train(*[a.replace("DIR", str(workdir)) for a in arguments])
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert re.search(message, result.stderr)
    assert not workdir.exists()


def test_help_needs_neither_a_config_nor_jax():
    result = train("--help")
    assert result.returncode == 0
    assert "--workdir" in result.stdout


def test_importing_the_package_imports_neither_jax_nor_tensorflow():
    code = (
        "import sys, playbook_jax, playbook_jax.trial, playbook_jax.config;"
        "import playbook_jax.runtime.command_line;"
        "print([m for m in ('jax', 'tensorflow', 'pandas', 'flax') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_training_from_memory_does_not_import_tensorflow():
    code = (
        "import sys; from playbook_jax import train; from tests import small;"
        "train.validate(small.digits());"
        "print([m for m in ('tensorflow', 'clu', 'pandas', 'scipy.stats') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=small.ROOT
    )
    assert result.stdout == "[]\n", result.stderr
