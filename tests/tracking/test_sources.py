"""A trial runs the code that it says it ran, from wherever its command is given, and keeps its text."""

import json
import os
import shutil
import subprocess
import sys
from unittest import mock

import pytest

from playbook_jax import trial
from playbook_jax.procedures import reproduce
from playbook_jax.tracking import provenance, sources
from tests import small
from tests.launched_study import Study
from tests.studies.test_specification import RATE, write

WORKLOAD = '''
"""A workload that lies outside of the checkout."""

from workloads.digits import Digits


class Mine(Digits):
    """The digits, by another name."""
'''


def run(script, *arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, small.ROOT / "scripts" / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | environment,
    )


@pytest.fixture
def foreign(tmp_path):
    """Another checkout, whose code ends whatever runs it."""
    for name in ("playbook_jax/studies", "workloads"):
        (tmp_path / "foreign" / name).mkdir(parents=True)
    for name in ("playbook_jax", "playbook_jax/studies"):
        (tmp_path / "foreign" / name / "__init__.py").write_text("raise SystemExit('foreign')\n")
    return tmp_path / "foreign"


def test_workers_run_the_launchers_code_from_the_directory_of_another_checkout(foreign, tmp_path):
    config = write(
        tmp_path / "study.py",
        base_config="configs/digits_mlp.py",
        num_trials=1,
        fixed={"max_train_steps": 2, "eval_every_steps": 2, "checkpoint.every_steps": 2},
        nuisance={"hparams.learning_rate": RATE},
    )
    arguments = (f"--config={config}", f"--workdir={tmp_path / 's'}", "--workers=1")
    result = run("launch_study.py", *arguments, cwd=foreign, PYTHONPATH=str(foreign))
    assert result.returncode == 0, result.stderr
    found = trial.load(tmp_path / "s/trials/000").provenance
    texts = {source["path"]: source["text"] for source in found["sources"]}
    for path in (config, small.ROOT / "configs/digits_mlp.py", small.ROOT / "workloads/digits.py"):
        assert texts[str(path)] == path.read_text()
    assert len(texts) == 3


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A trial whose workload and config lie in a directory of the user's, and that directory."""
    home = tmp_path_factory.mktemp("home")
    (home / "workloads").mkdir()
    (home / "workloads/mine.py").write_text(WORKLOAD)
    text = (small.ROOT / "configs/digits_mlp.py").read_text()
    (home / "mine.py").write_text(text.replace('workload = "digits"', 'workload = "mine"'))
    result = run("train.py", *_arguments(home), cwd=home)
    assert result.returncode == 0, result.stderr
    return home


def _arguments(home):
    steps = [f"--config.{key}=4" for key in ("max_train_steps", "eval_every_steps")]
    return [f"--config={home / 'mine.py'}", f"--workdir={home / 't'}", *steps]


def test_a_workload_outside_of_the_checkout_is_kept_and_found_where_it_was(elsewhere, tmp_path):
    found = trial.load(elsewhere / "t").provenance
    kept = {(s["kind"], s["path"]): s["text"] for s in found["sources"]}
    assert kept["workload", str(elsewhere / "workloads/mine.py")] == WORKLOAD
    assert kept["config", str(elsewhere / "mine.py")] == (elsewhere / "mine.py").read_text()
    again = (f"--trial={elsewhere / 't'}", f"--workdir={tmp_path / 'again'}")
    result = run("reproduce.py", *again, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Every bit is the same")
    result = run("evaluate.py", f"--trial={elsewhere / 't'}", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_workload_that_has_changed_is_named_by_all_that_run_it_again(elsewhere, tmp_path):
    home = shutil.copytree(elsewhere, tmp_path / "home")
    stored = trial.read_json(home / "t/provenance.json")
    text = json.dumps(stored).replace(str(elsewhere), str(home))
    trial.write_json(home / "t/provenance.json", json.loads(text))
    mine = home / "workloads/mine.py"
    mine.write_text(WORKLOAD + "\n\n# It trains the same.\n")
    told = f"warning: the text of {mine} is not what the trial was run with\n"
    result = run("evaluate.py", f"--trial={home / 't'}", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, told)
    result = run("reproduce.py", f"--trial={home / 't'}", f"--workdir={tmp_path}/new", cwd=tmp_path)
    assert "What is no longer as it was:\n" in result.stdout
    assert f"  the text of {mine}\n" in result.stdout
    status = trial.read_json(home / "t/status.json")
    trial.write_json(home / "t/status.json", status | {"state": "INTERRUPTED"})
    result = run("train.py", *_arguments(home), cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, told)


def test_a_study_that_goes_on_with_a_changed_workload_says_so(tmp_path):
    study = Study(tmp_path, num_trials=1)
    assert study.run()[0] == 0
    mine = tmp_path / "mine.py"
    mine.write_text("new\n")
    kept = [{"kind": "workload", "path": str(mine), "text": "old\n"}]
    trial.write_json(study.path / "trials/000/provenance.json", {"sources": kept})
    study.change(num_trials=2)
    assert study.run()[0] == 0
    assert study.doubts[0].startswith(f"warning: the text of {mine} is not what the study was run")
    mine.unlink()  # what is gone may lie elsewhere; the worker says what it does not find
    study.change(num_trials=3)
    assert study.run()[0] == 0
    assert study.doubts == []


def test_what_is_no_list_of_files_counts_as_none():
    for stored in (None, [], {"sources": 1}, {"sources": [1, {"kind": "workload", "path": 2}]}):
        assert sources.of(stored, sources.WORKLOAD) == []


def test_only_variables_that_are_known_are_kept_and_set(monkeypatch):
    for name in ("TF_VAR_db_password", "JAX_TOKEN", "XLA_SECRET", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "hunter2")
    kept = provenance.collect(["x"], {})["environment"]
    assert [name for name, value in kept.items() if value == "hunter2"] == ["TF_CPP_MIN_LOG_LEVEL"]
    monkeypatch.setattr(os, "sched_setaffinity", lambda *arguments: None)
    stored = {"PATH": "/evil", "PYTHONPATH": "/evil", "LD_PRELOAD": "/evil.so", "TF_XLA_FLAGS": "x"}
    flags = "--xla_gpu_cuda_data_dir=/evil --xla_cpu_enable_fast_math=false"
    for name in provenance.COMPUTED:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with mock.patch.dict(os.environ):  # all of it is undone
        reproduce.set_up({"environment": stored | {"XLA_FLAGS": flags}})
        assert os.environ == before | {"XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}
