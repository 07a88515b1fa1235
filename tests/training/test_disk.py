import contextlib
from pathlib import Path

import pytest

from playbook_jax.studies import preview
from playbook_jax.training import disk_usage, loop
from tests import small
from tests.studies.test_specification import write


def blocks(directory):
    """What `du` says, also while a checkpoint is being written, whose lock files come and go."""
    total = 0
    for path in [directory, *directory.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_blocks * 512
    return total


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"checkpoint__keep_best": 3, "checkpoint__every_steps": 10},
        {"model__hidden_sizes": (256, 256)},
    ],
)
def test_a_trial_takes_what_was_told_beforehand(tmp_path, overrides):
    config = loop.validate(small.digits(**overrides))
    most = []
    status = loop.train(
        config, tmp_path / "trial", progress=lambda *_: most.append(blocks(tmp_path / "trial"))
    )
    assert status["state"] == "COMPLETE"
    told = disk_usage.trial_bytes(config)
    assert told / 1.5 < blocks(tmp_path / "trial") < told
    assert max(most) < disk_usage.study_bytes([config], num_workers=1)


def test_a_preview_warns_where_a_study_does_not_fit(tmp_path, monkeypatch, capsys):
    config = write(tmp_path / "study.py", num_trials=2, fixed={"hparams.momentum": 0.5})
    monkeypatch.setattr(disk_usage, "free_bytes", lambda directory: 12_345)
    preview.preview(config, tmp_path / "not" / "yet" / "there")
    output, errors = capsys.readouterr()
    assert "of disk, of 12.3 KB that are free" in output
    assert "of disk are needed and 12.3 KB are free" in errors


def test_the_room_is_that_where_a_directory_will_be_made(tmp_path):
    assert disk_usage.free_bytes(tmp_path / "a" / "b") == pytest.approx(
        disk_usage.free_bytes(tmp_path), rel=0.1
    )
    assert disk_usage.free_bytes(Path("not-there")) > 0


def test_sizes_are_for_people():
    sizes = (12, 3_400, 999_700, 31_000_000, 2.5e9, 1.2e15)
    assert list(map(disk_usage.describe, sizes)) == [
        *("12 B", "3.4 KB", "1 MB", "31 MB", "2.5 GB", "1,200.0 TB")
    ]
