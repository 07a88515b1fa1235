"""Commands run without standard streams, as under `2>&-` or some supervisors."""

import json
import shlex
import subprocess
import sys

from playbook_jax import config as config_lib
from tests import small


def closed(command, streams):
    """Runs a command with these streams closed; returns its exit code."""
    shell = f"exec {shlex.join(map(str, command))} {streams}"
    return subprocess.run(["sh", "-c", shell], cwd=small.ROOT, env=small.one_device()).returncode


def test_training_runs_with_closed_standard_streams(tmp_path):
    config = small.digits(max_train_steps=20)
    (tmp_path / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
    flags = [f"--config={tmp_path / 'config.json'}", f"--workdir={tmp_path / 'trial'}"]
    assert closed([sys.executable, "scripts/train.py", *flags], "<&- >&- 2>&-") == 0
    status = json.loads((tmp_path / "trial" / "status.json").read_text())
    assert (status["state"], status["step"]) == ("COMPLETE", 20)
    assert (tmp_path / "trial" / "steps.f32").stat().st_size == 20 * 5 * 4


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    code = (
        "import os; from playbook_jax.runtime import command_line\n"
        "def main(argv):\n"
        f"    with open({str(tmp_path / 'data')!r}, 'w') as file:\n"
        "        os.write(2, b'noise'); print('more'); file.write(str(file.fileno()))\n"
        "command_line.run(main)\n"
    )
    assert closed([sys.executable, "-c", code], "<&- >&- 2>&-") == 0
    assert int((tmp_path / "data").read_text()) > 2


def test_bad_input_with_closed_streams_is_still_told_by_the_exit_code():
    assert closed([sys.executable, "scripts/train.py", "--confi=x"], ">&- 2>&-") == 2
