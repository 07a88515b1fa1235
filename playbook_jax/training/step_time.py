"""What a step takes on the devices of this process, measured by a few real ones before a run.

With the config's own shapes and data, one trial alone or several in one program, and as a run makes
them: the input is read on the host while the devices compute. What evaluations and checkpoints take is
not in it.
"""

import functools
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from playbook_jax import config as config_lib
from playbook_jax.input import pipeline
from playbook_jax.runtime import parallel
from playbook_jax.training import (
    feeds as feeds_lib,
    lanes as lanes_lib,
    loop as train_lib,
    program as program_lib,
    train_step,
)

# What the devices, and the host, say when there is no memory left.
OUT_OF_MEMORY = (jax.errors.JaxRuntimeError, MemoryError)
_SECONDS = 0.4  # beside compilation, unless a single call takes longer
_ROUNDS = 3  # of which the fastest counts: other programs only ever add


def measure(config: ConfigDict, lanes: int | None = None, seconds: float = _SECONDS) -> float:
    """Returns what a step takes, in seconds: of all lanes together, where there are lanes.

    Args:
      config: a training config; its program is compiled, and kept by `program.get`.
      lanes: how many trials run in one program; None: one trial, in a program without lanes.
      seconds: how long to measure, beside compilation.

    Raises:
      UsageError: the config can't be run.
      jax.errors.JaxRuntimeError: the devices' memory is too small.
    """
    call = _Calls(train_lib.validate(config), lanes)
    call.wait(call())  # compiles
    begin = time.perf_counter()
    call.wait(call())
    once = time.perf_counter() - begin
    count = max(1, min(int(seconds / _ROUNDS / max(once, 1e-6)), 1_000))
    fastest = once
    for _ in range(_ROUNDS if once < seconds else 0):
        begin = time.perf_counter()
        for number in range(1, count + 1):
            outcome = call()
            if number % train_lib.CALLS_IN_FLIGHT == 0 or number == count:
                call.wait(outcome)
        fastest = min(fastest, (time.perf_counter() - begin) / count)
    return fastest / call.steps


class _Calls:
    """Calls of the compiled step, each going on where the last one was.

    Attributes:
      steps: how many one call makes.
    """

    def __init__(self, config: ConfigDict, lanes: int | None) -> None:
        program = program_lib.get(config, lanes)
        self.steps = config_lib.most_steps_per_call(config)
        self._places = range(lanes or 1)
        self._join = functools.partial(lanes_lib.join, lanes)
        self._program = program
        # One source for all lanes: each call reads a stretch of it for every one of them.
        self._source = pipeline.make_source(config, program.workload, program.arrays["train"])
        seeds = config_lib.seeds(config)
        names = ("initialization", "dropout")
        self._state = program.init(*(self._same(np.uint32(seeds[name])) for name in names))
        records = train_step.new_records(config_lib.longest_stretch(config), len(program.columns))
        self._records = parallel.replicate(self._same(records))
        self._values = program.values(dict.fromkeys(self._places, config))
        steps = dict.fromkeys(self._places, (0, self.steps))
        self._numbers = lanes_lib.numbers(lanes, steps, stop=False)
        self._next = 0

    def _same(self, tree: object) -> object:
        return self._join(dict.fromkeys(self._places, tree))

    def __call__(self) -> jax.Array:
        """Sends the next steps to the devices; returns what is computed when they are through."""
        feeds = {}
        for place in self._places:
            feeds[place] = feeds_lib.split(self._source.feed(self._next, self.steps), self.steps)
            self._next += self.steps
        call = train_step.Call(self._join(feeds, axis=1), self._numbers)
        self._state, self._records, outcome = self._program.run_steps(
            self._state, self._records, self._program.resident, call, self._values
        )
        return outcome

    @staticmethod
    def wait(outcome: jax.Array) -> None:
        """Waits until the devices have come so far."""
        outcome.block_until_ready()
