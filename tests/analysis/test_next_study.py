import dataclasses
import json
import shlex
import subprocess
import sys

import pytest

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.data.proposals import ADD, EXTEND, KEEP, NARROW, SET, Proposal
from playbook_jax.analysis.findings import (
    ACT,
    LOOK,
    Finding,
    best_step,
    boundary,
    infeasible,
    instability,
)
from playbook_jax.analysis.reports import commands, next_draft, next_study, report
from playbook_jax.analysis.reports.next_draft import draft
from playbook_jax.analysis.stats import infeasible_region, stability_fixes
from playbook_jax.studies import specification
from playbook_jax.studies.store import adoptions
from tests import synthetic_study as synthetic
from tests.analysis.test_next_draft import finding
from tests.html_page import Page
from tests.small import ROOT, digits, one_device

RATE, MOMENTUM, DECAY = "hparams.learning_rate", "hparams.momentum", "hparams.weight_decay"
HOSTILE = '"""\n# x = 1 \\ \u2028</script>\x00\ud83d'
EDGE = synthetic.Truth(
    synthetic.bowl({RATE: 0.72, MOMENTUM: 1.1, DECAY: 0.5}),
    infeasible=lambda units: units[RATE] > 0.75,
)


def test_findings_propose_what_their_actions_say(tmp_path):
    synthetic.write(tmp_path / "s", EDGE, num_trials=40)
    study = study_lib.load(tmp_path / "s")
    (found,) = boundary.check(study)
    assert found.action == "Run another study with momentum from 0.5 to 0.9999."
    assert found.proposals == (Proposal(EXTEND, MOMENTUM, 0.9999, "high"),)
    (found,) = instability.check(study)
    assert found.verdict == ACT
    # A thousandth to a tenth of 200 steps; and smaller rates are no remedy.
    space = {"scale": "log", "low": 1, "high": 20, "type": "int"}
    assert found.proposals[0] == Proposal(ADD, "hparams.warmup_steps", space)
    assert found.proposals[1] == Proposal(KEEP, RATE, None, "high")

    late = synthetic.Truth(synthetic.bowl({RATE: 0.5}), best_at=lambda rng: rng.uniform(0.9, 1))
    synthetic.write(tmp_path / "late", late)
    (found,) = best_step.check(study_lib.load(tmp_path / "late"))
    assert "400 training steps" in found.action
    steps = (Proposal(SET, "max_train_steps", 400), Proposal(SET, "eval_every_steps", 20))
    assert found.proposals == steps

    bad = synthetic.Truth(
        synthetic.bowl({RATE: 0.2, MOMENTUM: 0.5}), infeasible=lambda units: units[RATE] > 0.45
    )
    synthetic.write(tmp_path / "bad", bad, num_trials=30)
    study = study_lib.load(tmp_path / "bad")
    (found,) = infeasible.check(study)
    (proposal,) = found.proposals
    assert (proposal.kind, proposal.name, proposal.side) == (NARROW, RATE, "high")
    # The last that trains: what lies between that and the first failure, no trial has tried.
    last = max(t.parameters[RATE] for t in study.of_state("COMPLETE"))
    assert proposal.value <= last
    assert proposal.value == pytest.approx(last, rel=5e-3)


def test_more_hyperparameters_are_given_more_trials(tmp_path):
    truth = synthetic.Truth(synthetic.bowl({RATE: 0.5}))
    synthetic.write(tmp_path / "s", truth, started=0, num_trials=20)
    study = study_lib.load(tmp_path / "s")

    def trials(*proposals):
        return draft(study, [finding(ACT, *proposals)]).num_trials

    adds = [Proposal(ADD, f"hparams.x{i}", synthetic.WEIGHT_DECAY) for i in range(2)]
    assert trials(Proposal(EXTEND, RATE, 20.0, "high")) == 20
    assert trials(adds[0]) == 32  # 2⁵, for the five that are tuned now
    assert trials(*adds) == 40  # 2⁶ would be 64: not more than as many again
    text = next_study.source(study, draft(study, [finding(ACT, adds[0])]))
    assert "config.num_trials = 32  # was 20: more hyperparameters are tuned" in text


