"""A trial is adopted on evidence, which is kept, and what follows begins with it."""

import csv
import subprocess
import sys

import pytest

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.data.proposals import ANSWER, EXTEND, Proposal
from playbook_jax.analysis.findings import ACT, launch as launch_finding
from playbook_jax.analysis.reports import next_study, report
from playbook_jax.analysis.reports.next_draft import draft
from playbook_jax.errors import UsageError
from playbook_jax.studies import specification
from playbook_jax.studies.store import adoptions, ledger
from tests import synthetic_study as synthetic
from tests.analysis.test_next_draft import finding
from tests.small import ROOT, digits

RATE, DROPOUT, SIZES = "hparams.learning_rate", "hparams.dropout_rate", "model.hidden_sizes"
SPACES = {DROPOUT: {"values": [0.0, 0.1, 0.3]}, RATE: synthetic.LEARNING_RATE}
# Less dropout and rates in the middle are better, and there is no noise: trial 0.1 or 0.3 is never best.
TRUTH = synthetic.Truth(synthetic.bowl({RATE: 0.5}), noise=0.0, best_at=lambda rng: 1.0)


@pytest.fixture
def study(tmp_path):
    """A study of dropout on the digits, its trials never run but as good as real."""
    path = synthetic.write(
        tmp_path / "s", TRUTH, spaces=SPACES, scientific=(DROPOUT,), num_trials=12
    )
    stored = trial_lib.read_json(path / "study.json")
    base = config_lib.to_dict(config_lib.complete(digits(max_train_steps=20)))
    stored["specification"] |= {"base_config": base, "fixed": {}}
    trial_lib.write_json(path / "study.json", stored)
    for row in stored["trials"]:
        config = specification.trial_config(
            config_lib.from_dict(base), row["trial"], row["parameters"], False
        )
        directory = path / "trials" / f"{row['trial']:03d}"
        trial_lib.write_json(directory / "config.json", config_lib.to_dict(config))
    return path


def replicated(study, trial, verdict, workdir=None, **more):
    """Writes what scripts/replicate.py leaves of a trial."""
    workdir = workdir or study.with_name(f"{study.name}_replicates")
    workdir.mkdir(exist_ok=True)
    config = trial_lib.load(study / "trials" / f"{trial:03d}").config
    candidate = {"source": f"trial {trial}", "config": config, "chosen": {"trial": trial}}
    trial_lib.write_json(workdir / "replicates.json", {"candidate": candidate})
    evidence = {"verdict": verdict, "reason": "so it is", "difference": {"mean": 0.01}}
    evidence |= {"baseline": {"source": "configs/digits_mlp.py"}} | more
    trial_lib.write_json(workdir / "adoption.json", evidence)
    return workdir


def run(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "studies.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def best(study):
    read = ledger.read(study)
    return read.trials[read.ranked[0]]["trial"]


@pytest.mark.playbook("launches")
def test_a_launch_has_its_evidence_and_its_config(study):
    number = best(study)
    workdir = replicated(study, number, "adopt")
    told = run(f"--study={study}", "--adopt", "--note=first launch")
    assert told.returncode == 0, told.stderr
    assert f"trial {number}, adopt: so it is (first launch)" in told.stdout
    (launch,) = adoptions.read(study)
    assert (launch.trial, launch.verdict, launch.improvement) == (number, "adopt", 0.01)
    assert (launch.evidence, launch.baseline) == (str(workdir), "configs/digits_mlp.py")
    # The config that was written is that of the trial.
    written = config_lib.to_dict(config_lib.complete(config_lib.load(study / "adopted_config.py")))
    trial = trial_lib.load(study / "trials" / f"{number:03d}").config
    assert config_lib.differences(config_lib.with_optional(trial), written) == []
    # All that lists studies tells it.
    with (study.parent / "ledger.csv").open() as file:
        assert next(csv.DictReader(file))["launches"] == launch.text
    assert launch.text in run(f"--root={study.parent}").stdout
    assert launch.text in run(f"--study={study}").stdout
    assert "first launch" in (study.parent / "index.html").read_text()


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (None, "nothing shows that trial"),
        ("do not adopt", "do not adopt: so it is"),
        ("cannot tell yet", "about 7 more replicates of each side would tell"),
    ],
)
def test_without_evidence_it_takes_a_reason(study, verdict, message):
    if verdict:
        replicated(study, best(study), verdict, more_replicates=7)
    refused = run(f"--study={study}", "--adopt")
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not (study / "launches.json").exists()
    assert not (study / "adopted_config.py").exists()
    forced = run(f"--study={study}", "--adopt", "--force=the deadline")
    assert forced.returncode == 0, forced.stderr
    (launch,) = adoptions.read(study)
    assert (launch.forced, launch.verdict) == ("the deadline", verdict or "")
    assert "adopted all the same: the deadline" in launch.text


