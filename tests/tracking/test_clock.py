"""What counts as waiting for input, on a fake device and a fake clock; and that it is said aloud."""

import json
import threading

import pytest

from playbook_jax import trial
from playbook_jax.input import pipeline
from playbook_jax.tracking import clock
from playbook_jax.training import loop
from tests import small


class Device:
    """Works on one call after the other while the host goes on."""

    def __init__(self):
        self.time = self.free = 0.0
        self._woken = threading.local()

    def now(self):
        return getattr(self._woken, "time", self.time)

    def call(self, seconds):
        self.free = max(self.free, self.time) + seconds
        return Work(self, self.free)

    def wake(self, time):
        """Lets the thread that waited see the clock as it then was."""
        self._woken.time = time


class Work:
    def __init__(self, device, done):
        self.device, self.done = device, done

    def is_ready(self):
        return self.done <= self.device.time

    def block_until_ready(self):
        self.device.wake(self.done)


def run(feed_seconds, step_seconds, steps=200, host_seconds=0.0, in_flight=8):
    """A loop like train.py's; returns its row and the fraction of the time that the device idled."""
    device = Device()
    measured = clock.Clock(now=device.now)
    calls = []

    def feed():
        device.time += feed_seconds

    for step in range(steps):
        measured.input(feed)
        device.time += host_seconds
        calls.append(device.call(step_seconds))
        if step == 0:
            begin = device.time
        measured.sent(calls[-1])
        if len(calls) > in_flight:
            device.time = max(device.time, calls.pop(0).done)
    device.time = max(device.time, device.free)
    idle = 1 - steps * step_seconds / (device.time - begin)
    return clock.Laps(measured, 0, 10).row(steps), idle


@pytest.mark.playbook("input-bound")
@pytest.mark.parametrize(
    ("feed_seconds", "step_seconds"),
    [
        (0.010, 0.002),
        (0.010, 0.009),
        (0.010, 0.011),
        (0.002, 0.02),
        (0.0005, 0.02),
        (5, 0.001),
        (0, 1),
    ],
)
def test_only_the_time_that_the_device_loses_counts(feed_seconds, step_seconds):
    row, idle = run(feed_seconds, step_seconds)
    # The feed of the second step is the only one that no thread watches.
    assert row["input_wait"] == pytest.approx(
        max(0.0, 1 - step_seconds / feed_seconds) if feed_seconds else 0.0, abs=0.01
    )
    assert row["input_wait"] == pytest.approx(idle, abs=0.01)


def test_a_feed_too_short_to_be_watched_counts_by_half():
    # Lost are 0.5 of 0.8 milliseconds; between none and all of it is all that is known.
    row, _ = run(feed_seconds=0.0008, step_seconds=0.0003)
    assert row["input_wait"] == pytest.approx(0.5, abs=0.01)


def test_what_else_the_host_does_while_the_device_is_idle_is_not_input():
    # The device is through before the feed begins, so all of the feed is lost, and no more.
    device = Device()
    measured = clock.Clock(now=device.now)
    for _ in range(100):
        measured.input(lambda: setattr(device, "time", device.time + 0.001))
        measured.sent(device.call(0.002))
        device.time += 0.009  # writing files, say
    assert clock.Laps(measured, 0, 10).row(100)["input_wait"] == pytest.approx(0.1, abs=0.002)


def test_an_evaluation_keeps_the_device_busy_too():
    device = Device()
    measured = clock.Clock(now=device.now)
    feed = lambda: setattr(device, "time", device.time + 0.01)  # noqa: E731
    measured.input(feed)
    measured.sent(device.call(0.001))
    device.time += 0.005
    measured.sent(device.call(0.001), device.call(1.0))
    measured.input(feed)
    assert clock.Laps(measured, 0, 10).row(2)["input_wait"] == 0


def test_the_startup_is_told_apart():
    device = Device()
    measured = clock.Clock(now=device.now)
    laps = clock.Laps(measured, 5, 10)
    measured.input(lambda: setattr(device, "time", 7.0))
    device.time = 10.0  # compiled
    measured.sent(device.call(1.0))
    device.time = 12.0
    assert laps.row(9) == {
        "step": 9,
        "seconds": 12.0,
        "interval_seconds": 2.0,
        "steps_per_second": 2.0,
        "examples_per_second": 20.0,
        "input_wait": 0.0,
        "host_wait": 0.0,
        "startup_seconds": 10.0,
    }
    device.time = 13.0
    assert "startup_seconds" not in laps.row(10)


