import re
import subprocess
import sys

import pytest

from playbook_jax import trial
from tests import small

README = (small.ROOT / "README.md").read_text()


@pytest.mark.playbook("a-model-in-two-files")
def test_the_forking_example_works_as_it_stands(tmp_path):
    workload, config = [
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if '"""' in block
    ]
    assert workload.count("\n") + config.count("\n") <= 150
    for directory, text in (("workloads", workload), ("configs", config)):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "breast_cancer.py").write_text(text)
    result = subprocess.run(
        [
            sys.executable,
            str(small.ROOT / "scripts" / "train.py"),
            "--config=configs/breast_cancer.py",
            "--workdir=run",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    # Far better than the 37 % of always answering "benign".
    assert trial.load(tmp_path / "run").status["objective"] <= 0.05


def test_the_files_and_commands_that_the_readme_names_exist():
    for path in re.findall(r"(?:scripts|configs|docs|workloads)/[\w/]+\.(?:py|sh|md|png)", README):
        example = path == "configs/breast_cancer.py" or "NAME" in path
        assert (small.ROOT / path).exists() or example, path