@pytest.mark.parametrize(
    ("place", "proposal"),
    [
        (
            0.5,
            Proposal(NARROW, RATE, 1.0, "high"),
        ),  # the edge is at 0.1, and no more than 10 times that
        (0.75, Proposal(KEEP, RATE, None, "high")),  # at 1: the bound is 10 already
        (0.95, Proposal(EXTEND, RATE, 20.0, "high")),  # at 6.3, and half a decade more
    ],
)
def test_learning_rates_some_way_beyond_the_edge_are_searched(tmp_path, place, proposal):
    synthetic.write(tmp_path / "s", EDGE, num_trials=40)
    study = study_lib.load(tmp_path / "s")
    region = infeasible_region.find(study, "hparams.learning_rate")
    proposals = stability_fixes.propose(study, dataclasses.replace(region, cut=place), set())
    assert proposals[1] == proposal


def test_where_both_remedies_are_there_nothing_is_proposed(tmp_path):
    synthetic.write(tmp_path / "s", EDGE, num_trials=40)
    study = study_lib.load(tmp_path / "s")
    region = infeasible_region.find(study, "hparams.learning_rate")
    assert stability_fixes.propose(study, region, {"warmup_steps", "clip_norm"}) == ()


def test_where_there_is_warmup_clipping_is_added_by_the_gradient_norms(tmp_path):
    spaces = {k: v for k, v in synthetic.FOUR.items() if "clip" not in k}
    synthetic.write(tmp_path / "s", EDGE, spaces=spaces, num_trials=40)
    path = tmp_path / "s" / "study.json"
    stored = trial_lib.read_json(path)
    stored["specification"]["base_config"]["hparams"]["warmup_steps"] = 10
    trial_lib.write_json(path, stored)
    study = study_lib.load(tmp_path / "s")
    (found,) = instability.check(study)
    assert "gradient clipping" in found.action
    summaries = [
        trial_lib.read_json(tmp_path / "s" / "trials" / f"{t.number:03d}" / "summary.json")
        for t in study.leaders
    ]
    middle, most = (
        sorted(s["gradient_norm"]["percentiles"][p] for s in summaries)[1] for p in ("50", "90")
    )
    (proposal, _) = found.proposals
    assert (proposal.kind, proposal.name) == (ADD, "hparams.clip_norm")
    assert proposal.value["low"] == pytest.approx(middle, rel=0.05)
    assert proposal.value["high"] == pytest.approx(1.5 * most, rel=0.05)


def real(directory, truth, num_trials=40):
    """A synthetic study whose base config is one that can be trained."""
    spaces = {k: synthetic.FOUR[k] for k in (RATE, MOMENTUM, DECAY)}
    synthetic.write(directory, truth, spaces=spaces, num_trials=num_trials)
    stored = trial_lib.read_json(directory / "study.json")
    base = config_lib.complete(digits(max_train_steps=20, checkpoint__every_steps=20))
    spec = stored["specification"]
    spec |= {"base_config": config_lib.to_dict(base), "num_trials": num_trials}
    spec["fixed"] = {"batch_size": 32, "schedule": "constant"}
    spec["base_config"]["schedule"] = "constant"
    spec["fixed_reasons"] = {"batch_size": "the smallest there is"}
    trial_lib.write_json(directory / "study.json", stored)
    return directory


def launch(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "launch_study.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=one_device(), cwd=ROOT, timeout=300
    )


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    directory = real(tmp_path_factory.mktemp("next") / "a b" / "s", EDGE)
    _, told = report.conclude(directory)
    return directory, told