def row(seconds, steps, wait):
    return {
        "interval_seconds": seconds,
        "steps_per_second": steps / seconds,
        "examples_per_second": 32 * steps / seconds,
        "input_wait": wait,
    }


def test_totals_weigh_each_interval_by_its_time():
    total = clock.totals([row(1.0, 100, 0.0), row(3.0, 100, 0.5), {"step": 3}])
    assert total == pytest.approx(
        {
            "seconds": 4,
            "steps_per_second": 50,
            "examples_per_second": 1600,
            "input_wait": 0.375,
            "host_wait": 0.0,
        }
    )
    assert clock.totals([]) is None
    assert clock.describe([]) == []


@pytest.mark.playbook("input-bound")
def test_said_aloud_above_a_tenth():
    assert clock.describe([row(1.0, 100, 0.1)]) == [
        "100 steps/s, 3,200 examples/s, evaluations included"
    ]
    assert clock.describe([row(1.0, 0.5, 0.34)]) == [
        "0.5 steps/s, 16 examples/s, evaluations included",
        "input-bound: 34 % of the time waiting for input; see docs/input.md",
    ]


@pytest.mark.playbook("input-bound", "throughput")
def test_a_slow_source_makes_a_run_say_that_it_is_input_bound(tmp_path, monkeypatch):
    """The real devices, with a source that sleeps longer than the tiny steps take."""
    feed = pipeline.MemorySource.feed
    pause = threading.Event()

    def slow(self, step, num_steps):
        pause.wait(0.01)
        return feed(self, step, num_steps)

    monkeypatch.setattr(pipeline.MemorySource, "feed", slow)
    said = []
    config = small.digits(steps_per_call=1, max_train_steps=60, eval_every_steps=60)
    loop.train(config, tmp_path / "t", progress=lambda done, total, text: said.append(text))
    result = trial.load(tmp_path / "t")
    assert [row["step"] for row in result.timing] == [20, 40, 60]
    for line in result.timing:
        assert line["examples_per_second"] == pytest.approx(32 * line["steps_per_second"], rel=1e-3)
    assert clock.totals(result.timing)["input_wait"] > clock.INPUT_BOUND
    assert "input-bound" in clock.describe(result.timing)[-1]
    assert any(text.endswith(" %") and "· input-bound: " in text for text in said)
    # Nothing of it enters the files that have to be the same again.
    assert "input_wait" not in json.dumps(result.summary)


def test_writing_while_the_device_is_idle_is_the_hosts_and_said_aloud():
    """Each stretch leaves 30 milliseconds of writing, behind 10 of the device's work."""
    device = Device()
    measured = clock.Clock(now=device.now)
    laps = clock.Laps(measured, 0, 10)
    for _ in range(1_000):
        measured.input(lambda: None)
        measured.sent(device.call(0.01))
        measured.read(lambda: setattr(device, "time", device.time + 0.03))
    measured.input(lambda: None)
    row = laps.row(1_000)
    assert row["host_wait"] == pytest.approx(2 / 3, abs=0.01)
    assert row["input_wait"] == 0
    assert laps.complaint == " · host-bound: 67 %"
    assert clock.describe([row])[-1].startswith(
        "host-bound: 67 % of the time the devices had nothing"
    )


def test_writing_behind_enough_work_of_the_device_costs_nothing():
    device = Device()
    measured = clock.Clock(now=device.now)
    for _ in range(100):
        measured.input(lambda: None)
        measured.sent(device.call(0.05))
        measured.read(lambda: setattr(device, "time", device.time + 0.03))
        device.time = device.free - 0.01  # waits for the one before
    row = clock.Laps(measured, 0, 10).row(100)
    assert (row["host_wait"], row["input_wait"]) == (0, 0)


def test_what_is_written_after_the_last_step_is_nobodys_loss():
    device = Device()
    measured = clock.Clock(now=device.now)
    measured.input(lambda: None)
    measured.sent(device.call(0.01))
    device.time = device.free
    measured.read(lambda: setattr(device, "time", device.time + 5))
    assert measured.hosted == 0
