"""Real studies that were made wrong on purpose: the report says what is wrong, and nothing of sound ones."""

import subprocess
import sys

import pytest

from playbook_jax.analysis import findings
from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.findings import (
    ACT,
    LOOK,
    best_step,
    boundary,
    decay,
    end_of_training,
    infeasible,
    overfitting,
)
from playbook_jax.analysis.reports import next_study, report
from playbook_jax.analysis.reports.next_draft import draft
from playbook_jax.studies import specification
from tests import wrong_studies
from tests.finding_studies import plain
from tests.small import ROOT, one_device
from tests.wrong_studies import RATE, RECIPES

# Of each: the check that names the mistake, its verdict, words of its answer and of its action, and what the
# next study has instead.
TOLD = {
    "digits_narrow": (boundary, ACT, "crowd the high bound, 0.0006", "from 0.0002 to 0.001."),
    "digits_low": (boundary, ACT, "crowd the high bound, 0.0003", "to 0.003."),
    "digits_tiny": (infeasible, ACT, "All 20 trials", "else search at larger values."),
    "digits_high": (infeasible, ACT, "19 of 20 trials", "Search at smaller learning rates"),
    "digits_constant": (decay, ACT, "is constant, and late evaluations scatter", "cosine"),
    "digits_long": (end_of_training, LOOK, "settled long before the end", "Fewer steps do"),
    "digits_short": (best_step, LOOK, "training is too short", "Try 40 training steps"),
    "text_narrow": (boundary, ACT, "crowd the high bound, 0.001", "from 0.0003 to 0.0018."),
    "text_low": (boundary, ACT, "crowd the high bound, 0.001", "to 0.01."),
    "text_high": (infeasible, ACT, "14 of 20 trials", "Leave out learning_rate of 2"),
    "text_constant": (decay, ACT, "is constant, and late evaluations scatter", "cosine"),
    "text_long": (overfitting, ACT, "rises again in all 3", "Or train for fewer steps"),
    "text_short": (best_step, LOOK, "training is too short", "Try 40 training steps"),
}
MENDED = {
    "digits_narrow": lambda spec: spec.nuisance[RATE].high > 8e-4,
    "digits_low": lambda spec: spec.nuisance[RATE].high > 2e-3,
    "digits_tiny": lambda spec: (spec.nuisance[RATE].low, spec.nuisance[RATE].high) == (1e-7, 1e-4),
    "digits_high": lambda spec: (spec.nuisance[RATE].low, spec.nuisance[RATE].high) == (1e-3, 1.0),
    "digits_constant": lambda spec: spec.base_config.schedule == "cosine",
    "digits_short": lambda spec: (
        (spec.base_config.max_train_steps, spec.base_config.eval_every_steps) == (40, 2)
    ),
    "text_narrow": lambda spec: spec.nuisance[RATE].high > 1.5e-3,
    "text_low": lambda spec: spec.nuisance[RATE].high == 1e-2 and spec.nuisance[RATE].low > 1e-5,
    "text_high": lambda spec: spec.nuisance[RATE].high < 2.2,
    "text_constant": lambda spec: spec.base_config.schedule == "cosine",
    "text_long": lambda spec: spec.nuisance["hparams.dropout_rate"].high == 0.5,
    "text_short": lambda spec: spec.base_config.max_train_steps == 40,
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Returns the studies by name."""
    root = tmp_path_factory.mktemp("wrong")
    return {name: study_lib.load(wrong_studies.unpack(name, root / name)) for name in RECIPES}


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)  # where the base configs are


@pytest.mark.playbook("search-space-boundary", "infeasible-fraction", "best-step-early-or-late")
@pytest.mark.playbook("saturated-early", "problematic-overfitting", "simple-schedules")
@pytest.mark.parametrize("name", TOLD)
def test_the_report_says_what_is_wrong(loaded, name):
    module, verdict, answer, action = TOLD[name]
    found = [f for f in module.check(loaded[name]) if f.verdict in (ACT, LOOK)]
    told = [(f.verdict, plain(f.answer), plain(f.action)) for f in found]
    assert [v for v, *_ in told] == [verdict]
    assert answer in told[0][1]
    assert action in told[0][2]
    # And not of the study that is like it, but sound.
    sound = loaded[f"{RECIPES[name].workload}_sound"]
    assert [f for f in module.check(sound) if f.verdict in (ACT, LOOK)] == []


@pytest.mark.parametrize("name", ["digits_sound", "text_sound"])
def test_of_sound_studies_nothing_is_pressing(loaded, name):
    pressing = [f for f in findings.check(loaded[name]) if f.verdict == ACT]
    assert pressing == []
    assert draft(loaded[name], findings.check(loaded[name])).changes == []


def test_the_mistakes_are_not_taken_for_others(loaded):
    """What follows from a mistake is not told as another one."""
    for name in ("digits_narrow", "digits_low", "digits_high", "text_high", "text_low"):
        # Where all rates are bad, any run seems too short.
        assert "too short" not in str(best_step.check(loaded[name])[0].answer[:90]), name
        made = draft(loaded[name], findings.check(loaded[name]))
        assert "max_train_steps" not in {c.proposal.name for c in made.changes}, name
    # Where nothing is learned, nothing else is asked for.
    asked = [f.question for f in findings.to_do(findings.check(loaded["digits_tiny"]))]
    assert asked == [infeasible.QUESTION]


@pytest.mark.playbook("next-study")
@pytest.mark.parametrize("name", MENDED)
def test_the_next_study_mends_it(loaded, name):
    study = loaded[name]
    path = next_study.write(study, findings.check(study))
    spec = specification.load(path)
    assert MENDED[name](spec)
    module, verdict, *_ = TOLD[name]
    assert f"[{verdict}: {module.QUESTION}]" in " ".join(path.read_text().replace("#", "").split())


@pytest.mark.playbook("next-study")
def test_what_the_report_of_a_wrong_study_proposes_runs_unedited(loaded, tmp_path):
    study = loaded["digits_short"]
    report.save(study, findings.check(study))
    command = [sys.executable, "scripts/launch_study.py"]
    command += [f"--config={study.directory / next_study.NAME}", f"--workdir={tmp_path / 's'}"]
    for more in (["--dry_run"], []):
        done = subprocess.run(
            [*command, *more], capture_output=True, text=True, env=one_device(), timeout=300
        )
        assert done.returncode == 0, done.stderr
    longer = study_lib.load(tmp_path / "s")
    assert len(longer.ranked) == 20
    assert {t.step for t in longer.trials} == {40}
    # Twice as many steps were the right thing to try.
    assert longer.best.objective < study.best.objective
