"""The events that the TensorBoard view writes, read back by TensorBoard's own reader."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.training import loop, tensorboard
from tests import small
from tests.runs import stop_after


def run(directory, **arguments):
    config = loop.validate(small.digits(hparams__learning_rate=0.05))
    return loop.train(config, directory, view=tensorboard.View(config), **arguments)


def events(directory):
    """The scalars by tag, a list of (step, value) each, and the metadata of the hyperparameters."""
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.plugins.hparams import metadata
    from tensorboard.util import tensor_util

    reader = event_accumulator.EventAccumulator(
        str(directory / tensorboard.FOLDER), size_guidance={event_accumulator.TENSORS: 0}
    )
    reader.Reload()
    scalars = {
        tag: [
            (e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in reader.Tensors(tag)
        ]
        for tag in reader.Tags()["tensors"]
        if not tag.startswith("_hparams_")
    }
    content = reader.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    values = {k: getattr(v, v.WhichOneof("kind")) for k, v in start.hparams.items()}
    return scalars, values


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tensorboard") / "trial"
    assert run(directory)["state"] == "COMPLETE"
    return directory


@pytest.mark.playbook("tensorboard")
def test_what_is_written_can_be_read_back(finished):
    scalars, hyperparameters = events(finished)
    result = trial.load(finished)
    for name in result.evaluations.columns.drop("step"):
        steps, values = zip(*scalars[name], strict=True)
        assert list(steps) == result.evaluations["step"].tolist()
        # Events are float32.
        np.testing.assert_allclose(values, result.evaluations[name], rtol=1e-6)
    for name in trial.STEP_COLUMNS:
        steps, values = zip(*scalars[f"steps/{name}"], strict=True)
        assert list(steps) == list(range(40))  # as few as that are not thinned
        np.testing.assert_array_equal(values, result.steps[name].astype(np.float32))
    assert [step for step, _ in scalars["timing/examples_per_second"]] == [20, 40]
    assert hyperparameters["learning_rate"] == 0.05
    assert hyperparameters["optimizer"] == "nesterov"
    assert hyperparameters["model.hidden_sizes"] == "(16,)"
    assert hyperparameters["batch_size"] == 32
    assert "notes" not in hyperparameters


@pytest.mark.playbook("tensorboard")
def test_a_resumed_run_has_each_step_once(finished, tmp_path):
    directory = tmp_path / "trial"
    status = run(directory, should_stop=stop_after(4))
    assert status["state"] == "INTERRUPTED"
    interrupted, _ = events(directory)  # all was written before the run ended
    assert [s for s, _ in interrupted["steps/loss"]] == list(range(status["step"]))
    # What a kill leaves: records, metrics and events of steps that will be made again.
    with (directory / "steps.f32").open("ab") as file:
        file.write(np.full(15, 7, "<f4").tobytes())
    assert run(directory)["state"] == "COMPLETE"
    scalars, hyperparameters = events(directory)
    expected, _ = events(finished)
    for tag in expected:
        if not tag.startswith("timing/"):
            assert scalars[tag] == expected[tag]
    assert hyperparameters


def test_events_of_a_run_that_was_finished_without_them(finished, tmp_path):
    directory = tmp_path / "trial"
    config = loop.validate(small.digits(hparams__learning_rate=0.05))
    loop.train(config, directory)
    view = tensorboard.View(config)
    assert loop.train(config, directory, view=view)["state"] == "COMPLETE"
    view.catch_up(directory)
    expected, _ = events(finished)
    scalars, _ = events(directory)
    assert scalars["steps/loss"] == expected["steps/loss"]
    assert scalars["validation/loss"] == expected["validation/loss"]


def test_long_runs_are_thinned_without_losing_an_outlier(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "POINTS", 8)
    config = loop.validate(small.digits(max_train_steps=39))
    writer = trial.Writer(tmp_path / "trial", {})
    records = np.random.default_rng(0).random((39, 5)).astype(np.float32)
    with tensorboard.View(config) as view:
        writer.view = view
        writer.rewind(0)
        for part in np.split(records, [1, 4, 17, 32]):  # blocks of 5 do not begin where these do
            writer.append_steps(part)
    scalars, _ = events(tmp_path / "trial")
    ends = [4, 9, 14, 19, 24, 29, 34, 38]
    for column, name in enumerate(trial.STEP_COLUMNS):
        means = [
            block[:, column].mean(dtype=np.float64) for block in np.split(records, range(5, 39, 5))
        ]
        steps, values = zip(*scalars[f"steps/{name}"], strict=True)
        assert list(steps) == ends
        np.testing.assert_allclose(values, means, rtol=1e-6)
    largest = [block[:, 1].max() for block in np.split(records, range(5, 39, 5))]
    assert [value for _, value in scalars["steps/gradient_norm_max"]] == pytest.approx(largest)


def test_a_view_that_fails_says_so_and_the_run_goes_on(tmp_path, monkeypatch, capfd):
    def fail(self, folder):
        raise OSError("no space left")

    monkeypatch.setattr(tensorboard.View, "_begin", fail)
    assert run(tmp_path / "trial")["state"] == "COMPLETE"
    said = capfd.readouterr().err
    assert said.count("warning: no more TensorBoard events: OSError: no space left") == 1


def test_a_missing_package_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find(name)
    )
    with pytest.raises(UsageError, match="--tensorboard needs tensorflow, which is not installed"):
        tensorboard.View(loop.validate(small.digits()))


def test_off_unless_asked_for(tmp_path):
    loop.train(small.digits(), tmp_path / "trial")
    assert not (tmp_path / "trial" / tensorboard.FOLDER).exists()
    # Importing the view imports none of what it needs, and making one neither.
    code = (
        "import sys; sys.path.insert(0, '.'); from tests import small\n"
        "from playbook_jax import config\n"
        "from playbook_jax.training import tensorboard\n"
        "tensorboard.View(config.complete(small.digits()))\n"
        "assert not {'tensorflow', 'tensorboard', 'clu'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=small.ROOT)