@pytest.mark.playbook("next-study")
def test_the_next_study_is_read_back_as_the_launcher_reads_it(reported):
    directory, _ = reported
    old = trial_lib.read_json(directory / "study.json")["specification"]
    spec = specification.load(directory / "next_study.py")
    assert spec.name == "synthetic_2"
    assert (spec.goal, spec.objective, spec.num_trials, spec.algorithm, spec.seed) == (
        old["goal"],
        old["objective"],
        40,
        "halton",
        1,
    )
    after = spec.to_dict()
    study = study_lib.load(directory)
    last = max(t.parameters[RATE] for t in study.learned)
    high = after["nuisance"][RATE]["high"]
    assert 0.99 * last <= high <= last  # above, all fail: warmup shows its worth below
    assert after["nuisance"] == {
        **old["nuisance"],
        RATE: {**old["nuisance"][RATE], "high": high},
        MOMENTUM: {**old["nuisance"][MOMENTUM], "high": 0.9999},
        # One of its best three overfits, so that stronger regularization is only offered.
        DECAY: old["nuisance"][DECAY],
        "hparams.warmup_steps": {"scale": "log", "low": 1, "high": 2, "type": "int"},
    }
    assert (after["fixed"], after["fixed_reasons"]) == (old["fixed"], old["fixed_reasons"])
    # configs/digits_mlp.py is not what the study began with, so this lies beside the config.
    assert after["base_config"] == old["base_config"]
    text = (directory / "next_study.py").read_text()
    above = " ".join(text[: text.index('"hparams.momentum": ')].replace("#", "").split())
    assert above.endswith("crowd the high bound, 0.999. [act: Is the search space wide enough?]")


@pytest.mark.playbook("next-study")
def test_the_report_and_the_summary_say_the_command(reported):
    directory, told = reported
    study = study_lib.load(directory)
    command = shlex.join(shlex.split(" ".join(commands.launch_next(study))))
    assert told.splitlines()[-1] == f"Next study: {command}"
    page = Page((directory / "report.html").read_text())
    assert command in {shlex.join(shlex.split(e.text)) for e in page.all("pre")}
    (details,) = page.all("ul", "changes")
    changes = next_draft.draft(study, report.findings.check(study)).changes
    assert details.text == "".join(change.text for change in changes)
    assert len(changes) >= 2


@pytest.mark.playbook("next-study")
def test_it_launches_unedited(reported, tmp_path):
    directory, told = reported
    words = shlex.split(told.splitlines()[-1].removeprefix("Next study: "))[1:]
    dry = launch(*words, "--dry_run")
    assert dry.returncode == 0, dry.stderr
    assert "hparams.warmup_steps" in dry.stdout
    # The real thing, with as many trials as a test can wait for.
    text = (directory / "next_study.py").read_text()
    short = directory / "short.py"
    short.write_text(text.replace("num_trials = 40", "num_trials = 2"))
    done = launch(f"--config={short}", f"--workdir={tmp_path / 'run'}", "--workers=1")
    assert done.returncode == 0, done.stderr
    trials = [trial_lib.load(tmp_path / "run" / "trials" / f"00{i}") for i in range(2)]
    assert all(t.config["hparams"]["warmup_steps"] in (1, 2) for t in trials)
    assert {t.status["state"] for t in trials} <= {"COMPLETE", "INFEASIBLE"}


@pytest.mark.playbook("next-study")
def test_where_nothing_is_to_be_changed_there_is_none(reported, tmp_path):
    to_the_end = dataclasses.replace(EDGE, best_at=lambda rng: 1.0)  # no overfitting
    directory = real(tmp_path / "s", to_the_end, num_trials=2)
    (directory / "next_study.py").write_text("an old one")
    (directory / "next_study_base.json").write_text("{}")
    _, told = report.conclude(directory)
    assert not list(directory.glob("next_study*"))
    assert "Next study" not in told
    page = (directory / "report.html").read_text()
    assert "No finding is sure of another search space or setting" in page
    assert "No finding is sure" not in (reported[0] / "report.html").read_text()


