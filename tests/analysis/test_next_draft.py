import pytest

from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.data.proposals import ADD, EXTEND, KEEP, LEAVE_OUT, NARROW, SET, Proposal
from playbook_jax.analysis.findings import (
    ACT,
    FINE,
    LOOK,
    Finding,
)
from playbook_jax.analysis.reports import next_study
from playbook_jax.analysis.reports.next_draft import draft
from tests import synthetic_study as synthetic

RATE, MOMENTUM, DECAY = "hparams.learning_rate", "hparams.momentum", "hparams.weight_decay"
OPTIMIZER = "optimizer"
SPACES = {
    RATE: synthetic.LEARNING_RATE,
    MOMENTUM: synthetic.MOMENTUM,
    OPTIMIZER: {"values": ["nesterov", "adam", "sgd"]},
}


def finding(verdict, *proposals, answer="It is so."):
    return Finding("Why?", verdict, answer, action="Do it.", proposals=proposals)


def changed(study, *found):
    """The next study's spaces and fixed values, and what was refused."""
    made = draft(study, list(found))
    spaces = {**made.roles["scientific"], **made.roles["nuisance"]}
    return spaces, made.fixed, [change.refused for change in made.refused]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A study, not started, of which only the specification counts."""
    truth = synthetic.Truth(synthetic.bowl({RATE: 0.5}))
    path = tmp_path_factory.mktemp("p") / "s"
    synthetic.write(path, truth, spaces=SPACES, scientific=(OPTIMIZER,), started=0)
    return study_lib.load(path)


def test_each_kind_of_proposal_changes_what_it_says(plain):
    warmup = {"scale": "log", "low": 1, "high": 20, "type": "int"}
    spaces, fixed, refused = changed(
        plain,
        finding(
            ACT,
            Proposal(EXTEND, RATE, 20.0, "high"),
            Proposal(NARROW, RATE, 0.01, "low"),
            Proposal(ADD, "hparams.warmup_steps", warmup),
            Proposal(SET, MOMENTUM, 0.9),
            Proposal(SET, "max_train_steps", 400),
        ),
    )
    assert refused == []
    assert spaces == {
        OPTIMIZER: SPACES[OPTIMIZER],
        RATE: {"scale": "log", "low": 0.01, "high": 20.0, "type": "float"},
        "hparams.warmup_steps": warmup,
    }
    assert fixed == {
        OPTIMIZER: "nesterov",
        "batch_size": 128,
        MOMENTUM: 0.9,
        "max_train_steps": 400,
    }


def test_the_finding_that_presses_more_has_its_way(plain):
    look = finding(LOOK, Proposal(EXTEND, RATE, 30.0, "high"), answer="Look.")
    act = finding(ACT, Proposal(NARROW, RATE, 5.0, "high"), answer="Act.")
    spaces, _, refused = changed(plain, look, act)
    assert spaces[RATE]["high"] == 5.0
    assert refused == ["decided already by “Act.”"]
    # Of two that press alike, the first in the report: here it holds the bound as it is.
    keep = finding(ACT, Proposal(KEEP, RATE, None, "high"), answer="Keep.")
    spaces, _, refused = changed(plain, keep, act)
    assert spaces[RATE]["high"] == 10.0
    assert refused == ["decided already by “Keep.”"]
    assert draft(plain, [keep]).changes == []


@pytest.mark.parametrize(
    ("proposal", "why"),
    [
        (Proposal(LEAVE_OUT, OPTIMIZER, ("sgd",)), "the study asks about it"),
        (Proposal(SET, OPTIMIZER, "adam"), "the study asks about it"),
        (Proposal(NARROW, RATE, 20.0, "low"), "low must be below high"),
        (Proposal(NARROW, RATE, (5.0, 2.0)), "low must be below high"),
        (Proposal(EXTEND, MOMENTUM, 1.0, "high"), "high must be below 1"),
        (Proposal(EXTEND, DECAY, 1.0, "high"), "it does not vary"),
        (Proposal(ADD, RATE, synthetic.LEARNING_RATE), "it varies already"),
    ],
)
def test_what_cannot_be_is_refused_and_told(plain, proposal, why):
    made = draft(plain, [finding(ACT, proposal)])
    assert made.changes == []
    assert why in made.refused[0].refused
    text = next_study.source(plain, made)
    assert "Proposed, but not done" in text
    assert why in " ".join(text.split())


def test_values_are_left_out_until_one_is_left(tmp_path):
    spaces = {RATE: synthetic.LEARNING_RATE, "batch_size": {"values": [32, 64, 128]}}
    truth = synthetic.Truth(synthetic.bowl({RATE: 0.5}))
    synthetic.write(tmp_path / "s", truth, spaces=spaces, started=0)
    study = study_lib.load(tmp_path / "s")
    one = Proposal(LEAVE_OUT, "batch_size", (32,))
    assert changed(study, finding(ACT, one))[0]["batch_size"] == {"values": [64, 128]}
    two = Proposal(LEAVE_OUT, "batch_size", (32, 64))
    after, fixed, _ = changed(study, finding(ACT, two))
    assert "batch_size" not in after
    assert fixed["batch_size"] == 128
    # Something must be left to vary.
    refused = changed(study, finding(ACT, two, Proposal(SET, RATE, 0.1)))[2]
    assert refused == ["nothing would be left to vary"]


def test_lists_and_grids_end_where_the_space_changes(plain):
    add = finding(ACT, Proposal(ADD, DECAY, synthetic.WEIGHT_DECAY))
    wider = finding(ACT, Proposal(EXTEND, RATE, 20.0, "high"))

    def algorithm(name, found):
        plain.specification["algorithm"] = name
        made = draft(plain, [found])
        plain.specification["algorithm"] = "halton"
        return made.algorithm, made.num_trials, bool(made.algorithm_note)

    assert algorithm("halton", add) == ("halton", 20, False)
    assert algorithm("grid", wider) == ("grid", None, False)
    assert algorithm("grid", add) == ("halton", 20, True)
    assert algorithm("list", wider) == ("halton", 20, True)


def test_what_is_not_sure_is_shown_and_not_made(plain, tmp_path):
    both = finding(LOOK, Proposal(NARROW, RATE, (0.1, 1.0)))
    assert changed(plain, both)[0][RATE] == {**SPACES[RATE], "low": 0.1, "high": 1.0}
    perhaps = finding(LOOK, Proposal(EXTEND, RATE, 20.0, "high", sure=False))
    made = draft(plain, [perhaps])
    assert made.changes == []
    made = draft(plain, [perhaps, finding(ACT, Proposal(SET, "max_train_steps", 400))])
    text = next_study.source(plain, made)
    (line,) = [line for line in text.splitlines() if '"high": 20.0' in line]
    assert line.lstrip().startswith('# "hparams.learning_rate": ')
    assert '\n        "hparams.learning_rate": {"scale": "log", "low": 0.001, "high": 10.0' in text


def test_what_is_decided_is_not_shown_as_a_perhaps(plain):
    perhaps = finding(FINE, Proposal(NARROW, RATE, (0.1, 1.0), sure=False))
    keep = finding(ACT, Proposal(KEEP, RATE, None, "high"))
    assert [c.proposal.name for c in draft(plain, [perhaps]).optional] == [RATE]
    assert draft(plain, [perhaps, keep]).optional == []


def test_a_setting_that_is_not_sure_is_shown_among_the_fixed_ones(plain):
    perhaps = finding(LOOK, Proposal(SET, "max_train_steps", 100, sure=False))
    wider = finding(ACT, Proposal(EXTEND, RATE, 20.0, "high"))
    text = next_study.source(plain, draft(plain, [perhaps, wider]))
    fixed = text[text.index("config.fixed") :]
    assert "# Perhaps set max_train_steps to 100 (was 200). It is so." in fixed
    assert '        # "max_train_steps": 100,' in fixed
    assert '        "max_train_steps"' not in fixed
