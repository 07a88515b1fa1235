"""Every config there is, and the template of a new one: trains, evaluates, saves, resumes, exports."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest

from playbook_jax import checkpoints, config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.inference import evaluate, export
from playbook_jax.studies import preview
from playbook_jax.training import loop, program
from scripts import new_workload
from tests import small
from tests.runs import stop_after

CONFIGS = sorted((small.ROOT / "configs").glob("*.py"))
STUDIES = sorted((small.ROOT / "configs" / "studies").glob("*.py"))
# The name of a workload that no file in the repository has; written before it is looked for.
NEW = "written_by_the_test"


@pytest.fixture(scope="module", autouse=True)
def data_directory(tmp_path_factory):
    """Where tfds data sets are written; none of the user's are touched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        yield


@pytest.fixture(scope="module", params=[*(path.stem for path in CONFIGS), NEW])
def config_path(request, tmp_path_factory):
    """Each config file in turn, the last one just written by scripts/new_workload.py."""
    if request.param != NEW:
        yield small.ROOT / "configs" / f"{request.param}.py"
        return
    directory = tmp_path_factory.mktemp("fork")
    _, path = new_workload.write(NEW, directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)  # where workloads are looked for, besides the repository
        patch.setattr(sys, "path", [*sys.path])
        yield path


@pytest.fixture(scope="module")
def whole(config_path, tmp_path_factory):
    """The directory of a trial that ran through."""
    directory = tmp_path_factory.mktemp("whole") / "trial"
    status = loop.train(small.shrunk(config_path), directory)
    assert status["state"] == trial.COMPLETE, status["reason"]
    return directory


@pytest.mark.playbook("a-model-in-two-files")
def test_trains_and_evaluates(config_path, whole):
    run = trial.load(whole)
    assert list(run.evaluations["step"]) == [6, 12]
    assert list(run.steps["step"]) == list(range(12))
    assert run.steps["loss"].iloc[-3:].mean() < run.steps["loss"].iloc[0]
    metric = run.config["checkpoint"]["metric"].removeprefix("validation/")
    result = evaluate.evaluate(whole, "best", "validation")
    # In other batches and on padded examples: a few float32 roundings.
    assert result.metrics[metric] == pytest.approx(run.status["objective"], rel=1e-5)


def test_stopped_and_resumed_it_ends_with_the_same_bits(config_path, whole, tmp_path):
    config = small.shrunk(config_path)
    some_steps = stop_after(6 // config.steps_per_call + 1)
    stopped = loop.train(config, tmp_path / "trial", should_stop=some_steps)
    assert stopped["state"] == trial.INTERRUPTED
    assert 6 < stopped["step"] < 12
    assert loop.train(config, tmp_path / "trial")["state"] == trial.COMPLETE
    saved = [checkpoints.load(directory, "latest") for directory in (whole, tmp_path / "trial")]
    assert jax.tree.structure(saved[0]) == jax.tree.structure(saved[1])
    jax.tree.map(np.testing.assert_array_equal, *saved)
    for name in ("metrics.jsonl", "steps.f32"):
        assert (whole / name).read_bytes() == (tmp_path / "trial" / name).read_bytes()


def test_exports_and_the_export_predicts_what_the_model_does(config_path, whole, tmp_path):
    signature = export.export(
        whole, "best", formats=["stablehlo"], platforms=["cpu"], output=tmp_path / "model"
    )
    model = jax.export.deserialize((tmp_path / "model" / "model.stablehlo").read_bytes())
    workload = program.get(loop.validate(small.shrunk(config_path))).workload
    batch = {name: x[:5] for name, x in workload.splits()["validation"].items()}
    features = {name: batch[name] for name in signature["inputs"]}
    outputs = model.call(dict(np.load(tmp_path / "model" / "variables.npz")), features)
    predicted = workload.predictions(outputs["outputs"], batch)
    assert predicted
    expected = evaluate.evaluate(whole, "best", "validation").arrays
    for name, values in predicted.items():
        np.testing.assert_allclose(values, expected[name][:5], rtol=1e-4)


def run_script(*arguments, cwd):
    return subprocess.run(
        [sys.executable, str(small.ROOT / "scripts" / "new_workload.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


@pytest.mark.playbook("metric-of-deployment")
def test_the_script_writes_two_short_clean_files_once(tmp_path):
    result = run_script("my_data", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--config=configs/my_data.py --workdir=/tmp/my_data" in result.stdout
    texts = [(tmp_path / kind / "my_data.py").read_text() for kind in ("workloads", "configs")]
    assert sum(text.count("\n") for text in texts) <= 150
    assert "class MyData(Workload)" in texts[0]
    assert "make_norm" in texts[0]
    assert config_lib.load(tmp_path / "configs" / "my_data.py").model.norm == "batch"
    # The forker is asked for the metric that counts in use, and told where selection goes by it.
    assert re.search(
        r"where the model is to be used.*config\.checkpoint\.metric", texts[0], re.DOTALL
    )
    ruff = Path(sys.executable).parent / "ruff"
    ours = f"--config={small.ROOT}/pyproject.toml"
    # In the repository ruff finds this out by itself.
    first_party = "--config=lint.isort.known-first-party=['playbook_jax']"
    for check in (["check", first_party], ["format", "--check"]):
        subprocess.run([ruff, *check, ours, tmp_path], check=True, capture_output=True)

    (tmp_path / "workloads" / "my_data.py").write_text("mine")
    (tmp_path / "configs" / "my_data.py").unlink()
    result = run_script("my_data", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "error: workloads/my_data.py exists already; choose another name\n"
    assert (tmp_path / "workloads" / "my_data.py").read_text() == "mine"
    assert not (tmp_path / "configs" / "my_data.py").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my-data"], "'my-data' cannot be a workload's name: take lower-case letters"),
        (["../evil"], "'../evil' cannot be a workload's name"),
        (["class"], "'class' cannot be a workload's name"),
        (["digits"], "workloads/digits.py exists already; choose another name"),
        ([], "give one name, e.g. scripts/new_workload.py my_data"),
    ],
)
def test_a_name_that_will_not_do_is_refused(arguments, message, tmp_path):
    with pytest.raises(UsageError, match=re.escape(message)):
        new_workload.main(["new_workload.py", *arguments])


def test_where_nothing_can_be_written_nothing_is(tmp_path):
    (tmp_path / "configs").write_text("a file in the directory's place")
    with pytest.raises(UsageError, match=r"cannot write .*configs/mine\.py: "):
        new_workload.write("mine", tmp_path)
    assert list((tmp_path / "workloads").iterdir()) == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_docstring_has_the_command_the_time_and_the_result(path):
    config = config_lib.load(path)
    text = path.read_text().split('"""')[1]
    assert f"scripts/train.py --config=configs/{path.name} --workdir=/tmp/" in text
    assert re.search(r"(second|minute|hour)s?\b", text)
    assert re.search(r"\d", text.replace(path.name, ""))
    assert config.checkpoint.metric.split("/")[-1].removesuffix("_rate") in text


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_can_be_launched(path, tmp_path):
    preview.preview(path, tmp_path / "study")
    text = path.read_text().split('"""')[1]
    assert f"scripts/launch_study.py --config=configs/studies/{path.name} --workdir=/tmp/" in text