def test_the_base_config_itself_is_named_where_it_is_the_same(tmp_path):
    spec = specification.load(ROOT / "configs" / "studies" / "digits_mlp.py")
    stored = {"specification": spec.to_dict(), "trials": [{"trial": 0, "parameters": {}}]}
    trial_lib.write_json(tmp_path / "study.json", stored)
    base = ROOT / "configs" / "digits_mlp.py"
    kept = [{"kind": "config", "path": str(base), "text": base.read_text()}]
    (tmp_path / "trials/000").mkdir(parents=True)
    trial_lib.write_json(tmp_path / "trials/000/provenance.json", {"sources": kept})
    study = study_lib.load(tmp_path)
    steps = finding(ACT, Proposal(SET, "max_train_steps", 500))
    assert next_study.write(study, [steps]) == tmp_path / "next_study.py"
    assert (
        'config.base_config = "configs/digits_mlp.py"' in (tmp_path / "next_study.py").read_text()
    )
    assert not (tmp_path / "next_study_base.json").exists()
    after = specification.load(tmp_path / "next_study.py").to_dict()
    before = spec.to_dict()
    assert after["base_config"].pop("max_train_steps") == 500
    assert before["base_config"].pop("max_train_steps") == 1000
    for key in ("base_config", "nuisance", "objective", "num_trials"):
        assert after[key] == before[key]
    assert next_study.write(study, []) is None
    assert not (tmp_path / "next_study.py").exists()


def test_conditions_and_reasons_survive(tmp_path):
    source = (ROOT / "configs" / "studies" / "digits_mlp.py").read_text()
    more = """
    config.scientific = {"optimizer": {"values": ["nesterov", "adam"]}}
    config.nuisance["hparams.beta1"] = {
        "scale": "one_minus_log", "low": 0.5, "high": 0.99, "when": {"optimizer": ["adam"]}
    }
    config.fixed = {"batch_size": {"value": 64, "reason": "it fits"}}
    config.baseline = config.vary_seed = True
    return config
"""
    path = tmp_path / "s.py"
    path.write_text(source.replace("    return config\n", more))
    spec = specification.load(path)
    trial_lib.write_json(
        tmp_path / "study.json",
        {"specification": json.loads(json.dumps(spec.to_dict())), "trials": []},
    )
    study = study_lib.load(tmp_path)
    wider = finding(ACT, Proposal(EXTEND, "hparams.beta1@optimizer=adam", 0.999, "high"))
    next_study.write(study, [wider])
    before, after = spec.to_dict(), specification.load(tmp_path / "next_study.py").to_dict()
    before["nuisance"]["hparams.beta1@optimizer=adam"]["high"] = 0.999
    # No trial has run, so nothing says that configs/digits_mlp.py is what it was.
    assert after.pop("base_config_path") == str(tmp_path / "next_study_base.json")
    assert after | {"base_config_path": "configs/digits_mlp.py"} == {
        **before,
        "name": "digits_mlp_2",
        "seed": 1,
    }


def test_names_and_answers_are_only_text(tmp_path):
    synthetic.write(tmp_path / "s", EDGE, num_trials=3)
    study = study_lib.load(tmp_path / "s")
    study.specification.update(name=HOSTILE, goal=HOSTILE)
    hostile = Finding(
        HOSTILE,
        ACT,
        HOSTILE,
        action=HOSTILE,
        proposals=(Proposal(EXTEND, RATE, 20.0, "high"), Proposal(ADD, RATE, {})),
    )
    left = Finding(HOSTILE, LOOK, HOSTILE, action=HOSTILE)
    assert next_study.write(study, [hostile, left]) is not None
    spec = specification.load(tmp_path / "s" / "next_study.py")
    assert spec.goal == HOSTILE.encode("utf-8", "replace").decode()
    assert spec.nuisance[RATE].high == 20.0


