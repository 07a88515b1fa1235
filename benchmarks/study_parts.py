"""What benchmarks/studies.py runs in processes of their own."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.benchmarking import measured, paired
from playbook_jax import config as config_lib, trial
from tools.digits_study import STUDY

ROOT = Path(__file__).resolve().parent.parent
_SAVES = 50
_PACKED_STEPS = (500, 2_500)  # of two runs; their difference is free of what each costs once


def keep_to(core: int) -> None:
    """Gives this process one core, as a worker has; to be called before jax counts them."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def checkpoint(core: int) -> tuple[float, float]:
    """Returns the seconds of a trial's one checkpoint, on the clock and of the processor.

    It is opened, saved, awaited and closed, as a trial does.
    """
    keep_to(core)
    from playbook_jax import checkpoints
    from playbook_jax.runtime import compilation_cache, parallel
    from playbook_jax.training import program

    compilation_cache.enable()
    config = config_lib.complete(config_lib.load(ROOT / "configs" / "digits_mlp.py"))
    state = parallel.first(program.get(config).init(0))
    clocks = time.perf_counter, time.process_time
    with tempfile.TemporaryDirectory() as directory:
        for number in range(-_SAVES // 10, _SAVES):
            if number == 0:  # the first ones are slower
                began = [now() for now in clocks]
            place = f"{directory}/{number}"
            with checkpoints.Checkpoints(place, keep_best=1, mode="min") as saved:
                saved.offer(checkpoints.Candidate(1, 0.5, state))
                saved.save(1, state)
                saved.prune()
    return tuple((now() - then) / _SAVES for now, then in zip(clocks, began, strict=True))


def optuna() -> int:
    """Runs the trials of the digits study under Optuna, and returns how many it completed.

    The compiled steps and evaluations are the study's own. Nothing is written: no records, no
    checkpoints, no report.
    """
    import optuna as library

    from playbook_jax.runtime import compilation_cache
    from playbook_jax.studies import specification as specification_lib
    from playbook_jax.tracking import profiling
    from playbook_jax.training import loop as loop_lib, program

    compilation_cache.enable()
    library.logging.set_verbosity(library.logging.WARNING)
    specification = specification_lib.load(STUDY)
    base = loop_lib.validate(specification.base_config)
    compiled = program.get(base)

    def objective(suggest: library.Trial) -> float:
        values = {
            "hparams.learning_rate": suggest.suggest_float("rate", 1e-2, 100.0, log=True),
            "hparams.momentum": 1 - suggest.suggest_float("momentum", 1e-2, 0.5, log=True),
            "hparams.weight_decay": suggest.suggest_float("decay", 1e-6, 1e-2, log=True),
            "hparams.clip_norm": suggest.suggest_float("clip", 0.1, 10.0, log=True),
        }
        recorder = _Silent(config_lib.override(base, values))
        run = loop_lib.Run(compiled, {0: recorder}, None, profiling.Profiler())
        run.to_the_end(lambda: False)
        if recorder.diverged:
            raise library.TrialPruned
        return min(recorder.values)

    study = library.create_study(sampler=library.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=specification.num_trials)
    return len(study.get_trials(states=[library.trial.TrialState.COMPLETE]))


class _Silent:
    """Stands in for a `recorder.Recorder` where nothing is to be written."""

    def __init__(self, config: Any) -> None:
        from playbook_jax.training import train_step

        self.config, self.hparams = config, train_step.cast_hparams(config.hparams)
        self.directory, self.total = Path(), config_lib.total_steps(config)
        self.step, self.status = 0, None
        self.diverged, self.values = False, []

    def begin(self, program: Any, fresh: Any) -> None:
        """Begins at step 0."""

    def started(self, clock: Any, command: Any, packing: Any) -> None:
        """Is of no interest."""

    def read(self, left: Any) -> None:
        """Keeps the objective, and ends the trial where it is bad, or over."""
        self.step, self.diverged = left.end, left.bad_step >= 0
        if left.evaluations:
            numerator, denominator = left.evaluations[self.config.checkpoint.metric]
            self.values.append(float(numerator / denominator))
        if self.diverged or self.step == self.total:
            self.status = {}


def packed(batch: int, count: int, rounds: int) -> list[tuple[float, float]]:
    """Returns pairs of seconds: a step of all trials packed, and of all one after the other."""
    keep_to(0)
    from playbook_jax.runtime import compilation_cache
    from playbook_jax.training import loop as loop_lib, packing

    compilation_cache.enable()
    quiet = dict.fromkeys(("eval_every_steps", "checkpoint.every_steps"), 10**9)
    base = config_lib.load(ROOT / "configs" / "digits_mlp.py")

    def configs(steps: int) -> list[Any]:
        values = quiet | {"batch_size": batch, "max_train_steps": steps}
        return [
            config_lib.override(base, values | {"hparams.learning_rate": 0.01 * (1 + lane)})
            for lane in range(count)
        ]

    def together(steps: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            _complete(
                packing.train(
                    [packing.Lane(c, f"{directory}/{i}") for i, c in enumerate(configs(steps))]
                )
            )

    def one_by_one(steps: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            _complete([loop_lib.train(c, f"{directory}/{i}") for i, c in enumerate(configs(steps))])

    def per_step(run: Callable[[int], None]) -> float:
        short, long = (measured(lambda n=n: run(n)) for n in _PACKED_STEPS)
        return (long - short) / (_PACKED_STEPS[1] - _PACKED_STEPS[0])

    for run in (together, one_by_one):
        run(10)
    return paired(lambda: per_step(together), lambda: per_step(one_by_one), rounds)


def _complete(statuses: list[dict[str, Any]]) -> None:
    for status in statuses:
        if status["state"] != trial.COMPLETE:
            raise RuntimeError(f"a run that was to be timed ended {status}")
