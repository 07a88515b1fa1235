import dataclasses
import json

import numpy as np
import pytest

from playbook_jax import playbook
from playbook_jax.analysis import findings
from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.reports import findings_file, report
from tests import synthetic_study as synthetic

RATE = "hparams.learning_rate"
TRUTH = synthetic.Truth(synthetic.bowl({RATE: 0.5}), infeasible=lambda units: units[RATE] > 0.85)


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.playbook("checklist-before-the-goal")
def test_findings_lie_beside_the_report_for_programs(tmp_path):
    synthetic.write(tmp_path / "s", TRUTH, num_trials=12)
    report.write(tmp_path / "s")
    text = (tmp_path / "s" / "findings.json").read_text()
    read = json.loads(text, parse_constant=refuse)
    study = study_lib.load(tmp_path / "s")
    found = findings.check(study)
    assert [f["answer"] for f in read["findings"]] == [
        f.answer.replace("\u00a0", " ") for f in found
    ]
    fields = {field.name for field in dataclasses.fields(findings.Finding)}
    assert all(set(finding) == fields for finding in read["findings"])
    for stored, finding in zip(read["findings"], found, strict=True):
        assert stored["verdict"] == finding.verdict
        assert stored["trials"] == list(finding.trials)
        assert [playbook.row(name).id for name in stored["playbook"]]
    assert read["verdicts"] == {
        v: sum(f["verdict"] == v for f in read["findings"]) for v in findings.VERDICTS
    }
    assert read["best"] == {
        "trial": study.best.number,
        "objective": study.best.objective,
        "best_step": study.best.best_step,
        "parameters": study.best.parameters,
    }
    assert sum(read["trials"].values()) == 12
    assert read["trials"]["INFEASIBLE"] == len(study.failures)


def test_what_json_cannot_hold_is_null_and_text_is_plain(tmp_path):
    study = synthetic.made([{"at": [], "objective": None}], spaces={}, directory=tmp_path)
    odd = findings.Finding("Is it\u00a0so?", findings.ACT, "\ud800", trials=(np.int64(3),))
    findings_file.write(study, [odd])
    text = (tmp_path / "findings.json").read_text()
    read = json.loads(text, parse_constant=refuse)
    assert read["best"] is None
    (stored,) = read["findings"]
    assert (stored["question"], stored["answer"], stored["trials"]) == ("Is it so?", "?", [3])
