"""Batch sizes that a batch norm cannot take are refused, with those that it can."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from playbook_jax import config as config_lib
from playbook_jax.batch_norm import BatchNorm, layout
from playbook_jax.errors import UsageError
from playbook_jax.training import loop
from tests.test_batch_norm import on_each_device, random_input


def message(error):
    """The error's own text: jax adds a note to errors that it passes on."""
    return error.value.args[0]


@pytest.mark.parametrize(
    ("size", "batch_sizes"),
    # A device's batch must be a multiple of the size, or go 1, 2 or 4 times into it.
    [(0, ""), (-8, ""), (3, "24 or 36"), (12, "24 or 48"), (24, "24 or 48"), (64, "64")],
)
def test_a_size_that_does_not_fit_names_those_that_do(size, batch_sizes):
    with pytest.raises(ValueError, match="virtual_batch_size") as error:
        on_each_device(BatchNorm(size, use_running_average=False), random_input())
    assert isinstance(error.value, UsageError)
    assert message(error) == (
        f"virtual_batch_size {size} fits neither the 8 examples of a device nor groups of 4 devices; "
        "these sizes do: 1, 2, 4, 8, 16, 32"
        + (f"; or batch_size {batch_sizes} with this one" if batch_sizes else "")
    )


def test_groups_of_devices_need_the_axis():
    x = random_input()[0]
    module = BatchNorm(16, use_running_average=False)
    variables = module.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="groups of 1 device") as error:
        module.apply(variables, x, mutable=["batch_stats"])
    assert message(error).endswith(
        "1 device; these sizes do: 1, 2, 4, 8; or batch_size 16 with this one"
    )


def test_layout():
    assert layout(2, 8, 4) == (4, 1)
    assert layout(8, 8, 4) == (1, 1)
    assert layout(16, 8, 4) == (1, 2)
    assert layout(24, 8, 6) == (1, 3)
    assert layout(5, 8, 4, subsample=True) == (1, 1)
    with pytest.raises(ValueError, match="these sizes do: 1 to 8; or batch_size 64 with this one"):
        layout(16, 8, 4, subsample=True)


@pytest.mark.parametrize("devices", [1, 2, 6, 8])
@pytest.mark.parametrize("size", [3, 10, 12, 64, 100])
def test_the_batch_sizes_that_a_message_names_fit_and_are_the_nearest(size, devices):
    def fits(batch_size):
        try:
            layout(size, batch_size, devices)
        except UsageError:
            return False
        return True

    wrong = [n for n in range(1, 70) if not fits(n)]
    assert wrong
    for batch_size in wrong:
        with pytest.raises(UsageError) as error:
            layout(size, batch_size, devices)
        named = re.search(r"or batch_size (.*) with this one", str(error.value))[1]
        below = [n for n in range(1, batch_size) if fits(n)][-1:]
        above = next(n for n in range(batch_size, 1000) if fits(n))
        assert named == " or ".join(str(n * devices) for n in [*below, above])


@pytest.mark.playbook("batch-norm-has-its-own-batch")
def test_a_batch_size_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    config = config_lib.load(Path(__file__).parent.parent / "configs" / "digits_cnn.py")
    config.batch_size = 96  # 24 on each of 4 devices, which 64 neither divides nor is a multiple of
    config.model.virtual_batch_size = 64
    message = r"virtual_batch_size 64 .* or batch_size 64 or 128 with this one"
    with pytest.raises(UsageError, match=message) as error:
        loop.train(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_first_axis_holds_no_features():
    with pytest.raises(ValueError, match="axis 0 of shape"):
        BatchNorm(axis=0, use_running_average=False).init(jax.random.key(0), jnp.ones((3, 4)))
