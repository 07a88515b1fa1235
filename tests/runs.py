"""What tests of training share: runs that are stopped, their files, and what is traced for them."""

import contextlib

import jax
import numpy as np
import pytest

from playbook_jax import checkpoints
from playbook_jax.training import loop, program as program_lib, train_step
from tests import small


def run(directory, **overrides):
    return loop.train(small.digits(**overrides), directory)


def stop_after(calls):
    """A `should_stop` that lets as many calls of the device be made."""
    asked = iter([False] * calls)
    return lambda: next(asked, True)


def interrupted(directory, stop_at, **overrides):
    """Runs until `stop_at` calls of the device were made."""
    return loop.train(small.digits(**overrides), directory, should_stop=stop_after(stop_at))


def files(directory):
    """What must not depend on when and how often a run was interrupted."""
    names = ("steps.f32", "metrics.jsonl", "summary.json", "status.json", "config.json")
    return {name: (directory / name).read_bytes() for name in names}


def bits(directory):
    """The files, and what is in the latest checkpoint."""
    saved = checkpoints.load(directory, "latest")
    return files(directory) | {"latest": [np.asarray(x).tobytes() for x in jax.tree.leaves(saved)]}


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@contextlib.contextmanager
def new_programs():
    """Programs are built anew within, and are not used after it."""
    program_lib._build.cache_clear()
    try:
        yield
    finally:
        program_lib._build.cache_clear()


@contextlib.contextmanager
def counted_traces():
    """Gives a list that grows each time that the update of a new program is traced."""
    traces = []
    original = train_step.make_update

    def counting(*arguments):
        update = original(*arguments)
        return lambda *args: (traces.append(None), update(*args))[1]

    with pytest.MonkeyPatch.context() as patch, new_programs():
        patch.setattr(train_step, "make_update", counting)
        yield traces
