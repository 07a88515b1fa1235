"""What checks judge by: declared once, each with its reason, and set by an analysis config."""

import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest

from playbook_jax import analysis, config as config_lib, trial as trial_lib
from playbook_jax.analysis import findings
from playbook_jax.analysis.data import study as study_lib, thresholds
from playbook_jax.analysis.findings import FINE, LOOK, enough_trials
from playbook_jax.analysis.reports import report, summary
from playbook_jax.errors import UsageError
from tests import finding_studies as made, synthetic_study as synthetic
from tests.html_page import Page

DEFAULT = Path(__file__).parent.parent.parent / "configs" / "analysis" / "default.py"


def written(tmp_path, **sections):
    path = tmp_path / "analysis.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    nan = float('nan')\n    return ConfigDict({sections!r})\n"
    )
    return path


def test_names_are_those_of_the_constants_and_each_has_a_reason():
    known = thresholds.known()
    assert len(known) > 50
    declared = {}  # every constant of the analysis that is a threshold, by its own name
    for module in pkgutil.walk_packages(analysis.__path__, "playbook_jax.analysis."):
        for constant, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, thresholds.Threshold):
                declared.setdefault(value.name, set()).add((constant, id(value)))
    for name, threshold in known.items():
        assert declared[name] == {(name.partition(".")[2].upper(), id(threshold))}
        assert threshold.check(threshold.default, "here") == threshold.default
        assert len(threshold.meaning) > 10


def test_the_default_config_lists_them_all_and_changes_nothing():
    assert DEFAULT.read_text() == thresholds.source(), "run tools/generate_docs.py"
    listed = config_lib.load_python(DEFAULT).to_dict()
    given = {f"{s}.{key}": value for s, values in listed.items() for key, value in values.items()}
    assert given == {name: t.default for name, t in thresholds.known().items()}
    assert thresholds.load(DEFAULT) == {}


def test_only_what_differs_from_the_default_is_set(tmp_path):
    path = written(tmp_path, enough_trials={"noises": 3, "good": 3}, clipping={"aggressive": 0.9})
    assert thresholds.load(path) == {"enough_trials.noises": 3.0, "clipping.aggressive": 0.9}


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"enough_trials": {"noise": 3}}, "no threshold 'enough_trials.noise'; did you mean"),
        ({"enough": {"noises": 3}}, "no threshold 'enough.noises'; did you mean"),
        (
            {"clipping": {"aggressive": 1.5}},
            "clipping.aggressive must be a number, 0 to 1; it is 1.5",
        ),
        (
            {"clipping": {"aggressive": "x"}},
            "clipping.aggressive must be a number, 0 to 1; it is 'x'",
        ),
        ({"clipping": {"aggressive": np.nan}}, "must be a number, 0 to 1; it is nan"),
        ({"enough_trials": {"good": 2.5}}, "must be a whole number, 1 or more; it is 2.5"),
        ({"enough_trials": {"good": True}}, "must be a whole number, 1 or more; it is True"),
        ({"clipping": 3}, "clipping must be a section"),
    ],
)
def test_what_cannot_be_set_is_told_in_a_line(tmp_path, sections, told):
    path = written(tmp_path, **sections)
    with pytest.raises(UsageError) as error:
        thresholds.load(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_check_judges_by_what_is_set():
    rng = np.random.default_rng(0)
    levels = 0.1 + np.array([0, 0.006, 0.007, 0.05, 0.06, 0.07])
    rows = [made.trial(rng, made.falling(rng, v)) | {"objective": v} for v in levels]
    study = made.study(rows)
    assert enough_trials.check(study)[0].verdict == LOOK  # within 2 × 0.002 lies the best alone
    wide = study_lib.dataclasses.replace(study, thresholds={"enough_trials.noises": 5.0})
    assert enough_trials.check(wide)[0].verdict == FINE
    assert len(enough_trials.check(wide)[0].trials) == 3


def test_the_report_says_what_was_set(tmp_path):
    truth = synthetic.Truth(synthetic.bowl({"hparams.learning_rate": 0.5}))
    directory = synthetic.write(tmp_path / "s", truth, num_trials=8)
    path = written(tmp_path, enough_trials={"good": 5})
    study = study_lib.load(directory, str(path))
    found = findings.check(study)
    page = report.save(study, found).read_text()
    Page(page).check()
    told = f"Set by {path}: enough_trials.good 5."
    assert told in page
    assert told in summary.text(study, found)
    assert trial_lib.read_json(directory / "findings.json")["thresholds"] == {
        "enough_trials.good": 5
    }
    assert f"--analysis_config={path}" in page  # the command that writes this report anew
    default = study_lib.load(directory)
    assert "Set by" not in summary.text(default, findings.check(default))
    assert trial_lib.read_json(report.write(directory).parent / "findings.json")["thresholds"] == {}


def test_a_training_loss_counts_as_learned_by_what_is_set(tmp_path):
    truth = synthetic.Truth(lambda units: 3.0 * units["hparams.learning_rate"])
    directory = synthetic.write(tmp_path / "s", truth, num_trials=8)
    assert not study_lib.load(directory).failures
    path = written(tmp_path, failed={"unlearned": 0.0})
    assert len(study_lib.load(directory, str(path)).failures) == 8
