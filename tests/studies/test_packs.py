"""Packs: which trials share a program, how many do, and what becomes of them when something goes wrong."""

import math
import os
import signal

import pytest

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.studies.execution import jobs, pack_choice
from tests.launched_study import STEPS, Study, gone
from tests.studies.test_specification import RATE

SIZES = {"hparams.learning_rate": RATE, "model.hidden_sizes": {"values": [[8], [16]]}}


def trials(*sizes):
    """A trial each, with that size; what is traced differs from trial to trial."""
    return [
        {
            "trial": i,
            "parameters": {
                "hparams.learning_rate": 0.1 * i,
                "hparams.beta1@optimizer=adam": 0.9,
                "seed": i,
                "max_train_steps": 10 + i,
                "model.hidden_sizes": (size,),
            },
        }
        for i, size in enumerate(sizes)
    ]


def numbers(job):
    return [trial and trial["trial"] for trial in job.lanes]


def test_packs_follow_from_the_study_alone():
    rows = trials(8, 16, 8, 8, 16, 8, 8, 8, 16)
    packs = jobs.make(rows, rows, 3)
    assert [numbers(job) for job in packs] == [[0, 2, 3], [1, 4, 8], [5, 6, 7]]
    assert all(job.packed for job in packs)
    # What is over leaves an empty lane, and a pack that is over is none.
    left = [row for row in rows if row["trial"] not in (2, 5, 6, 7)]
    assert [numbers(job) for job in jobs.make(left, rows, 3)] == [[0, None, 3], [1, 4, 8]]
    # A pack has all its lanes even where there are fewer trials.
    assert [numbers(job) for job in jobs.make(rows[:2], rows[:2], 3)] == [
        [0, None, None],
        [1, None, None],
    ]


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
def test_a_longer_study_moves_no_trial_to_another_lane(lanes):
    def places(rows):
        return {
            row["trial"]: (job.static, number, lane)
            for number, job in enumerate(jobs.make(rows, rows, lanes))
            for lane, row in enumerate(job.lanes)
            if row
        }

    rows = trials(8, 16, 8, 8, 16, 16, 16, 8)
    whole = {t: place[::2] for t, place in places(rows).items()}
    for count in range(1, len(rows)):
        assert {t: p[::2] for t, p in places(rows[:count]).items()} == {
            t: whole[t] for t in range(count)
        }


def test_the_pack_that_takes_the_least_time_is_chosen():
    # A step of k trials takes 1 + k / 10. 20 trials on two workers are run in 10 rounds of 1.1, 5 of
    # 1.2, 3 of 1.4, 2 of 1.8 or one of 2.6; and 10 lanes do for one round, of 2.
    seconds = {1: 1.1, 2: 1.2, 4: 1.4, 8: 1.8, 16: 2.6}
    assert pack_choice.choose(seconds, [20], 2) == 10
    assert pack_choice.choose(seconds, [20], 20) == 1
    assert pack_choice.choose(seconds, [12, 8], 2) == 12  # a pack holds trials of one program
    assert pack_choice.choose(seconds, [1] * 20, 2) == 1  # nothing to put together
    # What takes proportionally longer gains nothing.
    assert pack_choice.choose({1: 1.0, 2: 2.0}, [20], 2) == 1
    assert pack_choice.choose({1: 1.0, 2: 1.5, 4: 3.5}, [20], 2) == 2
    assert pack_choice.choose({1: 0.7}, [20], 2) == 1


def test_no_measured_width_takes_less_time_than_the_chosen_one():
    for workers in (1, 2, 3):
        for count in range(1, 40):
            seconds = {k: 1 + k**1.2 / 8 for k in pack_choice.widths(count)}
            lanes = pack_choice.choose(seconds, [count], workers)
            # The curve is convex: a straight line between two of its points is nowhere below it.
            chosen = math.ceil(math.ceil(count / lanes) / workers) * (1 + lanes**1.2 / 8)
            least = min(s * math.ceil(math.ceil(count / k) / workers) for k, s in seconds.items())
            assert chosen <= least + 1e-12


