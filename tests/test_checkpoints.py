import errno
import json
import os
import resource
import shutil
import signal

import jax
import numpy as np
import pytest

from playbook_jax import checkpoints, config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.inference import evaluate, export
from playbook_jax.runtime import parallel
from playbook_jax.training import loop, program as program_lib
from tests import small
from tests.runs import assert_same, files, interrupted, run, stop_after
from tools import fault_test


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "trial"
    assert run(directory)["state"] == "COMPLETE"
    return directory


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """A trial that was stopped at step 28 and so holds the checkpoints 20 and 28."""
    directory = tmp_path_factory.mktemp("stopped") / "trial"
    assert interrupted(directory, 5)["step"] == 28
    assert steps_on_disk(directory) == ["20", "28"]
    return directory


@pytest.fixture
def stopped(stopped_once, tmp_path):
    return shutil.copytree(stopped_once, tmp_path / "trial")


def steps_on_disk(directory):
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


def assert_ends_like(directory, finished):
    assert run(directory)["state"] == "COMPLETE"
    assert files(directory) == files(finished)
    for step in ("best", "latest"):
        assert_same(checkpoints.load(directory, step), checkpoints.load(finished, step))


def ghost_cnn():
    """Batch norm over groups of 4 examples, 8 examples a device, with moving averages of all."""
    config = config_lib.override(
        config_lib.load(small.ROOT / "configs" / "digits_cnn.py"),
        {
            "model.channels": (4,),
            "model.virtual_batch_size": 4,
            "batch_size": 32,
            "eval_batch_size": 128,
            "eval_train_examples": 100,
            "max_train_steps": 12,
            "eval_every_steps": 6,
            "log_every_steps": 4,
            "checkpoint.every_steps": 6,
        },
    )
    with config.unlocked():
        config.hparams.polyak_decay = 0.9
    return config


@pytest.mark.playbook("moving-averages-before-saving", "checkpoints-survive-interruptions")
def test_each_devices_own_statistics_survive_a_stop_between_checkpoints(tmp_path):
    config = ghost_cnn()
    loop.train(config, tmp_path / "whole")

    # At a logging step; within a stretch, and then after an evaluation.
    for stops in ([4], [2, 4]):
        directory = tmp_path / "-".join(map(str, stops))
        for stop in stops:
            status = loop.train(config, directory, should_stop=stop_after(stop))
            assert status["state"] == "INTERRUPTED"
            if status["step"] % 6:
                assert_both_kinds_of_statistics(directory, status["step"])
        assert loop.train(config, directory)["state"] == "COMPLETE"
        assert files(directory) == files(tmp_path / "whole")
        for step in ("best", "latest"):
            assert_same(
                checkpoints.load(directory, step), checkpoints.load(tmp_path / "whole", step)
            )


