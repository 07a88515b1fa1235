"""What a power cut or a bad disk takes of a trial's files is made again, never trusted."""

import json
import random
import shutil

import numpy as np
import pytest

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.tracking import record_files
from playbook_jax.training import recorder
from tests.runs import files, interrupted, run
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
    return directory


@pytest.fixture
def stopped(stopped_once, tmp_path):
    return shutil.copytree(stopped_once, tmp_path / "trial")


@pytest.fixture
def ended(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "trial")


def cut(path, size):
    path.write_bytes(path.read_bytes()[:-size])


def blank(path, size):
    path.write_bytes(path.read_bytes()[:-size] + bytes(size))


def lose_a_row(path, size):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2] + lines[-1:]))


def warnings(capfd):
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")]


@pytest.mark.playbook("checkpoints-survive-interruptions")
@pytest.mark.parametrize(
    ("name", "damage", "size", "reason"),
    [
        ("steps.f32", cut, 17, "steps.f32 holds 543 bytes of 560"),
        ("steps.f32", blank, 40, "steps.f32 is damaged within its first 560 bytes"),
    ],
)
def test_a_run_whose_records_were_torn_goes_back_to_the_checkpoint_before(
    finished, stopped, capfd, name, damage, size, reason
):
    damage(stopped / name, size)
    assert run(stopped)["state"] == "COMPLETE"
    assert files(stopped) == files(finished)
    (warning,) = warnings(capfd)
    assert "checkpoints/28 counts on records that are lost, going on without it" in warning
    assert reason in warning
    assert json.loads((stopped / "summary.json").read_text())["steps"] == 40


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("steps.f32", lambda path, size: path.write_bytes(b"")),
        ("steps.f32", lambda path, size: path.unlink()),
        ("metrics.jsonl", lose_a_row),
        ("metrics.jsonl", cut),
    ],
)
def test_records_that_no_checkpoint_agrees_with_are_made_again_from_the_start(
    finished, stopped, capfd, name, damage
):
    damage(stopped / name, 200)
    assert run(stopped)["state"] == "COMPLETE"
    assert files(stopped) == files(finished)
    first, second = warnings(capfd)
    assert "checkpoints/28 counts on records that are lost, going on without it" in first
    assert "checkpoints/20 counts on records that are lost, the run begins again" in second


def test_a_trial_from_before_checkpoints_told_of_their_records_goes_on(
    finished, tmp_path, monkeypatch, capfd
):
    def save(self, step, state, of_devices=None):
        self._checkpoints.save(step, state, of_devices)

    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "_save", save)
        interrupted(tmp_path / "whole", 5)
    shutil.copytree(tmp_path / "whole", tmp_path / "short")
    assert run(tmp_path / "whole")["state"] == "COMPLETE"
    assert files(tmp_path / "whole") == files(finished)
    assert warnings(capfd) == []
    # What can be known of these is that rows are missing.
    cut(tmp_path / "short" / "steps.f32", 17)
    assert run(tmp_path / "short")["state"] == "COMPLETE"
    assert files(tmp_path / "short") == files(finished)
    (warning,) = warnings(capfd)
    assert "steps.f32 holds 543 bytes of 560" in warning


def test_records_are_on_disk_before_the_checkpoint_that_counts_on_them(tmp_path, monkeypatch):
    seen = []
    sync = record_files.RecordFiles.sync

    def watched(self):
        names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
        sync(self)
        seen.append((len(self._synced), {n for n in names if n.isdigit()}))

    monkeypatch.setattr(record_files.RecordFiles, "sync", watched)
    run(tmp_path)
    assert [visible for _, visible in seen] == [set(), {"20"}]
    assert seen[0][0] == 4  # the config, the columns, the steps, the metrics


def test_checksums_grow_with_the_files_and_nothing_is_read_again(tmp_path, monkeypatch):
    written = record_files.RecordFiles(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(record_files.RecordFiles, "_read", pytest.fail)
        for part in (b"12345678", b"9abc"):
            written.append("steps.f32", part)
        written.append("metrics.jsonl", b'{"step": 1}\n')
        extents = written.extents
    written.append("steps.f32", b"more")
    again = record_files.RecordFiles(tmp_path)
    assert again.problem(1, extents, 1) == ""
    again.rewind(1, extents, 1)
    assert (tmp_path / "steps.f32").read_bytes() == b"123456789abc"
    np.testing.assert_array_equal(again.extents, extents)


@pytest.mark.parametrize(
    ("name", "damage", "read", "reason"),
    [
        ("steps.f32", cut, "steps", r"it holds 783 bytes, not the 800 that it ended with"),
        ("steps.f32", blank, "steps", r"its contents have changed since it ended"),
        ("metrics.jsonl", lose_a_row, "evaluations", r"it holds \d+ bytes, not the \d+"),
    ],
)
def test_a_finished_trial_whose_records_were_damaged_says_so(ended, name, damage, read, reason):
    damage(ended / name, 17)
    with pytest.raises(UsageError, match=rf"trial/{name} is damaged: {reason}") as error:
        getattr(trial.load(ended), read)
    assert "\n" not in str(error.value)
    # The way out that it names.
    (ended / "status.json").unlink()
    assert run(ended)["state"] == "COMPLETE"
    assert getattr(trial.load(ended), read)["step"].iloc[-1] in (39, 40)


def test_of_a_trial_that_ended_before_its_summary_told_more_the_length_is_known(ended):
    summary = json.loads((ended / "summary.json").read_text())
    del summary["files"]
    (ended / "summary.json").write_text(json.dumps(summary))
    assert len(trial.load(ended).steps) == 40
    cut(ended / "steps.f32", 17)
    with pytest.raises(UsageError, match="it holds 783 bytes, not the 800"):
        _ = trial.load(ended).steps


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("status.json", "[1]"),
        ("status.json", '{"state": "DONE"}'),
        ("status.json", '{"state": ["RUNNING"]}'),
        ("status.json", '{"state": "RUNNING", "step": "28"}'),
        ("config.json", "[1]"),
        ("provenance.json", '"x"'),
        ("provenance.json", '{"command": [], "earlier_runs": 5}'),
    ],
)
def test_a_stored_file_of_a_wrong_type_is_named_in_one_line(stopped, name, text):
    (stopped / name).write_text(text)
    with pytest.raises(UsageError, match=rf"trial/{name} is damaged: it holds .*; restore it") as e:
        run(stopped)
    assert "\n" not in str(e.value)
    if name != "provenance.json":  # which `load` reads when asked
        with pytest.raises(UsageError, match="is damaged"):
            trial.load(stopped)


def test_a_config_that_cannot_be_read_does_not_cost_the_checkpoints(stopped):
    (stopped / "config.json").write_text("")
    with pytest.raises(UsageError, match=r"config\.json can't be read, .* restore it"):
        run(stopped)
    assert (stopped / "checkpoints" / "28").exists()


def test_damage_after_each_of_six_stops_changes_no_bit(finished, tmp_path):
    directory, choice = tmp_path / "trial", random.Random(3)
    done = [fault_test.damage(directory, choice) for _ in range(6) if interrupted(directory, 3)]
    assert len({how.split()[0] for how in done}) > 2, done  # several files
    assert run(directory)["state"] == "COMPLETE"
    assert fault_test.differences(finished, directory) == []
