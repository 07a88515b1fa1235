"""What a newer version of the program has written is refused in one line, and left as it is."""

import re

import pytest

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.analysis.data import groups, study as study_lib
from playbook_jax.errors import UsageError
from playbook_jax.procedures import configurations, replicates
from playbook_jax.studies import launcher, specification as specification_lib
from playbook_jax.studies.store import ledger
from playbook_jax.tracking import stored_format
from tests import synthetic_study
from tests.studies.test_specification import write

TRUTH = synthetic_study.Truth(synthetic_study.bowl({"hparams.learning_rate": 0.5}))
SCIENTIFIC = {"optimizer": {"values": ["adam", "nadam"]}}


def make_newer(path):
    """Gives a file the format after the last known one; returns its bytes."""
    stored = trial_lib.read_json(path)
    last = max(stored_format.STUDY, stored_format.GROUP, stored_format.REPLICATES)
    trial_lib.write_json(path, stored | {"format": last + 1, "points": {}})
    return path.read_bytes()


def refused(path, read, *arguments):
    number = trial_lib.read_json(path)["format"]
    text = rf"{re.escape(str(path))} was written by a newer version .*\(format {number}; .* update"
    with pytest.raises(UsageError, match=text) as error:
        read(*arguments)
    assert "\n" not in str(error.value)


def test_a_newer_study_is_neither_continued_nor_read_nor_listed(tmp_path):
    synthetic_study.write(tmp_path / "s", TRUTH, num_trials=3)
    synthetic_study.write(tmp_path / "other", TRUTH, num_trials=3)
    assert len(ledger.find(tmp_path)) == 2
    path = tmp_path / "s" / "study.json"
    before = make_newer(path)
    specification = specification_lib.load(write(tmp_path / "study.py"))
    _, study = launcher.open_study(specification, tmp_path / "s")
    refused(path, study.stored_trials, specification)
    study.release()
    refused(path, study_lib.load, tmp_path / "s")
    refused(path, ledger.read, tmp_path / "s")
    refused(path, configurations.from_study, tmp_path / "s")
    # Those beside it can still be listed, and it says why it can't be read.
    other, newer = ledger.find(tmp_path)
    assert (other.path.name, other.problem) == ("other", "")
    assert "was written by a newer version" in newer.problem
    ledger.write(tmp_path)
    assert path.read_bytes() == before


def test_a_newer_group_is_neither_continued_nor_read(tmp_path):
    config = write(tmp_path / "study.py", shape="group", scientific=SCIENTIFIC)
    asked = specification_lib.load(config)
    specification, group = launcher.open_study(asked, tmp_path / "g")
    group.write(specification, launcher.extend([], specification))
    group.release()
    path = tmp_path / "g" / "group.json"
    before = make_newer(path)
    refused(path, launcher.open_study, asked, tmp_path / "g")
    refused(path, groups.load, tmp_path / "g")
    assert path.read_bytes() == before
    assert not (tmp_path / "g" / ".lock").exists()


def test_newer_replicates_are_neither_continued_nor_a_baseline(tmp_path):
    base = config_lib.to_dict(config_lib.complete(config_lib.load("configs/digits_mlp.py")))
    objective = {"metric": "validation/loss", "mode": "min"}
    side = configurations.Configuration("a trial", base, objective, None)
    asked = replicates.Plan({"candidate": side}, objective, "seed", 2)
    replicates.prepare(asked, tmp_path / "r")
    path = tmp_path / "r" / "replicates.json"
    before = make_newer(path)
    refused(path, replicates.prepare, asked, tmp_path / "r")
    refused(path, configurations.from_anywhere, tmp_path / "r")
    assert path.read_bytes() == before


@pytest.mark.parametrize("stored", [None, [], {}, {"format": 1}, {"format": True}, {"format": "2"}])
def test_what_is_not_newer_is_left_to_others(stored):
    assert not stored_format.is_newer(stored, 1)
    stored_format.refuse_newer("x", stored, 1)
