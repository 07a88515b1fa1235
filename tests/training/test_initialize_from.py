"""Runs that begin with the parameters of another run, or of a file."""

import shutil

import jax
import numpy as np
import pytest

from playbook_jax import checkpoints, config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import parallel
from playbook_jax.training import (
    initialize_from as initialize_from_lib,
    loop,
    program as program_lib,
)
from tests import small
from tests.runs import assert_same, files


def mlp(**initialize_from):
    config = small.digits()
    with config.unlocked():
        config.initialize_from = initialize_from
    return config


def cnn(**values):
    config = config_lib.load(small.ROOT / "configs" / "digits_cnn.py")
    config = config_lib.override(
        config,
        {
            "model.channels": (4,),
            "model.virtual_batch_size": 8,
            "batch_size": 32,
            "max_train_steps": 6,
            "eval_every_steps": 3,
            "checkpoint.every_steps": 6,
        },
    )
    with config.unlocked():
        config.update(values)
        config.hparams.polyak_decay = 0.5
    return config


def begin(config, workdir):
    """The state before step 0, as NumPy arrays, and what the provenance says."""
    config = loop.validate(config)
    program = program_lib.get(config)
    fresh = parallel.first(program.init(config.seed))
    state, origin = initialize_from_lib.begin(
        config, program, initialize_from_lib.read(config, workdir), fresh
    )
    return state, origin["initialized_from"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    directory = tmp_path_factory.mktemp("source") / "trial"
    assert loop.train(small.digits(), directory)["state"] == "COMPLETE"
    return directory


@pytest.fixture(scope="module")
def source_with_batch_norm(tmp_path_factory):
    directory = tmp_path_factory.mktemp("source") / "cnn"
    assert loop.train(cnn(), directory)["state"] == "COMPLETE"
    return directory


@pytest.mark.parametrize("polyak", [False, True])
def test_parameters_and_batch_statistics_are_taken_bit_for_bit_on_all_devices(
    source_with_batch_norm, tmp_path, polyak
):
    wish = {"path": str(source_with_batch_norm), "step": "latest", "polyak": polyak}
    state, origin = begin(cnn(initialize_from=wish), tmp_path / "run")
    saved = checkpoints.load(source_with_batch_norm, "latest")
    prefix = "polyak_" if polyak else ""
    for name in ("params", "batch_stats"):
        assert_same(getattr(state, name), saved[prefix + name])
    # A first step later, every device would use its own copy.
    program = program_lib.get(loop.validate(cnn()))
    on_devices = program.restore({0: state})
    for device in range(parallel.device_count()):
        mine = jax.tree.map(lambda x, device=device: np.asarray(x)[device], on_devices)
        assert_same(mine.params, state.params)
        assert_same(mine.batch_stats, state.batch_stats)
    # All else is as at the beginning of any run.
    fresh = parallel.first(program.init(0))
    for name in ("step", "opt_state", "key", "polyak", "bad_step"):
        assert_same(getattr(state, name), getattr(fresh, name))
    assert (origin["step"], origin["polyak"]) == (6, polyak)
    assert "batch_stats/BatchNorm_0/mean" in origin["taken"]
    assert origin["skipped"] == origin["unused"] == []


def test_paths_are_renamed_skipped_and_listed(tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {
        "params/encoder/kernel": rng.normal(size=(64, 16)),  # float64, as some files have them
        "params/encoder/bias": rng.normal(size=16),
        "params/classes/kernel": np.zeros((16, 1000)),
    }
    np.savez(tmp_path / "made_elsewhere.npz", **arrays)
    config = mlp(
        path=str(tmp_path / "made_elsewhere.npz"),
        rename=(("^encoder/", "Dense_0/"),),
        skip=("Dense_1/.*",),
    )
    state, origin = begin(config, tmp_path / "run")
    params = state.params
    kernel = arrays["params/encoder/kernel"].astype(np.float32)
    np.testing.assert_array_equal(params["Dense_0"]["kernel"], kernel)
    fresh = parallel.first(program_lib.get(loop.validate(small.digits())).init(0)).params
    assert_same(params["Dense_1"], fresh["Dense_1"])
    assert origin["taken"] == ["Dense_0/bias", "Dense_0/kernel"]
    assert origin["skipped"] == ["Dense_1/bias", "Dense_1/kernel"]
    assert origin["unused"] == ["classes/kernel"]
    assert capsys.readouterr().err.strip() == (
        f"Begins with {tmp_path / 'made_elsewhere.npz'}: 2 arrays taken; "
        "drawn anew: Dense_1/bias, Dense_1/kernel; unused there: classes/kernel"
    )


def test_a_resumed_run_needs_no_source_and_ends_the_same(source, tmp_path):
    copy = tmp_path / "source"
    shutil.copytree(source, copy)
    config = mlp(path=str(copy), step="latest")
    status = loop.train(config, tmp_path / "whole")
    assert status["state"] == "COMPLETE"
    # The first loss shows where it began: near the source's last, not near log 10.
    first = trial.read_steps(tmp_path / "whole")[0, 0]
    assert first == pytest.approx(trial.read_steps(source)[-5:, 0].mean(), rel=0.3)
    origin = trial.load(tmp_path / "whole").provenance["initialized_from"]
    assert (origin["path"], origin["step"]) == (str(copy), 40)

    stopped = loop.train(config, tmp_path / "stopped", should_stop=lambda: True)
    assert stopped["state"] == "INTERRUPTED"
    assert stopped["step"] == 0
    shutil.rmtree(copy)
    assert loop.train(config, tmp_path / "stopped")["state"] == "COMPLETE"
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert trial.load(tmp_path / "stopped").provenance["initialized_from"] == origin


def npz(tmp_path, **arrays):
    path = tmp_path / "made_elsewhere.npz"
    np.savez(path, **{name.replace("__", "/"): x for name, x in arrays.items()})
    return str(path)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"path": "SOURCE", "step": 7}, r"initialize_from: .* holds no checkpoint 7"),
        ({"path": "SOURCE", "step": "last"}, r"step 'last': give 'best', 'latest', or a number"),
        ({"path": "SOURCE", "polyak": True}, r"initialize_from: .* keeps no averaged parameters"),
        ({"path": "NOWHERE"}, r"initialize_from: NOWHERE holds no trial"),
        ({"path": "NOWHERE.npz"}, r"NOWHERE.npz can't be read"),
        ({"path": "SOURCE", "skip": ("Dense_7/.*",)}, r"skip: 'Dense_7/\.\*' matches no path; the"),
        ({"path": "SOURCE", "rename": (("^Dens_", "x"),)}, r"rename: '\^Dens_' matches no part of"),
        ({"path": "SOURCE", "rename": ("Dense_0", "x")}, r"rename must be pairs"),
        (
            {"path": "SOURCE", "rename": (("^Dense_0/", "Dense_1/"),)},
            r"makes 'Dense_1/bias' of both 'Dense_0/bias' and 'Dense_1/bias'",
        ),
        (
            {"path": "SOURCE", "rename": (("^Dense_1/", "head/"),)},
            r"it lacks Dense_1/bias, Dense_1/kernel \(it has besides head/bias, head/kernel\)",
        ),
        ({"path": "SOURCE", "stpe": 7}, r"unknown config key 'initialize_from.stpe'; did you mean"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_written(source, tmp_path, wish, message):
    wish = {**wish, "path": wish["path"].replace("SOURCE", str(source))}
    with pytest.raises(UsageError, match=message) as error:
        loop.train(mlp(**wish), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_other_shapes_are_an_error_unless_skipped(source, tmp_path):
    config = mlp(path=str(source))
    config.model.hidden_sizes = (8,)
    message = r"shapes differ: Dense_0/bias \(16,\) there, \(8,\) here, .*Dense_1/kernel"
    with pytest.raises(UsageError, match=message):
        loop.train(config, tmp_path / "run")
    with config.unlocked():
        config.initialize_from.skip = ("Dense_0/.*", "Dense_1/kernel")
    _, origin = begin(config, tmp_path / "run")
    assert origin["taken"] == ["Dense_1/bias"]


def test_names_in_a_file_say_what_they_are(tmp_path):
    with pytest.raises(
        UsageError, match=r"'kernel'; names there must begin with params/ or batch_"
    ):
        loop.train(mlp(path=npz(tmp_path, kernel=np.ones(3))), tmp_path / "run")
