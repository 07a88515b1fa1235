"""Stands in for playbook_jax.train and the report where the launcher is tested: no jax, no device.

A trial counts its steps in a file, a line a step, from which it goes on when it was killed.
`config.notes` says what happens to it, as "seconds=0.01 die=2": seconds a step, and the numbers of
trials that kill their worker, are infeasible, raise a UsageError, ignore requests to stop, or wait
until another trial has started; "fail=all" fails each until a file `mended` lies beside the study.
"""

import json
import os
import signal
import time
from pathlib import Path

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError


def validate(config):
    if config.hparams.momentum > 0.9:
        raise UsageError(f"momentum {config.hparams.momentum} is too much for this test")
    return config_lib.complete(config)


def train(config, workdir, *, progress, should_stop, command):
    notes = dict(item.split("=") for item in config.notes.split())
    number = Path(workdir).name.lstrip("0") or "0"
    if notes.get("refuse") == number:
        raise UsageError("the directory is not for this trial")
    writer = trial.Writer(workdir, config_lib.to_dict(config))
    total = config_lib.total_steps(config)
    steps = Path(workdir) / "steps"
    step = len(steps.read_text().split()) if steps.exists() else 0
    attempt = {"process": os.getpid(), "from": step, "cores": sorted(os.sched_getaffinity(0))}
    with (Path(workdir) / "attempts").open("a") as file:
        file.write(json.dumps(attempt | {"command": command}) + "\n")
    writer.write("status.json", trial.new_status(trial.RUNNING, step=step))
    mended = Path(workdir).parent.parent.parent / "mended"
    if notes.get("fail") == "all" and not mended.exists():
        status = trial.new_status(
            trial.FAILED, f"ValueError: no such thing in trial {number}", step
        )
        writer.write("status.json", status)
        return status
    while notes.get("meet") == number and len(list(Path(workdir).parent.glob("*/attempts"))) < 2:
        time.sleep(0.01)
    while step < total:
        if should_stop() and notes.get("deaf") != number:
            status = trial.new_status(trial.INTERRUPTED, step=step)
            writer.write("status.json", status)
            return status
        if notes.get("die") == number and step == 5:
            print("out of luck")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(notes.get("seconds", 0)))
        step += 1
        with steps.open("a") as file:
            file.write(f"{step}\n")
        progress(step, total, "")
    if notes.get("infeasible") == number:
        status = trial.new_status(trial.INFEASIBLE, "loss is nan (step 20)", step)
    else:
        status = trial.new_status(trial.COMPLETE, step=step)
        status |= {"best_step": step, "objective": abs(config.hparams.learning_rate - 0.1)}
    writer.write("status.json", status)
    return status


def conclude(study_directory):
    path = Path(study_directory) / "report.html"
    path.write_text("report")
    return path, "fine   All is well."
