import csv
import subprocess
import sys

import pytest

from playbook_jax import trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.runtime.lock import Lock
from playbook_jax.studies.store import ledger
from tests import small, synthetic_study

TRUTH = synthetic_study.Truth(
    cost=synthetic_study.bowl({"hparams.learning_rate": 0.5}),
    infeasible=lambda units: units["hparams.learning_rate"] > 0.8,
)


@pytest.fixture
def root(tmp_path):
    """Two studies: one that is over, one of which five trials of eight are."""
    synthetic_study.write(tmp_path / "a", TRUTH, num_trials=20)
    synthetic_study.write(tmp_path / "b", TRUTH, num_trials=8, started=5, seed=1, steps=100)
    for study in ("a", "b"):
        provenance = {"command": ["launch", f"--workdir={study} b"], "commit": "0123456789abcdef"}
        provenance["dirty"] = study == "b"
        trial_lib.write_json(tmp_path / study / "trials/000/provenance.json", provenance)
    return tmp_path


def run(*arguments):
    return subprocess.run(
        [sys.executable, small.ROOT / "scripts/studies.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.playbook("ledger")
def test_the_ledger_has_a_row_a_study_with_the_playbooks_columns(root):
    trial_lib.write_json(root / "foreign.json", {})
    (root / "other").mkdir()
    trial_lib.write_json(root / "other/study.json", {"name": "not ours"})
    with ledger.write(root).open() as file:
        a, b = csv.DictReader(file)
    statuses = [
        trial_lib.read_json(path) for path in sorted((root / "a/trials").glob("*/status.json"))
    ]
    infeasible = [s for s in statuses if s["state"] == "INFEASIBLE"]
    complete = [s["objective"] for s in statuses if s["state"] == "COMPLETE"]
    assert infeasible
    assert len(infeasible) + len(complete) == 20
    assert a["trials"] == "20/20"
    assert a["infeasible"] == str(len(infeasible))
    assert float(a["best_validation"]) == min(complete)
    assert a["metric"] == "validation/error_rate"
    assert a["config"] == str(root / "a/study.json")
    assert a["notes"].startswith("Which learning rate")
    assert a["reproduction"] == "launch '--workdir=a b'"
    assert a["code"] == "0123456789ab"
    assert b["trials"] == "5/8"
    assert b["code"] == "0123456789ab with changes"


def test_the_studies_of_a_group_have_rows_of_their_own(root):
    (root / "group").mkdir()
    trial_lib.write_json(root / "group/group.json", {})
    (root / "a").rename(root / "group/optimizer=adam")
    found = [study.path for study in ledger.find(root)]
    assert found == [root / "b", root / "group/optimizer=adam"]
    assert [study.path for study in ledger.find(root / "group")] == found[1:]


def test_a_study_without_a_started_trial_has_a_row(tmp_path):
    synthetic_study.write(tmp_path / "a", TRUTH, num_trials=3, started=0)
    (study,) = ledger.find(tmp_path)
    entry = ledger.entry(study)
    assert (entry.trials, entry.best_validation, entry.reproduction) == ("0/3", None, "")


def test_the_best_of_a_study_that_maximizes(tmp_path):
    synthetic_study.write(tmp_path / "a", TRUTH, mode="max", metric="validation/accuracy")
    study = ledger.read(tmp_path / "a")
    objectives = [s["objective"] for s in study.statuses if s["state"] == "COMPLETE"]
    assert ledger.entry(study).best_validation == max(objectives)


def test_what_is_no_study_is_said(tmp_path):
    with pytest.raises(UsageError, match="holds no study"):
        ledger.read(tmp_path)
    with pytest.raises(UsageError, match="is no directory"):
        ledger.find(tmp_path / "nowhere")


def test_studies_are_listed_shown_and_compared(root):
    listed = run(f"--root={root}")
    assert listed.returncode == 0, listed.stderr
    assert (root / "ledger.csv").exists()
    assert "20/20" in listed.stdout
    assert "5/8" in listed.stdout
    shown = run(f"--study={root / 'a'}").stdout
    assert "nuisance    hparams.learning_rate  0.001 to 10 (log)" in shown
    compared = run(f"--study={root / 'b'}", f"--compare={root / 'a'}").stdout
    assert "seed: 0 → 1" in compared
    assert "base_config.max_train_steps: 200 → 100" in compared


def test_pruning_spares_the_best_trial_and_what_still_runs(root):
    study = ledger.read(root / "b")
    trial_lib.write_json(
        study.trial_directory(4) / "status.json", trial_lib.new_status(trial_lib.RUNNING)
    )
    study = ledger.read(root / "b")
    for index in range(5):
        (study.trial_directory(index) / "checkpoints").mkdir()
        (study.trial_directory(index) / "checkpoints/data").write_bytes(b"x" * 2**20)
    assert study.ranked[0] != 4
    lock = Lock(root / "b" / ".lock")
    assert "in use" in run(f"--study={root / 'b'}", "--prune").stderr
    lock.release()
    pruned = run(f"--study={root / 'b'}", "--prune")
    assert "Freed 3.0 MiB" in pruned.stdout, pruned.stderr
    left = [i for i in range(5) if (study.trial_directory(i) / "checkpoints").exists()]
    assert left == sorted({study.ranked[0], 4})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --root"),
        (("--root=a", "--study=b"), "give either --root"),
        (("--root=a", "--prune"), "need --study"),
        (("--study=nowhere",), "holds no study"),
    ],
)
def test_command_lines_that_make_no_sense(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
