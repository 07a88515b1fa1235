import dataclasses

import pytest

from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, instability
from tests import synthetic_study as synthetic

RATE, MOMENTUM, DECAY = "hparams.learning_rate", "hparams.momentum", "hparams.weight_decay"
PLACES = [(i + 0.5) / 20 for i in range(20)]  # a fifth of a decade apart: 10^0.2 = 1.58 times


def study(cost, edge, *, name=RATE, space=synthetic.LEARNING_RATE, also=()):
    """20 trials along one axis; those from `edge` on, and those at `also`, diverge."""
    rows = [
        {"at": [u], "objective": None if u > edge or i in also else cost(u)}
        for i, u in enumerate(PLACES)
    ]
    return synthetic.made(rows, spaces={name: space})


@pytest.mark.playbook("best-at-the-edge-of-instability")
def test_fires_where_the_best_are_right_below_the_edge():
    # Trials 14 to 19 diverge; the further up, the better, up to there.
    (finding,) = instability.check(study(lambda u: 1 - u, 0.7))
    assert finding.verdict == ACT
    assert (
        finding.answer == "The best trials lie right below where training diverges "
        "(learning_rate of 0.794 and more)."
    )
    edge, best, crowd = finding.evidence
    assert 10 ** (-3 + 4 * PLACES[14]) == pytest.approx(0.794, abs=5e-4)
    assert (
        edge
        == "All 6 trials with learning_rate of 0.794 and more are infeasible; 14 below it train "
        "well."
    )
    assert 10 ** (-3 + 4 * PLACES[13]) == pytest.approx(0.501, abs=5e-4)
    assert (
        best
        == "The best of these, trial 13, has learning_rate 0.501: training diverges at 1.6 times "
        "that."
    )
    # The best 4 of 14 are 1 to 4 places below the edge, 14.5 places above the end: 2.5 / 14.5 = 17 %.
    # The outermost of C(14, 4) = 1,001 choices.
    assert crowd == (
        "The best 4 lie 17\u00a0% of the way below the edge (median). Drawn at random, as many lie so "
        "close to it with probability 1 in 1,001."
    )
    assert "warmup" in finding.action
    assert "clipping" in finding.action
    assert finding.open_question
    assert finding.trials == (13, 14, 15, 16, 17, 18, 19)
    assert finding.figures == ("axis-hparams.learning_rate",)


@pytest.mark.playbook("best-at-the-edge-of-instability")
@pytest.mark.parametrize("best", [0.1, 0.25])
def test_is_silent_where_the_best_keep_away(best):
    (finding,) = instability.check(study(lambda u: (u - best) ** 2, 0.7))
    assert finding.verdict == FINE
    assert finding.answer.startswith("The best trials keep away from where training diverges")
    assert finding.action == finding.advice == finding.open_question == ""


def test_one_lucky_trial_at_the_edge_is_no_sign():
    (finding,) = instability.check(study(lambda u: -1 if u > 0.65 else (u - 0.2) ** 2, 0.7))
    assert "trial 13" in finding.evidence[1]
    assert finding.verdict == FINE


def test_between_five_and_ten_times_is_worth_a_look():
    # The best four at trials 9 to 12, the best of all at 9: the edge is 10^(0.2 · 5) = 10 times above it.
    order = {9: 0.0, 10: 0.1, 11: 0.2, 12: 0.3, 13: 0.35}

    def cost(u):
        return order.get(round(u * 20 - 0.5), 1 - u / 10)

    (finding,) = instability.check(study(cost, 0.7))
    assert "training diverges at 10 times that" in finding.evidence[1]
    assert finding.verdict == LOOK
    assert finding.answer.startswith("The best trials may lie right below")


def test_no_trial_diverged():
    (finding,) = instability.check(study(lambda u: 1 - u, 2))
    assert finding.verdict == FINE
    assert "No trial diverged" in finding.answer


