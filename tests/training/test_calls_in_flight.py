"""The order in which calls are sent to the devices and what they leave is read; not how long it takes."""

import dataclasses
import re
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from playbook_jax import trial
from playbook_jax.training import feeds, loop, program as program_lib, recorder
from tests import small
from tests.runs import stop_after


@pytest.fixture
def events(monkeypatch):
    """What runs do, in order: "send" and the arguments, "settle", and "read" and the step."""
    found = []
    get, read = program_lib.get, recorder.Recorder.read

    def logging(config, lanes=None):
        program = get(config, lanes)

        def run_steps(*arguments):
            found.append(("send", arguments))
            return program.run_steps(*arguments)

        def settle(*arguments):
            found.append(("settle", None))
            return program.settle(*arguments)

        return dataclasses.replace(program, run_steps=run_steps, settle=settle)

    def logging_read(self, left):
        found.append(("read", left.end))
        read(self, left)

    monkeypatch.setattr(program_lib, "get", logging)
    monkeypatch.setattr(recorder.Recorder, "read", logging_read)
    return found


def quiet(**overrides):
    never = {"eval_every_steps": 1_000, "checkpoint__every_steps": 1_000}
    return small.digits(**(never | {"steps_per_call": 1, "log_every_steps": 12} | overrides))


def sent_before_reads(events):
    """Returns for each read its step and how many calls had been sent."""
    names = [name for name, _ in events]
    return {
        step: names[:i].count("send") for i, (name, step) in enumerate(events) if name == "read"
    }


@pytest.mark.playbook("no-hidden-synchronization")
def test_as_many_calls_as_may_be_in_flight_are_sent_before_a_stretch_is_read(events, tmp_path):
    assert loop.train(quiet(), tmp_path / "run")["state"] == "COMPLETE"
    # Behind the stretch that ends at 12, the calls 13 to 20 wait for the devices while it is read.
    flight = loop.CALLS_IN_FLIGHT
    assert sent_before_reads(events) == {12: 12 + flight, 24: 24 + flight, 36: 40, 40: 40}


def test_there_are_never_two_snapshots_on_the_devices(events, tmp_path):
    config = quiet(eval_every_steps=3, log_every_steps=3, max_train_steps=15)
    assert loop.train(config, tmp_path / "run")["state"] == "COMPLETE"
    names = [name for name, _ in events if name != "send"]
    assert names == ["settle", "read"] * 5
    # Yet each is read with all of the next stretch sent.
    assert sent_before_reads(events) == {3: 6, 6: 9, 9: 12, 12: 15, 15: 15}


def test_a_bad_step_ends_the_run_within_the_calls_in_flight(events, tmp_path):
    status = loop.train(quiet(hparams__learning_rate=1e30), tmp_path / "run")
    assert status["state"] == "INFEASIBLE"
    assert len([name for name, _ in events if name == "send"]) <= 12 + loop.CALLS_IN_FLIGHT


def test_a_run_that_is_asked_to_stop_sends_nothing_more(events, tmp_path):
    status = loop.train(quiet(), tmp_path / "run", should_stop=stop_after(17))
    assert (status["state"], status["step"]) == ("INTERRUPTED", 17)
    assert sent_before_reads(events) == {12: 17, 17: 17}


def test_a_call_sends_its_input_and_one_array_of_numbers_and_nothing_else(events, tmp_path):
    loop.train(quiet(max_train_steps=3), tmp_path / "run")
    for arguments in [arguments for name, arguments in events if name == "send"]:
        sent = [x for x in jax.tree.leaves(arguments) if not isinstance(x, jax.Array)]
        assert [(x.dtype, x.shape[-1]) for x in sent] == [(np.int32, 8), (np.int32, 3)]


class Source:
    """Notes for which steps it has made something."""

    ahead = 2

    def __init__(self):
        self.made, self.changed = [], threading.Condition()

    def feed(self, step, num_steps):
        with self.changed:
            self.made.append(step)
            self.changed.notify()
        return {"x": np.full((num_steps, 8), step, np.float32)}

    def wait_for(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.made) >= count, timeout=60)


@pytest.mark.playbook("tf-data-prefetch")
def test_batches_from_the_host_are_on_the_devices_two_calls_ahead():
    source, sent = Source(), []
    calls = [(0, 4), (4, 4), (8, 4), (12, 2)]
    made = feeds.Feeds(None, {0: source}, 4, iter(calls))
    made._sent = lambda calls, send=made._sent: sent.append(send(calls)) or sent[-1]
    try:
        for number, call in enumerate(calls):
            fed = made.next({0: call})
            assert isinstance(fed["x"], jax.Array)
            assert fed["x"].shape == (4, 4, 2)
            assert float(fed["x"][0, 0, 0]) == call[0]
            # Nobody asks for them, and yet the next two are made; and no more than those.
            source.wait_for(min(number + 3, 4))
            assert source.made == [0, 4, 8, 12][: number + 3]
    finally:
        made.close()
    assert len(sent) == 4


def test_an_error_of_the_source_is_raised_where_its_batch_is_needed():
    class Damaged(Source):
        def feed(self, step, num_steps):
            if step == 4:
                raise ValueError("damaged")
            return super().feed(step, num_steps)

    made = feeds.Feeds(None, {0: Damaged()}, 4, iter([(0, 4), (4, 4)]))
    try:
        made.next({0: (0, 4)})
        with pytest.raises(ValueError, match="damaged"):
            made.next({0: (4, 4)})
    finally:
        made.close()


def test_a_second_ctrl_c_stops_at_once():
    code = (
        "import sys, time; sys.path.insert(0, 'scripts'); import train; stopped = []; "
        "train._note_signals(stopped); print('ready', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=small.ROOT,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert "Once more (Ctrl-C), and it stops at once" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert errors == ""
    assert "the same command goes on" in output


@pytest.mark.playbook("polyak-average")
def test_the_command_that_the_readme_gives_for_averages_works(tmp_path):
    readme = (small.ROOT / "README.md").read_text()
    (flags,) = re.findall(
        r"`scripts/train.py (--config=\S+) … (--config.hparams.polyak_decay=\S+)`", readme
    )
    short = ("--config.max_train_steps=20", "--config.eval_every_steps=10")
    command = [sys.executable, "scripts/train.py", *flags, *short, f"--workdir={tmp_path / 'run'}"]
    result = subprocess.run(
        command, cwd=small.ROOT, env=small.one_device(), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    rows = trial.load(tmp_path / "run").evaluations
    assert rows["validation/polyak/loss"].gt(0).all()
    assert (rows["validation/polyak/loss"] != rows["validation/loss"]).all()


def test_averages_that_are_off_cost_nothing():
    config = loop.validate(small.digits())
    program = program_lib.get(config)
    assert config.hparams.polyak_decay == 0
    assert program.init(0).polyak == {}
