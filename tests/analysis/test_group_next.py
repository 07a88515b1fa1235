"""The next group of studies, as a group's report drafts it."""

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest

from playbook_jax import config as config_lib
from playbook_jax.analysis.data import groups
from playbook_jax.analysis.data.proposals import ADD, EXTEND, SET, Proposal
from playbook_jax.analysis.findings import ACT, Finding
from playbook_jax.analysis.reports import group_findings, group_next, next_study
from playbook_jax.studies import group as studies_group, specification
from tests import synthetic_group as synthetic
from tests.small import ROOT

RATE, MOMENTUM, BETA = synthetic.RATE, synthetic.MOMENTUM, synthetic.BETA
NEXT = pytest.mark.playbook("next-study")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return synthetic.pair(tmp_path_factory.mktemp("groups") / "pair")


@pytest.fixture
def copy(pair, tmp_path):
    return shutil.copytree(pair, tmp_path / "pair")


@pytest.fixture(scope="module")
def reading(pair):
    return group_findings.read(groups.load(pair))


def found(reading, **own):
    """The findings of each study: one that makes these proposals."""
    return {
        m.name: [
            Finding("Q?", ACT, f"{m.label} says.", action="Do.", proposals=own.get(m.label, ()))
        ]
        for _, m in reading.group.read
    }


def written(reading, findings, path):
    """The next group as the launcher reads it, and its text."""
    made = group_next.draft(reading.group, findings)
    joined = dataclasses.replace(reading.group.joined, directory=reading.group.directory)
    file = next_study.save(joined, made)
    shutil.copy(file, path / "copy.py")
    return specification.load(file), file.read_text(), made


@NEXT
def test_the_next_group_has_what_each_study_asks_for(reading, tmp_path):
    wider = Proposal(EXTEND, RATE, 1.0, "high")
    warmup = Proposal(
        ADD, "hparams.warmup_steps", {"scale": "log", "low": 1, "high": 20, "type": "int"}
    )
    spec, text, _ = written(reading, found(reading, adam=(wider,), nesterov=(warmup,)), tmp_path)
    assert spec.shape == "group"
    assert spec.num_trials == 20
    assert spec.seed == 1
    assert spec.name == "pair_2"
    nesterov, adam = studies_group.members(spec)
    assert adam.specification.nuisance[RATE].high == 1.0
    assert nesterov.specification.nuisance[RATE].high == 10.0
    assert list(nesterov.specification.nuisance) == [RATE, MOMENTUM, "hparams.warmup_steps"]
    assert list(adam.specification.nuisance) == [RATE, BETA]
    reason = "# For adam: widen learning_rate: its high bound becomes 1 (was 0.1). adam says."
    assert reason in text
    # All else is as it was, in every study.
    for old, new in zip(reading.group.members, (nesterov, adam), strict=True):
        before = old.study.specification["base_config"]
        after = json.loads(json.dumps(config_lib.to_dict(new.specification.base_config)))
        assert not config_lib.differences(config_lib.with_optional(before), after)


@NEXT
def test_where_all_studies_agree_the_next_group_has_plain_names(reading, tmp_path):
    steps = Proposal(SET, "max_train_steps", 400)
    spec, _, _ = written(reading, found(reading, adam=(steps,), nesterov=(steps,)), tmp_path)
    assert spec.fixed["max_train_steps"] == 400
    assert [k for k in spec.fixed if "@" in k] == []


@NEXT
@pytest.mark.parametrize(("adam", "nesterov", "expected"), [(400, 300, 400), (100, None, 200)])
def test_no_study_alone_gets_another_number_of_steps(reading, tmp_path, adam, nesterov, expected):
    def steps(number):
        return () if number is None else (Proposal(SET, "max_train_steps", number),)

    wider = (Proposal(EXTEND, RATE, 1.0, "high"),)
    spec, text, made = written(
        reading, found(reading, adam=steps(adam) + wider, nesterov=steps(nesterov)), tmp_path
    )
    assert spec.fixed["max_train_steps"] == expected
    for one in studies_group.members(spec):
        assert one.specification.base_config.max_train_steps == expected
    assert len(made.refused) == 1
    assert "all studies of a group must share it" in " ".join(text.split())


@NEXT
def test_values_of_several_scientific_hyperparameters_share_a_condition_where_they_can(tmp_path):
    scientific = {
        "optimizer": {"values": ["nesterov", "adam", "adamw"]},
        "batch_size": {"values": [64, 128]},
    }
    labels = [f"{o}, {b}" for o in scientific["optimizer"]["values"] for b in (64, 128)]
    path = synthetic.write(
        tmp_path / "g",
        dict.fromkeys(labels, synthetic.good()),
        scientific=scientific,
        nuisance={RATE: synthetic.WIDE},
        num_trials=2,
    )
    reading = group_findings.read(groups.load(path))
    wider = Proposal(EXTEND, RATE, 100.0, "high")
    own = {m.name: [] for m in reading.group.members}
    for name in own:
        if "adam" in name:
            own[name] = [Finding("Q?", ACT, "A.", action="Do.", proposals=(wider,))]
    spec, _, _ = written(reading, own, tmp_path)
    assert {key: space.high for key, space in spec.nuisance.items()} == {
        f"{RATE}@optimizer=nesterov": 10.0,
        f"{RATE}@optimizer=adam|adamw": 100.0,
    }


@NEXT
def test_the_next_group_launches_unedited(copy, tmp_path):
    reading = group_findings.read(groups.load(copy))
    wider = Proposal(EXTEND, RATE, 1.0, "high")
    written(reading, found(reading, adam=(wider,)), tmp_path)
    words = [f"--config={copy / 'next_study.py'}", f"--workdir={tmp_path / 'next'}", "--dry_run"]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/launch_study.py", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "40 trials" in done.stdout


def test_a_group_without_changes_has_no_next_one(copy):
    (copy / "next_study.py").write_text("an old one")
    reading = group_findings.read(groups.load(copy))
    assert not group_next.draft(reading.group, found(reading)).changes
    quiet = dataclasses.replace(reading, found=found(reading))
    next_study.save(reading.group.joined, group_next.draft(reading.group, quiet.found))
    assert not (copy / "next_study.py").exists()