def test_an_edge_at_small_learning_rates_is_another_thing():
    rows = [{"at": [u], "objective": None if u < 0.3 else u} for u in PLACES]
    (finding,) = instability.check(synthetic.made(rows, spaces={RATE: synthetic.LEARNING_RATE}))
    assert finding.verdict == FINE
    assert finding.answer == "The trials that fail are not clearly those with large learning rates."


def test_a_soft_edge():
    # From trial 10 on, six diverge and four are complete: 60 %, less than three quarters.
    (finding,) = instability.check(study(lambda u: 1 - u, 2, also=(10, 12, 14, 16, 18, 19)))
    assert finding.verdict == FINE
    assert finding.answer.replace("\u00a0", " ") == (
        "No sharp edge: 40 % of the trials with learning_rate of 0.126 and more train well."
    )
    assert 10 ** (-3 + 4 * PLACES[10]) == pytest.approx(0.126, abs=5e-4)


def test_the_ratio_to_momentum_can_be_what_diverges():
    spaces = {RATE: synthetic.LEARNING_RATE, MOMENTUM: synthetic.MOMENTUM}
    grid = [((i + 0.5) / 6, (j + 0.5) / 6) for i in range(6) for j in range(6)]
    height = {at: 4 * at[0] + 2.7 * at[1] for at in grid}
    rows = [{"at": at, "objective": None if height[at] > 4.5 else 9 - height[at]} for at in grid]
    (finding,) = instability.check(synthetic.made(rows, spaces=spaces))
    assert finding.verdict == ACT
    assert "learning_rate / (1 − momentum)" in finding.answer
    assert finding.figures == ("axis-hparams.learning_rate", "axis-hparams.momentum")
    best = max((h, at) for at, h in height.items() if h <= 4.5)[1]
    rate, momentum = 10 ** (-3 + 4 * best[0]), 1 - 0.5 * 0.002 ** best[1]
    assert f"has learning_rate / (1 − momentum) {rate / (1 - momentum):.3g}" in finding.evidence[1]


def test_a_linear_learning_rate():
    linear = {"scale": "linear", "low": 0.0, "high": 1.0}
    (finding,) = instability.check(study(lambda u: 1 - u, 0.7, space=linear))
    assert finding.verdict == ACT
    assert finding.evidence[1] == "The best of these, trial 13, has learning_rate 0.675."
    (finding,) = instability.check(study(lambda u: (u - 0.2) ** 2, 0.7, space=linear))
    assert finding.verdict == FINE


@pytest.mark.playbook("best-at-the-edge-of-instability")
def test_trials_that_learned_nothing_are_beyond_the_edge():
    # As on the digits: the highest rates diverge, and those below end where they began.
    made = study(lambda u: 1 - u if u < 0.7 else 2 - u, 0.85)
    trials = tuple(dataclasses.replace(t, unlearned=14 <= t.number < 17) for t in made.trials)
    (finding,) = instability.check(dataclasses.replace(made, trials=trials))
    assert finding.verdict == ACT
    assert (
        finding.answer == "The best trials lie right below where training fails "
        "(learning_rate of 0.794 and more)."
    )
    assert finding.evidence[0].startswith(
        "All 6 trials with learning_rate of 0.794 and more are infeasible or learned nothing; 14"
    )
    assert "trial 13, has learning_rate 0.501: training fails at 1.6 times" in finding.evidence[1]


@pytest.mark.parametrize(
    ("base", "way"),
    [
        ({}, "learning rate warmup, or gradient clipping at the 90th percentile"),
        ({"clip_norm": 1.0}, "learning rate warmup (gradients are clipped already)"),
        ({"warmup_steps": 100}, "gradient clipping at the 90th percentile"),
        (
            {"warmup_steps": 9, "clip_norm": 1},
            "longer warmup, a lower clipping threshold, or another",
        ),
        ({"warmup_steps": 0, "clip_norm": 0.0}, "learning rate warmup, or gradient clipping"),
    ],
)
def test_what_is_on_already_is_not_proposed(base, way):
    made = study(lambda u: 1 - u, 0.7)
    specification = made.specification | {"base_config": {"hparams": base}}
    (finding,) = instability.check(dataclasses.replace(made, specification=specification))
    assert finding.action.startswith(f"Try {way}")


