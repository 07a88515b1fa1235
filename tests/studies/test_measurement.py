import dataclasses
import re

import pytest

from playbook_jax.errors import UsageError
from playbook_jax.studies.execution import measurement, pack_choice
from playbook_jax.training import step_time
from tests.studies.test_digits import FIXED, RATES, run
from tests.studies.test_specification import write

WORK = measurement.Work(
    config={}, counts=[7, 2], steps=101.0, evaluations=6.0, saves=3.0, workers=2
)
COSTS = measurement.Costs(
    start=2.0,
    compilation=3.0,
    step=0.01,
    evaluation=0.1,
    checkpoint=0.25,
    trial=1.5,
    lanes=1,
    device="1 CPU core each",
)


def test_a_duration_is_that_of_all_parts():
    # A trial of one step has an evaluation and a checkpoint: 1.5 + 100 · 0.01 + 5 · 0.1 + 2 · 0.25.
    assert measurement.seconds(WORK, COSTS) == pytest.approx((5.0, 5 * 3.5))  # 9 trials, 2 at once
    # In packs of four: two and one, of which two run at once. Each worker compiles one of the programs.
    packed = dataclasses.replace(COSTS, lanes=4)
    assert measurement.seconds(WORK, packed) == pytest.approx((5.0, 2 * 3.5))
    alone = dataclasses.replace(WORK, workers=1)  # it compiles both
    assert measurement.seconds(alone, COSTS) == pytest.approx((8.0, 9 * 3.5))


def test_a_duration_in_words():
    assert measurement.describe(WORK, COSTS).splitlines() == [
        "about 22 s with 2 workers and without the report: 5.0 s until all have started and compiled, "
        "then 18 s, 3.5 s a trial",
        "measured now on 1 CPU core each, 2 workers at once: of 2 programs, the one that most trials "
        "share; to compile 3.0 s, a step 10 ms, an evaluation 100 ms, a checkpoint 250 ms",
    ]
    packed = dataclasses.replace(COSTS, lanes=4, step=2.5e-5)
    text = measurement.describe(dataclasses.replace(WORK, counts=[9], workers=1), packed)
    assert "about 13 s with 1 worker and" in text
    assert "2.5 s a pack of 4 trials" in text
    assert "at once: to compile 3.0 s, a step of all 4 25 µs" in text


@pytest.mark.parametrize("pack", ["2", None])
def test_a_preview_that_measures_real_steps(tmp_path, pack):
    config = write(
        tmp_path / "study.py",
        num_trials=4,
        objective={"metric": "validation/error_rate", "mode": "min"},
        fixed=FIXED,
        nuisance={"hparams.learning_rate": {"values": RATES}},
    )
    arguments = [f"--config={config}", f"--workdir={tmp_path / 's'}", "--dry_run", "--measure"]
    # With two workers where that is cheap: they start at once.
    arguments += [f"--workers={2 if pack is None else 1}"]
    result = run("launch_study.py", *arguments, *([f"--pack={pack}"] if pack else []))
    assert result.returncode == 0, result.stderr
    duration, parts = result.stdout.splitlines()[-2:]
    workers = "2 workers" if pack is None else "1 worker"
    assert re.match(rf"about \d+ s with {workers} and without the report: ", duration)
    one = "a trial" if pack is None else "a pack of 2 trials"
    assert re.search(rf", [\d.]+ m?s {one}$", duration)
    assert f"measured now on 1 CPU core each, {workers} at once: to compile " in parts
    assert re.search(r"a step( of all \d)? [\d.]+ (ms|µs), an evaluation [\d.]+ ms, a check", parts)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["study.json"]


def test_packs_are_chosen_as_at_a_launch(monkeypatch):
    taken = {None: 1.0, 2: 1.2, 4: 1.5, 8: 4.0}
    monkeypatch.setattr(step_time, "measure", lambda config, lanes: taken[lanes])
    # Sixteen would be tried next, but eight take more time a trial than four.
    assert measurement._choose(dataclasses.replace(WORK, counts=[32]), {}) == 4
    # Of four trials on two workers, two at once are as soon over.
    assert measurement._choose(dataclasses.replace(WORK, counts=[4]), {}) == 2
    taken[2] = 2.5
    assert measurement._choose(dataclasses.replace(WORK, counts=[4]), {}) == 1


def test_a_measurement_that_fails_ends_with_one_line_and_nothing_is_written(tmp_path):
    config = write(tmp_path / "study.py", fixed={"optimizer": "nestorov"})
    arguments = [f"--config={config}", f"--workdir={tmp_path / 's'}", "--workers=1"]
    result = run("launch_study.py", *arguments, "--dry_run", "--measure")
    assert (result.returncode, result.stdout) == (2, "")
    expected = (
        "error: the measurement fails: unknown optimizer 'nestorov'; did you mean 'nesterov'?"
    )
    assert result.stderr.startswith(expected)
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()
    result = run("launch_study.py", *arguments, "--measure")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: --measure is for --dry_run, which launches nothing\n"


def test_a_process_that_dies_is_an_error_and_none_is_left(monkeypatch):
    started = []
    start = measurement._start

    def note(place):
        started.append(start(place))
        return started[-1]

    monkeypatch.setattr(measurement, "_start", note)
    monkeypatch.setattr(measurement.sys, "executable", "/bin/false")
    with pytest.raises(UsageError, match="the measurement fails: it printed nothing"):
        measurement.measure(dataclasses.replace(WORK, pack=pack_choice.ALONE))
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)
