"""The report of a study with a product as an axis, and with a trial of another study."""

from playbook_jax import trial
from playbook_jax.analysis.data import study
from playbook_jax.analysis.reports import sections
from playbook_jax.studies import launcher, specification
from playbook_jax.studies.store.directory import StudyDirectory
from tests.studies.test_specification import RATE, write

PRODUCT = "hparams.weight_decay*hparams.learning_rate"


def test_a_report_names_products_knows_their_parts_and_marks_imported_trials(tmp_path):
    spaces = {PRODUCT: RATE | {"low": 1e-7, "high": 1e-3}, "hparams.learning_rate": RATE}
    spec = specification.load(write(tmp_path / "study.py", num_trials=3, nuisance=spaces))
    directory = StudyDirectory(tmp_path / "s")
    rows = launcher.extend([], spec)
    rows[1]["imported"] = {"study": "/old", "trial": 3}
    directory.write(spec, rows)
    for row in rows:
        status = trial.new_status() | {"state": "COMPLETE", "objective": 0.1, "best_step": 1}
        path = directory.trial_directory(row["trial"])
        path.mkdir(parents=True)
        trial.write_json(path / "status.json", status)
    directory.release()
    read = study.load(tmp_path / "s")
    assert [h.label for h in read.hyperparameters] == [
        "weight_decay × learning_rate",
        "learning_rate",
    ]
    for row in read.trials:
        expected = row.parameters[PRODUCT] / row.parameters["hparams.learning_rate"]
        assert read.value(row, "hparams.weight_decay") == expected
    table = sections.trials_section(read)
    assert "1 trial imported from /old" in table
    assert table.count("(imported)") == 1