def test_cannot_tell():
    named = study(lambda u: 1 - u, 0.7, name=DECAY, space=synthetic.WEIGHT_DECAY)
    one_bad = study(lambda u: 1 - u, 0.96)
    none = study(lambda u: 1 - u, -1)
    unstarted = dataclasses.replace(none, trials=())
    for made, answer in [
        (named, "The learning rate does not vary, so its edge is not seen."),
        (one_bad, "A single trial that fails does not show an edge."),
        (none, "No trial is complete."),
        (unstarted, "No trial is complete."),
    ]:
        (finding,) = instability.check(made)
        assert (finding.verdict, finding.answer, finding.action) == (CANNOT_TELL, answer, "")


@pytest.mark.playbook("best-at-the-edge-of-instability")
def test_a_ratio_is_judged_as_it_was_sampled():
    ratio = "hparams.learning_rate/(1-hparams.momentum)"
    made = study(lambda u: 1 - u, 0.7, name=ratio, space=synthetic.LEARNING_RATE)
    (finding,) = instability.check(made)
    assert finding.verdict == ACT
    assert "(learning_rate / (1 − momentum) of 0.794 and more)" in finding.answer
    (finding,) = instability.check(
        study(lambda u: (u - 0.1) ** 2, 0.7, name=ratio, space=synthetic.LEARNING_RATE)
    )
    assert finding.verdict == FINE


def conditional():
    """Adam's best rates are right below its edge; Nesterov's, another hyperparameter, keep away from it."""
    spaces = {
        f"{RATE}@optimizer={name}": synthetic.LEARNING_RATE | {"when": {"optimizer": [name]}}
        for name in ("adam", "nesterov")
    }
    rows = []
    for u in PLACES:
        rows.append({"at": [0, u, u], "objective": None if u > 0.7 else 1 - u})
        rows.append({"at": [1, u, u], "objective": None if u > 0.8 else (u - 0.2) ** 2})
    both = {"optimizer": {"values": ["adam", "nesterov"]}, **spaces}
    made = synthetic.made(rows, spaces=both, base={"max_train_steps": 1000})
    trials = []
    for trial in made.trials:
        mine = f"{RATE}@optimizer={trial.parameters['optimizer']}"
        kept = {k: v for k, v in trial.parameters.items() if k in ("optimizer", mine)}
        trials.append(dataclasses.replace(trial, parameters=kept))
    return dataclasses.replace(made, trials=tuple(trials))


@pytest.mark.playbook("best-at-the-edge-of-instability", "same-name-other-hyperparameter")
def test_each_conditional_learning_rate_is_judged_by_itself():
    adam, nesterov = instability.check(conditional())
    assert (adam.verdict, nesterov.verdict) == (ACT, FINE)
    assert "(learning_rate@optimizer=adam of 0.794 and more)" in adam.answer
    # 14 of Adam's own 20 trials train; Nesterov's are not counted.
    assert "All 6 trials with" in adam.evidence[0]
    assert "14 below it train well" in adam.evidence[0]
    assert {number % 2 for number in adam.trials} == {0}
    assert adam.figures == ("axis-hparams.learning_rate@optimizer=adam",)
    warmup, rate = adam.proposals
    assert warmup.name == "hparams.warmup_steps@optimizer=adam"
    assert warmup.value["when"] == {"optimizer": ["adam"]}
    assert rate.name == "hparams.learning_rate@optimizer=adam"


def test_a_condition_that_no_trial_meets_is_not_asked_about():
    both = conditional()
    adam = [t for t in both.trials if t.parameters["optimizer"] == "adam"]
    (finding,) = instability.check(dataclasses.replace(both, trials=tuple(adam)))
    assert finding.verdict == ACT
    ended = dataclasses.replace(
        both, trials=tuple(t for t in both.trials if t not in adam or t.objective is not None)
    )
    adam, _ = instability.check(ended)
    assert (adam.verdict, adam.answer) == (
        FINE,
        "optimizer=adam: No trial diverged: no learning rate tried is too large to train.",
    )