def test_wider_packs_are_measured_while_they_gain():
    assert pack_choice.widths(20) == [1, 2, 4, 8, 16]
    assert pack_choice.widths(1) == [1]
    assert not pack_choice.no_better({1: 1.0})
    assert not pack_choice.no_better({1: 1.0, 2: 1.9})
    assert pack_choice.no_better({1: 1.0, 2: 2.0})
    assert pack_choice.no_better({1: 1.0, 2: 1.1, 4: 2.3})


def test_bad_values_of_pack_are_refused():
    assert [pack_choice.parse(text) for text in (None, "auto", "1", "16")] == [None, "auto", 1, 16]
    for text in ("0", "-2", "four", "2.5", "", "Auto"):
        with pytest.raises(UsageError, match=f"--pack={text} must be how many trials run in one"):
            pack_choice.parse(text)


def lanes_of(study, count):
    """The lane of each trial's last run; None where it ran alone."""
    return [(study.attempts(number)[-1]["packing"] or {}).get("lane") for number in range(count)]


def stored(study):
    return trial.read_json(study.path / "study.json").get("packing")


@pytest.mark.playbook("studies-run-packed")
def test_a_packed_study_runs_each_trial_once_in_its_lane_and_can_grow(tmp_path):
    study = Study(tmp_path, notes="infeasible=3", nuisance=SIZES, num_trials=9)
    code, output, errors = study.run(pack=4)
    assert (code, errors) == (0, "")
    assert "test: 9 trials, 8 COMPLETE, 1 INFEASIBLE\n" in output
    assert stored(study) == {"lanes": 4}
    # A version from before would go on one by one; it knows format 1 only.
    assert trial.read_json(study.path / "study.json")["format"] == 2
    rows = trial.read_json(study.path / "study.json")["trials"]
    sizes = [row["parameters"]["model.hidden_sizes"][0] for row in rows]
    expected = [sizes[:number].count(sizes[number]) % 4 for number in range(9)]
    assert lanes_of(study, 9) == expected
    assert all(study.steps(number) == list(range(1, STEPS + 1)) for number in range(9))
    lines = (study.path / "study.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == study.states()

    study.change(nuisance=SIZES, num_trials=12)
    before = (study.path / "trials" / "003" / "status.json").stat().st_mtime_ns
    assert study.run()[0] == 0  # as it was begun
    rows = trial.read_json(study.path / "study.json")["trials"]
    sizes = [row["parameters"]["model.hidden_sizes"][0] for row in rows]
    assert lanes_of(study, 12) == [sizes[:n].count(sizes[n]) % 4 for n in range(12)]
    assert [len(study.attempts(number)) for number in range(12)] == [1] * 12
    assert (study.path / "trials" / "003" / "status.json").stat().st_mtime_ns == before


def test_a_study_goes_on_only_in_packs_as_it_was_begun(tmp_path):
    study = Study(tmp_path, num_trials=4)
    assert study.run(pack=2)[0] == 0
    code, output, errors = study.run(pack=4)
    assert (code, output) == (2, "")
    assert errors == (
        f"error: {study.path} was begun with --pack=2, on which the trials' bits depend; leave "
        "--pack=4 out to go on so, or use another --workdir\n"
    )
    assert study.run(pack="auto")[0] == study.run(pack=2)[0] == 0
    assert stored(study) == {"lanes": 2}

    other = Study(tmp_path / "other", num_trials=4)
    assert other.run()[0] == 0
    assert stored(other) is None
    assert trial.read_json(other.path / "study.json")["format"] == 1
    assert "was begun with each trial alone, on which" in other.run(pack=2)[2]
    assert other.run(pack=1)[0] == 0


@pytest.mark.playbook("studies-survive-interruptions")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_pack_goes_on_where_its_worker_was_killed(tmp_path, number):
    study = Study(tmp_path, notes="seconds=0.03", num_trials=4).start(workers=1, pack=3)
    study.until(lambda: len(study.steps(2)) > 3)
    os.kill(study.attempts(2)[0]["process"], number)
    assert study.wait()[0] == 0
    assert study.states() == ["COMPLETE"] * 4
    assert lanes_of(study, 4) == [0, 1, 2, 0]
    for trial_number in range(3):
        first, second = study.attempts(trial_number)
        assert second["from"] >= 3
        assert second["process"] != first["process"]
        assert study.steps(trial_number) == list(range(1, STEPS + 1))


def test_of_a_pack_that_kills_every_worker_only_what_is_not_over_fails(tmp_path):
    shorter = {
        "hparams.learning_rate": RATE,
        "hparams.warmup_steps": {"values": [0, 10]},  # some run 10 steps more than others
    }
    study = Study(tmp_path, notes="die_at_the_end=0", nuisance=shorter, num_trials=4)
    code, output, _ = study.run(workers=1, pack=4)
    assert code == 1
    rows = trial.read_json(study.path / "study.json")["trials"]
    long = [row["parameters"]["hparams.warmup_steps"] == 10 for row in rows]
    assert set(long) == {True, False}
    assert study.states() == ["FAILED" if is_long else "COMPLETE" for is_long in long]
    assert [len(study.attempts(n)) for n in range(4)] == [3 if is_long else 1 for is_long in long]
    assert "its worker ended 3 times (SIGKILL, perhaps out of memory)" in output


def test_a_pack_that_takes_too_long_fails_trial_by_trial(tmp_path):
    study = Study(tmp_path, notes="seconds=0.03", num_trials=2)
    code, output, _ = study.run(time_limit=0.3, pack=2)
    assert code == 1
    assert "trial 1 FAILED: out of time: stopped after 0.3 s\n" in output
    assert study.states() == ["FAILED"] * 2
    assert study.run(retry_failed=True)[0] == 0
    assert all(study.steps(number) == list(range(1, STEPS + 1)) for number in range(2))


@pytest.mark.playbook("studies-survive-interruptions")
def test_a_stopped_pack_saves_and_goes_on(tmp_path):
    study = Study(tmp_path, notes="seconds=0.03", num_trials=3).start(workers=1, pack=3)
    study.until(lambda: len(study.steps(2)) > 3)
    study.process.send_signal(signal.SIGINT)
    code, _, errors = study.wait()
    assert (code, errors) == (75, "")
    assert study.states() == ["INTERRUPTED"] * 3
    assert gone(study.workers())
    assert study.run()[0] == 0
    assert all(study.steps(number) == list(range(1, STEPS + 1)) for number in range(3))


@pytest.mark.playbook("studies-run-packed")
def test_the_packing_is_measured_said_and_stored(tmp_path):
    study = Study(tmp_path, notes="narrow=4", num_trials=9)
    code, output, errors = study.run(workers=1, pack="auto")
    assert (code, errors) == (0, "")
    assert (
        "Packing: 3 trials in one program (a step of one trial takes 1, of 2 take 1.50, 4 take 2.50); "
        "8 fail (no room for 8)\n" in output
    )
    assert stored(study) == {"lanes": 3}
    assert lanes_of(study, 9) == [0, 1, 2] * 3

    alone = Study(tmp_path / "alone", num_trials=4)
    code, output, errors = alone.run(workers=1, pack="auto")
    assert (code, errors) == (0, "")
    assert "Packing: none, each trial runs alone; 2 fail (no room for 2)\n" in output
    assert stored(alone) is None
    assert lanes_of(alone, 4) == [None] * 4


def test_a_group_is_packed_over_its_studies(tmp_path):
    study = Study(
        tmp_path,
        shape="group",
        scientific={"hparams.momentum": {"values": [0.5, 0.9]}},
        num_trials=3,
    )
    assert study.run(pack=4)[0] == 0
    assert trial.read_json(study.path / "group.json")["packing"] == {"lanes": 4}
    found = [
        trial.read_json_lines(study.path / f"momentum={m}" / "trials" / f"{n:03d}" / "attempts")
        for n in range(3)
        for m in (0.5, 0.9)
    ]
    assert [attempt["packing"] for (attempt,) in found] == [
        {"lanes": 4, "lane": lane} for lane in (0, 1, 2, 3, 0, 1)
    ]
    for m in (0.5, 0.9):
        member = trial.read_json(study.path / f"momentum={m}" / "study.json")
        assert member["packing"] == {"lanes": 4}
    assert "was begun with --pack=4" in study.run(pack=2)[2]
