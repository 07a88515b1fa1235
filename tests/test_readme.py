import re
import subprocess
import sys
from pathlib import Path

import pytest

from playbook_jax import config as config_lib, trial
from tests import small

README = (small.ROOT / "README.md").read_text()


def write_example(place):
    workload, config = [
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if '"""' in block
    ]
    assert workload.count("\n") + config.count("\n") <= 150
    for directory, text in (("workloads", workload), ("configs", config)):
        (place / directory).mkdir()
        (place / directory / "breast_cancer.py").write_text(text)


def test_the_forking_example_passes_the_checks_of_this_repository(tmp_path):
    write_example(tmp_path)
    (tmp_path / "pyproject.toml").write_text((small.ROOT / "pyproject.toml").read_text())
    (tmp_path / "playbook_jax").mkdir()  # as in a fork, it is the first party
    ruff = Path(sys.executable).parent / "ruff"
    for check in (["check"], ["format", "--check"]):
        result = subprocess.run(
            [ruff, *check, "."], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout


@pytest.mark.playbook("a-model-in-two-files")
def test_the_forking_example_works_as_it_stands(tmp_path):
    write_example(tmp_path)
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


def test_the_flags_and_config_keys_that_the_readme_names_exist():
    named = {}
    for script, arguments in re.findall(r"scripts/(\w+)\.py([^`\n|#]*)", README):
        named.setdefault(script, set()).update(re.findall(r"--([\w.]+)", arguments))
    config = config_lib.complete(config_lib.load(small.ROOT / "configs" / "digits_mlp.py"))
    cnn = config_lib.complete(config_lib.load(small.ROOT / "configs" / "digits_cnn.py"))
    keys = config_lib.flatten(config) | config_lib.flatten(cnn)
    assert len(named) >= 8
    for script, names in named.items():
        if not names:
            continue
        path = str(small.ROOT / "scripts" / f"{script}.py")
        shown = subprocess.run(
            [sys.executable, path, "--help"], capture_output=True, text=True, check=True
        )
        for name in names:
            key = name.removeprefix("config.")
            if key != name:
                assert key in keys, name
            else:
                assert re.search(rf"--(\[no\])?{name}\b", shown.stdout), (script, name)