def test_evidence_on_another_trial_or_another_config_is_none(study):
    first, read = best(study), ledger.read(study)
    other = read.trials[read.ranked[1]]["trial"]
    replicated(study, other, "adopt")
    with pytest.raises(UsageError, match="nothing shows"):
        adoptions.adopt(read, "best", None, "", "")
    adoptions.adopt(read, str(other), None, "", "")
    workdir = replicated(study, first, "adopt", study.parent / "elsewhere")
    stored = trial_lib.read_json(workdir / "replicates.json")
    stored["candidate"]["config"]["batch_size"] = 7
    trial_lib.write_json(workdir / "replicates.json", stored)
    with pytest.raises(UsageError, match="holds no replicates of trial"):
        adoptions.adopt(read, "best", workdir, "", "")
    # Where replicates are, a study may know itself; the newest launch is what counts.
    replicated(study, first, "adopt", workdir)
    trial_lib.write_json(study / "replicated.json", {"format": 1, "workdirs": ["../elsewhere"]})
    adoptions.adopt(read, "best", None, "", "")
    assert [launch.trial for launch in adoptions.read(study)] == [other, first]
    assert adoptions.newest(study).trial == first
    for trial, message in (("99", "no COMPLETE trial"), ("x", "no COMPLETE trial")):
        with pytest.raises(UsageError, match=message):
            adoptions.adopt(read, trial, None, "", "why not")


def test_flags_that_are_for_adopting(study):
    assert "--note is for --adopt" in run(f"--study={study}", "--note=x").stderr
    assert "need --study" in run(f"--root={study}", "--adopt").stderr
    (study / "launches.json").write_text("{damaged")
    assert adoptions.read(study) == []


def adopted(study, value):
    """Adopts the best trial with this rate of dropout; returns the study and its finding."""
    read = ledger.read(study)
    index = next(i for i in read.ranked if read.trials[i]["parameters"][DROPOUT] == value)
    adoptions.adopt(read, str(read.trials[index]["trial"]), None, "", "for this test")
    loaded = study_lib.load(study)
    return loaded, launch_finding.check(loaded)[0]


@pytest.mark.playbook("adopted-strength-is-nuisance")
def test_the_strength_of_an_adopted_feature_is_nuisance_from_then_on(study):
    assert launch_finding.check(study_lib.load(study)) == []
    loaded, found = adopted(study, 0.1)
    # Up to the largest that was tried, 0.3, which is more than twice 0.1.
    space = {"scale": "linear", "low": 0.0, "high": 0.3}
    assert found.proposals == (Proposal(ANSWER, DROPOUT, space),)
    made = draft(loaded, [found])
    assert made.roles["scientific"] == {}
    assert made.roles["nuisance"][DROPOUT] == {**space, "type": "float"}
    assert (
        made.changes[0].text
        == "Tune dropout_rate as a nuisance hyperparameter (it was asked about)"
    )


@pytest.mark.playbook("launches")
def test_the_next_study_begins_with_what_was_adopted(study):
    loaded, found = adopted(study, 0.1)
    wider = finding(ACT, Proposal(EXTEND, RATE, 20.0, "high"))
    path = next_study.save(loaded, draft(loaded, [found, wider]))
    spec = specification.load(path)
    launch = adoptions.newest(study)
    assert 'with_name("adopted_config.py")' in path.read_text()
    assert not (study / next_study.BASE).exists()
    assert spec.base_config.hparams.learning_rate == launch.parameters[RATE]
    assert spec.base_config.hparams.dropout_rate == 0.1
    assert spec.scientific == {}
    assert set(spec.nuisance) == {RATE, DROPOUT}
    # And so does the one that the report writes.
    report.write(study)
    assert "was adopted on" in (study / "report.html").read_text()


def test_a_feature_that_stays_off_has_one_value(study):
    loaded, found = adopted(study, 0.0)
    assert found.proposals == (Proposal(ANSWER, DROPOUT, 0.0),)
    made = draft(loaded, [found])
    assert made.fixed[DROPOUT] == 0.0
    assert list(made.roles["nuisance"]) == [RATE]