def assert_both_kinds_of_statistics(directory, step):
    program = program_lib.get(loop.validate(ghost_cnn()))
    like = parallel.first(program.init(0))
    with checkpoints.Checkpoints(directory, keep_best=1, mode="min") as saved:
        restored = saved.restore(like)
    assert restored.step == step
    own = restored.of_devices["batch_stats"]["BatchNorm_0"]["mean"]
    assert own.shape == (4, 4)  # devices, channels
    assert np.ptp(own, axis=0).min() > 0, "the devices must differ, or this test shows nothing"
    loaded = checkpoints.load(directory, "latest")
    averaged = loaded["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(averaged, own.mean(0, dtype=np.float64), rtol=1e-6, atol=1e-9)
    polyak = restored.of_devices["polyak"]["batch_stats"]["BatchNorm_0"]["var"]
    expected = polyak.mean(0, dtype=np.float64) / restored.state.polyak["weight"]
    averaged = loaded["polyak_batch_stats"]["BatchNorm_0"]["var"]
    np.testing.assert_allclose(averaged, expected, rtol=1e-6)
    # From another number of devices, each begins with the averages.
    halved = jax.tree.map(lambda x: x[:2], restored.of_devices)
    state = program.restore({0: restored.state}, {0: halved})
    for device in range(4):
        assert_same(
            jax.tree.map(lambda x, d=device: np.asarray(x)[d], state.batch_stats),
            restored.state.batch_stats,
        )


def largest_file(checkpoint):
    return max((p for p in checkpoint.rglob("*") if p.parent.name == "d"), key=os.path.getsize)


def test_a_workdir_that_reads_like_a_pattern_is_refused(tmp_path):
    # orbax would take it for one, find nothing, and leave checkpoints that no one can read.
    with pytest.raises(UsageError, match=r"lr=\[1\] holds \[: checkpoints can't be saved there"):
        run(tmp_path / "lr=[1]")
    assert not (tmp_path / "lr=[1]").exists()


def truncate(checkpoint):
    file = largest_file(checkpoint)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def blank(checkpoint):
    """What a power failure leaves: a file of the right length, with zeros in it."""
    file = largest_file(checkpoint)
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    file.write_bytes(data)


def flip(checkpoint):
    file = largest_file(checkpoint)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def lose_metadata(checkpoint):
    (checkpoint / "default" / "_METADATA").unlink()


@pytest.mark.playbook("checkpoints-survive-interruptions")
@pytest.mark.parametrize("damage", [truncate, blank, flip, lose_metadata])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(finished, stopped, capfd, damage):
    damage(stopped / "checkpoints" / "28")
    with pytest.raises(UsageError, match=r"checkpoints/28 can't be read \(.+\); the") as error:
        checkpoints.load(stopped, "latest")
    assert "\n" not in str(error.value)
    capfd.readouterr()
    assert_ends_like(stopped, finished)
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert "checkpoints/28 can't be read, going on without it" in warning
    assert steps_on_disk(stopped) == ["40"]


def test_without_any_good_checkpoint_the_run_begins_again(finished, stopped, capfd):
    for step in ("20", "28"):
        lose_metadata(stopped / "checkpoints" / step)
    half_written = stopped / "checkpoints" / "30.orbax-checkpoint-tmp"
    half_written.mkdir()
    assert_ends_like(stopped, finished)
    warnings = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert [w.split()[1].rsplit("/", 1)[1] for w in warnings] == [half_written.name, "28", "20"]
    assert steps_on_disk(stopped) == ["40"]


def test_whoever_reads_a_damaged_checkpoint_gets_one_line(finished, tmp_path):
    directory = shutil.copytree(finished, tmp_path / "trial")
    truncate(directory / "checkpoints" / "40")
    for read in (
        lambda: evaluate.evaluate(directory, "best", "validation"),
        lambda: export.export(directory, "best"),
    ):
        with pytest.raises(UsageError, match=r"checkpoints/40 can't be read .* status\.json") as e:
            read()
        assert "\n" not in str(e.value)
    # The way out that it names.
    (directory / "status.json").unlink()
    assert_ends_like(directory, finished)


@pytest.mark.parametrize(
    ("change", "differences"),
    [
        (
            {"model": {"name": "mlp", "hidden_sizes": [8]}},
            r"6 arrays differ \(params/Dense_0/bias: saved float32\[16\], wanted float32\[8\]; "
            r"params/Dense_0/kernel: saved float32\[64, 16\], wanted float32\[64, 8\]; .* …\)",
        ),
        (
            {"optimizer": "adam"},
            r"15 arrays differ \(opt_state/1/0/trace/Dense_0/bias: saved float32\[16\], wanted nothing",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(stopped, change, differences):
    values = json.loads((stopped / "config.json").read_text()) | change
    (stopped / "config.json").write_text(json.dumps(values))
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match=r"28 is the checkpoint of another model: ") as error:
        loop.train(config_lib.from_dict(values), stopped)
    error.match(differences)
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()} == before


def test_what_remains_of_a_trial_is_the_latest_and_the_best(tmp_path):
    overrides = {"checkpoint__keep_best": 2, "checkpoint__every_steps": 10}
    kept = []
    directory = tmp_path / "trial"
    loop.train(
        small.digits(**overrides),
        directory,
        progress=lambda done, total, text: kept.append(len(steps_on_disk(directory))),
    )
    assert max(kept) <= checkpoints.KEPT_WHILE_RUNNING + 1  # and one that is being written
    assert steps_on_disk(directory) == ["40"]
    evaluations = trial.load(directory).evaluations.set_index("step")["validation/error_rate"]
    best = evaluations.sort_values(kind="stable").index[:2].tolist()
    for step in {*best, 40}:
        assert int(checkpoints.load(directory, int(step))["step"]) == step
    (other,) = {10, 20, 30} - set(best) - {40}, *[]
    with pytest.raises(UsageError, match=rf"holds no checkpoint {min(other)} \(it holds"):
        checkpoints.load(directory, min(other))


@pytest.mark.playbook("retrospective-selection")
def test_the_best_checkpoint_gives_its_objective_again_exactly(tmp_path):
    status = loop.train(ghost_cnn(), tmp_path / "trial")
    result = evaluate.evaluate(tmp_path / "trial", "best", "validation")
    assert result.metrics["error_rate"] == pytest.approx(status["objective"], rel=1e-7)


def test_a_disk_without_room_for_a_checkpoint_costs_nothing_but_time(tmp_path):
    wide = {"model__hidden_sizes": (256,)}
    directory, whole = tmp_path / "trial", tmp_path / "whole"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def no_large_files(done, total, text):
        if done == 30:  # checkpoint 20 is on its way to the disk
            while not (directory / "checkpoints" / "20").exists():
                pass
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    try:
        status = loop.train(small.digits(**wide), directory, progress=no_large_files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status["state"] == "FAILED"
    assert os.strerror(errno.EFBIG) in status["reason"]
    assert trial.load(directory).status == status
    assert steps_on_disk(directory) == ["20"]
    assert run(directory, **wide)["state"] == run(whole, **wide)["state"] == "COMPLETE"
    assert files(directory) == files(whole)


@pytest.mark.parametrize("room_for_the_status", [True, False])
def test_a_full_disk_is_said(finished, tmp_path, monkeypatch, capfd, room_for_the_status):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write, append_steps = trial.write_json, trial.Writer.append_steps

    def append(writer, records):
        if len(trial.read_steps(writer.directory)) == 20:
            raise full
        append_steps(writer, records)

    def write_json(path, value):
        if not room_for_the_status and value.get("state") == "FAILED":
            raise full
        write(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(trial.Writer, "append_steps", append)
        patch.setattr(trial, "write_json", write_json)
        status = loop.train(small.digits(), tmp_path / "trial")
    assert status["state"] == "FAILED"
    assert status["reason"].startswith("disk full")
    errors = capfd.readouterr().err
    assert "error: disk full" in errors
    assert ("status.json can't say so" in errors) == (not room_for_the_status)
    if room_for_the_status:
        assert trial.load(tmp_path / "trial").status == status
    assert_ends_like(tmp_path / "trial", finished)


@pytest.mark.playbook("checkpoints-survive-interruptions")
def test_killed_while_saving_and_while_evaluating_a_run_ends_the_same(finished, tmp_path):
    intervals = dict.fromkeys(("eval_every_steps", "log_every_steps"), 50)
    config = small.digits(max_train_steps=800, checkpoint__every_steps=50, **intervals)
    (tmp_path / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
    killed = tmp_path / "killed"
    for moment, number, code in [
        (fault_test.SAVING, signal.SIGKILL, -signal.SIGKILL),
        (fault_test.EVALUATED, signal.SIGTERM, 75),
        (fault_test.SAVING, signal.SIGINT, 75),
    ]:
        fault = fault_test.Fault(moment, number)
        assert fault_test.train(tmp_path / "config.json", killed, 4, fault) == code
        assert len(steps_on_disk(killed)) >= 1
    for directory in (killed, tmp_path / "alone"):
        assert loop.train(config, directory)["state"] == "COMPLETE"
    assert fault_test.differences(killed, tmp_path / "alone") == []
    # It would have noticed: a byte of a file, a bit of a parameter.
    with (killed / "metrics.jsonl").open("a") as file:
        file.write("\n")
    shutil.rmtree(killed / "checkpoints")
    shutil.copytree(finished / "checkpoints", killed / "checkpoints")
    shutil.copy(finished / "status.json", killed)
    found = fault_test.differences(killed, tmp_path / "alone")
    assert {"metrics.jsonl", "status.json"} <= set(found)
    assert "checkpoint latest['params']['Dense_0']['kernel']" in found