def test_what_cannot_be_launched_is_not_written(tmp_path, capsys):
    synthetic.write(tmp_path / "s", EDGE, num_trials=3)
    path = tmp_path / "s" / "study.json"
    stored = trial_lib.read_json(path)
    del stored["specification"]["base_config"]["dataset"]
    trial_lib.write_json(path, stored)
    study = study_lib.load(tmp_path / "s")
    assert next_study.write(study, [finding(ACT, Proposal(EXTEND, RATE, 20.0, "high"))]) is None
    assert "warning: no next_study.py is written: " in capsys.readouterr().err
    assert not list((tmp_path / "s").glob("next_study*"))


@pytest.mark.parametrize(
    "key", ["seed", "num_trials", "fixed_reasons", "base_config_path", "algorithm"]
)
def test_a_specification_of_foreign_hands_stops_no_report(tmp_path, key):
    directory = real(tmp_path / "s", EDGE, num_trials=3)
    stored = trial_lib.read_json(directory / "study.json")
    stored["specification"][key] = "?"
    trial_lib.write_json(directory / "study.json", stored)
    study = study_lib.load(directory)
    path = next_study.write(study, [finding(ACT, Proposal(EXTEND, RATE, 20.0, "high"))])
    assert (path is None) == (key == "algorithm")  # there is no such algorithm
    assert (directory / "next_study.py").exists() == (path is not None)


def test_a_study_that_still_runs_may_have_a_next_one(tmp_path):
    spaces = {k: synthetic.FOUR[k] for k in (RATE, MOMENTUM, DECAY)}
    synthetic.write(tmp_path / "s", EDGE, spaces=spaces, num_trials=50, started=40)
    _, told = report.conclude(tmp_path / "s")
    assert told.splitlines()[-1].startswith("Next study: ")
    text = (tmp_path / "s" / "next_study.py").read_text()
    assert "after 40 of\n50 trials" in text or "after 40 of 50 trials" in text
    study = study_lib.load(tmp_path / "s")
    purposes = [c.purpose.split()[0] for c in commands.commands(study, [])]
    assert purposes[:3] == ["Continue", "Train", "Launch"]


def test_studies_are_numbered():
    names = ["digits", "digits_2", "digits_9", "resnet_50", "/tmp/s_3"]
    assert [commands.successor(name) for name in names] == [
        "digits_2",
        "digits_3",
        "digits_10",
        "resnet_50_2",
        "/tmp/s_4",
    ]


def test_analysis_runs_no_config_that_a_received_study_names(tmp_path):
    directory = real(tmp_path / "s", EDGE, num_trials=3)
    mark = tmp_path / "ran"
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(mark)!r}, 'w')\n")
    for name in ("adopted_config.py", "next_study.py"):
        (directory / name).write_text(evil.read_text())
    stored = trial_lib.read_json(directory / "study.json")
    stored["specification"]["base_config_path"] = str(evil)
    trial_lib.write_json(directory / "study.json", stored)
    kept = [{"kind": "config", "path": str(evil), "text": evil.read_text()}]
    trial_lib.write_json(directory / "trials/000/provenance.json", {"sources": kept})
    report.conclude(directory)
    study = study_lib.load(directory)
    wider = finding(ACT, Proposal(EXTEND, RATE, 20.0, "high"))
    assert next_study.write(study, [wider]) == directory / "next_study.py"
    launch = adoptions.Launch("2026", 0, {}, "validation/loss", 0.1, next_study._base(study))
    trial_lib.write_json(
        directory / "launches.json", {"launches": [dataclasses.asdict(launch)], "format": 1}
    )
    assert next_study.write(study, [wider]) == directory / "next_study.py"
    assert "next_study_base.json" in (directory / "next_study.py").read_text()
    assert not mark.exists()
