"""What the preview says of a study's trials."""

import json

import pytest

from playbook_jax.studies import preview
from tests.studies.test_conditional import ADAM, NESTEROV
from tests.studies.test_specification import RATE, write


@pytest.mark.parametrize("shape", ["joint", "group"])
@pytest.mark.parametrize("baseline", [False, True])
def test_the_preview_says_trials_a_scientific_value_and_for_each_tuned_hyperparameter(
    tmp_path, capsys, shape, baseline
):
    config = write(
        tmp_path / "study.py",
        scientific={"optimizer": {"values": ["nesterov", "adam"]}},
        nuisance={
            NESTEROV: RATE,
            ADAM: RATE,
            "hparams.momentum@optimizer=nesterov": {"scale": "linear", "low": 0.5, "high": 0.9},
        },
        num_trials=(10 if shape == "group" else 20) + baseline,
        shape=shape,
        baseline=baseline,
    )
    preview.preview(config, tmp_path / "s")
    output = capsys.readouterr().out
    assert (
        "optimizer=nesterov: 10 trials, 2 tuned, 5 trials for each tuned hyperparameter\n"
        "optimizer=adam: 10 trials, 1 tuned, 10 trials for each tuned hyperparameter\n"
        "how long it takes: --measure tells"
    ) in output


def test_the_preview_of_a_begun_study_says_how_long_the_rest_takes(tmp_path, capsys):
    config = write(tmp_path / "study.py", num_trials=9)
    preview.preview(config, tmp_path / "s")
    assert "\n9 trials, 1 tuned, 9 trials for each tuned" in capsys.readouterr().out
    directory = tmp_path / "s" / "trials" / "000"
    directory.mkdir(parents=True)
    status = {"state": "COMPLETE", "reason": "", "step": 1, "best_step": 1, "objective": 0.1}
    (directory / "status.json").write_text(json.dumps(status))
    row = {"interval_seconds": 30.0, "steps_per_second": 1.0, "examples_per_second": 1.0}
    (directory / "timing.jsonl").write_text(json.dumps(row | {"input_wait": 0.0}) + "\n")
    preview.preview(config, tmp_path / "s", num_workers=2)
    output = capsys.readouterr().out
    assert "about 2 min 00 s for the 8 trials left, by what others took: 30 s\n" in output
