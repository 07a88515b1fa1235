"""Stands in for studies/execution/training.py and the report where the launcher is tested: no jax, no device.

A trial counts its steps in a file, a line a step, from which it goes on when it was killed.
`config.notes` says what happens to it, as "seconds=0.01 die=2": seconds a step, and the numbers of
trials that kill their worker, are infeasible, raise a UsageError, ignore requests to stop, or wait
until another trial has started; "fail_from=4" fails trial 4 and all after it, each with
another text of the same error; "fail=all" fails each until a file `mended` lies beside the study.
"die_at_the_end" kills workers at the first step after `max_train_steps`.
At step 5 of their first run (with "forget=1", of each), "hang" does nothing any more, "freeze" stops the
process, and "ponder" takes its time but asks whether to stop. At step 5 of "full" the disk is full, which
"raises" does not even write down, until a file `room` lies beside the study. "chatter=1" prints, late.
With "narrow=4", programs of more than four trials find too little memory; those of others take half a
step longer for each trial that they have more.
"""

import dataclasses
import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError

OUT_OF_MEMORY = MemoryError


@dataclasses.dataclass(frozen=True)
class Lane:
    config: Any
    workdir: str


def validate(config):
    if config.hparams.momentum > 0.9:
        raise UsageError(f"momentum {config.hparams.momentum} is too much for this test")
    if 13 in config.model.hidden_sizes:
        raise TypeError("13 units bring bad luck")
    return config_lib.complete(config)


def unread(config):
    return set()


def _notes(config):
    return dict(item.split("=") for item in config.notes.split())


def step_time(config, lanes=None):
    if lanes and lanes > int(_notes(config).get("narrow", 0)):
        raise MemoryError(f"no room for {lanes}")
    return 0.5 + 0.5 * (lanes or 1)


def train(config, workdir, *, progress, should_stop, command):
    trial_steps = _train(config, workdir, progress, should_stop, command, None)
    while True:
        try:
            next(trial_steps)
        except StopIteration as end:
            return end.value


def train_pack(lanes, *, progress, should_stop, ended, command):
    """Each lane makes a step in turn."""

    def of_lane(i):
        return lambda done, total, text: progress(i, done, total, text)

    statuses = [None] * len(lanes)
    running = {
        i: _train(
            lane.config,
            lane.workdir,
            of_lane(i),
            should_stop,
            command,
            {"lanes": len(lanes), "lane": i},
        )
        for i, lane in enumerate(lanes)
        if lane is not None
    }
    while running:
        for i, steps in list(running.items()):
            try:
                next(steps)
            except StopIteration as end:
                statuses[i] = end.value
                ended(i, end.value)
                del running[i]
    return statuses


def _train(config, workdir, progress, should_stop, command, packing):
    notes = _notes(config)
    number = Path(workdir).name.lstrip("0") or "0"
    if notes.get("refuse") == number:
        raise UsageError("the directory is not for this trial")
    writer = trial.Writer(workdir, config_lib.to_dict(config))
    total = config_lib.total_steps(config)
    steps = Path(workdir) / "steps"
    step = len(steps.read_text().split()) if steps.exists() else 0
    attempt = {"process": os.getpid(), "from": step, "cores": sorted(os.sched_getaffinity(0))}
    with (Path(workdir) / "attempts").open("a") as file:
        file.write(json.dumps(attempt | {"command": command, "packing": packing}) + "\n")
    writer.write("status.json", trial.new_status(trial.RUNNING, step=step))
    yield  # all lanes begin before the first one makes a step
    mended = Path(workdir).parent.parent.parent / "mended"
    if notes.get("fail") == "all" and not mended.exists():
        status = trial.new_status(
            trial.FAILED, f"ValueError: no such thing in trial {number}", step
        )
        writer.write("status.json", status)
        return status
    if int(number) >= int(notes.get("fail_from", 1000)):
        reason = f"TypeError: traced {number * 3} things (workloads/mine.py:33, in apply)"
        status = trial.new_status(trial.FAILED, reason, step)
        writer.write("status.json", status)
        return status
    while notes.get("meet") == number and len(list(Path(workdir).parent.glob("*/attempts"))) < 2:
        time.sleep(0.01)
    while step < total:
        if should_stop() and notes.get("deaf") != number:
            status = trial.new_status(trial.INTERRUPTED, step=step)
            writer.write("status.json", status)
            return status
        if (notes.get("die") == number and step == 5) or (
            "die_at_the_end" in notes and step == config.max_train_steps + 1
        ):
            print("out of luck")
            os.kill(os.getpid(), signal.SIGKILL)
        first = len(trial.read_json_lines(Path(workdir) / "attempts")) == 1
        if step == 5 and (first or "forget" in notes):
            _wait(notes, number, should_stop)
        if step == 5 and not mended.with_name("room").exists():
            if notes.get("raises") == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if notes.get("full") == number:
                status = trial.new_status(trial.FAILED, "disk full: nothing more", step)
                writer.write("status.json", status)
                return status
        time.sleep(float(notes.get("seconds", 0)))
        step += 1
        if "chatter" in notes and step > 8:
            print("so far, so good")
        with steps.open("a") as file:
            file.write(f"{step}\n")
        progress(step, total, "")
        yield
    if notes.get("infeasible") == number:
        status = trial.new_status(trial.INFEASIBLE, "loss is nan (step 20)", step)
    else:
        status = trial.new_status(trial.COMPLETE, step=step)
        status |= {"best_step": step, "objective": abs(config.hparams.learning_rate - 0.1)}
    writer.write("status.json", status)
    return status


def _wait(notes, number, should_stop):
    if notes.get("hang") == number:
        time.sleep(1000)
    if notes.get("freeze") == number:
        os.kill(os.getpid(), signal.SIGSTOP)
    deadline = time.monotonic() + 4
    while notes.get("ponder") == number and time.monotonic() < deadline:
        should_stop()
        time.sleep(0.01)


def conclude(study_directory):
    path = Path(study_directory) / "report.html"
    trial.write_text(path, "report")
    return path, "fine   All is well."
