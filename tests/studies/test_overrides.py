"""Keys of a study config on the command line."""

import json
import subprocess
import sys

import pytest

from playbook_jax.errors import UsageError
from playbook_jax.studies import overrides, specification
from tests.small import ROOT, one_device
from tests.studies.test_specification import RATE, write

ADAM = "hparams.learning_rate@optimizer=adam"
STUDY = {
    "scientific": {"optimizer": {"values": ["nesterov", "adam"]}},
    "nuisance": {
        ADAM: RATE,
        "hparams.learning_rate@optimizer=nesterov": RATE,
        "hparams.momentum": {"scale": "one_minus_log", "low": 0.5, "high": 0.99},
    },
    "fixed": {"schedule": "linear", "hparams.weight_decay": {"value": 1e-4, "reason": "small"}},
}


@pytest.fixture
def load(tmp_path):
    path = write(tmp_path / "study.py", **STUDY)
    return lambda *changed: specification.load(path, changed)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("--config.num_trials=41", ("num_trials",), 41),
        ("-config.seed=3", ("seed",), 3),
        ("--config.algorithm=uniform", ("algorithm",), "uniform"),
        ("--config.name=a=b", ("name",), "a=b"),
        ("--config.baseline", ("baseline",), True),
        ("--config.vary_seed=true", ("vary_seed",), True),
        ("--config.objective.metric=validation/error_rate",
         ("objective", "metric"), "validation/error_rate"),
        (f"--config.nuisance.{ADAM}.high=0.5", ("nuisance", ADAM, "high"), 0.5),
        ("--config.nuisance.hparams.momentum.low=6e-1", ("nuisance", "hparams.momentum", "low"), 0.6),
        ("--config.scientific.optimizer.values=['adam','nesterov','sgd']",
         ("scientific", "optimizer", "values"), ["adam", "nesterov", "sgd"]),
        ("--config.fixed.schedule=cosine", ("fixed", "schedule"), "cosine"),
        ("--config.fixed.hparams.weight_decay.value=0.01", ("fixed", "hparams.weight_decay"), 0.01),
        ("--config.fixed={'schedule': 'cosine'}", ("fixed",), {"schedule": "cosine"}),
    ],
)  # fmt: skip
def test_any_key_of_a_study_config_can_be_set(load, override, path, value):
    found = load(override).to_dict()
    if path[0] in ("vary_seed", "baseline"):
        assert load().to_dict().get(path[0], False) is False
    for key in path:
        found = found[key]
    assert found == value
    assert load("--noconfig.baseline").to_dict() == load().to_dict()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.num_trial=3", "the study config has no 'num_trial'; did you mean 'num_trials'?"),
        ("--config.nuisance.hparams.momentun.low=3",
         "no 'nuisance.hparams.momentun.low'; did you mean 'nuisance.hparams.momentum.low'?"),
        ("--config.objective.mod=max", "did you mean 'objective.mode'?"),
        ("--config.num_trials", "a value is missing"),
        ("--noconfig.num_trials", "a value is missing"),
        ("--noconfig.baseline=3", "a value is missing"),
        ("--config.num_trials=many", "num_trials must be a whole number, at least 1; it is 'many'"),
        ("--config.num_trials=2.5", "num_trials must be a whole number, at least 1; it is 2.5"),
        ("--config.nuisance.hparams.momentum.low=x", "low must be a number; it is 'x'"),
        ("--config.nuisance=3", "nuisance must map names to search spaces"),
        ("--config.objective=3", "objective must be"),
        ("--config.fixed=(1,)", "fixed must map names"),
    ],
)  # fmt: skip
def test_an_override_that_cannot_be_ends_with_one_line(load, override, message):
    with pytest.raises(UsageError) as error:
        load(override)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_are_told_from_flags():
    arguments = ["x", "--config=a.py", "--config.a=1", "--workers=2", "--noconfig.b", "--configs.c"]
    assert overrides.split(arguments) == (
        ["--config.a=1", "--noconfig.b"],
        ["x", "--config=a.py", "--workers=2", "--configs.c"],
    )


@pytest.mark.parametrize("shape", ["joint", "group"])
def test_the_launcher_takes_them_and_everything_that_repeats_the_study_does(tmp_path, shape):
    fixed = {"model.hidden_sizes": [8], "max_train_steps": 4, "eval_every_steps": 4}
    nuisance = {k: v for k, v in STUDY["nuisance"].items() if k != "hparams.momentum"}
    changes = {"fixed": fixed, "shape": shape, "nuisance": nuisance}
    config = write(tmp_path / "study.py", **STUDY | changes)
    changed = ["--config.num_trials=2", "--config.scientific.optimizer.values=['adam', 'nesterov']"]
    words = [f"--config={config}", *changed, f"--workdir={tmp_path / 's'}", "--workers=1"]

    def launch(*more):
        command = [sys.executable, "scripts/launch_study.py", *words, *more]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=one_device())

    study = tmp_path / "s"
    if shape == "group":
        study /= "optimizer=adam"
    misspelt = launch("--config.num_trails=3")
    assert (misspelt.returncode, misspelt.stdout) == (2, "")
    assert "did you mean 'num_trials'" in misspelt.stderr
    assert misspelt.stderr.count("\n") == 1
    dry = launch("--dry_run")
    assert dry.returncode == 0, dry.stderr
    assert len(json.loads((study / "study.json").read_text())["trials"]) == 2
    done = launch()
    assert done.returncode == 0, done.stderr
    command = json.loads((study / "trials" / "000" / "provenance.json").read_text())["command"]
    assert command[1:] == words
    ledger = (tmp_path / "ledger.csv").read_text()
    assert "--config.num_trials=2" in ledger
    report = (study / "report.html").read_text()
    assert "--config.num_trials=2" in report
    again = launch()
    assert again.returncode == 0, again.stderr
