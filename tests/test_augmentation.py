import jax
import jax.numpy as jnp
import numpy as np
import pytest

from playbook_jax import augmentation
from playbook_jax.training import loop, program
from tests import small

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(600, 5, 6, 2)).astype(np.float32)


def moved(image, down, right, fill):
    """The image moved by a NumPy loop over its pixels."""
    height, width, _ = image.shape
    result = np.full_like(image, fill)
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[row, column] = image[row - down, column - right]
    return result


@pytest.mark.playbook("traced-augmentation")
def test_images_are_moved_by_whole_pixels_each_shift_as_likely():
    result = np.asarray(jax.jit(augmentation.random_shift)(KEY, IMAGES, 1.0, -7.0))
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    found = []
    for before, after in zip(IMAGES, result, strict=True):
        (shift,) = [s for s in shifts if np.array_equal(moved(before, *s, -7.0), after)]
        found.append(shift)
    counts = [found.count(shift) for shift in shifts]
    # 600 draws of nine equally likely shifts: chi-squared of 8 degrees of freedom, 26.1 at 0.1 %.
    assert sum((count - 600 / 9) ** 2 / (600 / 9) for count in counts) < 26.1


@pytest.mark.playbook("traced-augmentation")
def test_strength_zero_changes_nothing_and_no_strength_compiles_again():
    traces = []

    def counted(*arguments):
        traces.append(arguments)
        return augmentation.random_shift(*arguments)

    shift, noise = jax.jit(counted), jax.jit(augmentation.gaussian_noise)
    np.testing.assert_array_equal(shift(KEY, IMAGES, 0.0), IMAGES)
    np.testing.assert_array_equal(noise(KEY, IMAGES, 0.0), IMAGES)
    assert not np.array_equal(shift(KEY, IMAGES, 2.0), IMAGES)
    assert not np.array_equal(shift(jax.random.key(1), IMAGES, 2.0), shift(KEY, IMAGES, 2.0))
    assert len(traces) == 1


def test_noise_has_the_standard_deviation():
    change = np.asarray(augmentation.gaussian_noise(KEY, jnp.asarray(IMAGES), 0.5)) - IMAGES
    # 36,000 values: the estimate's own standard deviation is 0.5 / √72,000, four of them are granted.
    assert abs(change.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * IMAGES.size)
    assert abs(change.mean()) < 4 * 0.5 / np.sqrt(IMAGES.size)


@pytest.mark.playbook("traced-augmentation")
def test_digits_are_moved_in_training_alone(tmp_path):
    values = {"max_train_steps": 20, "eval_every_steps": 20}
    config = small.shrunk(small.ROOT / "configs" / "digits_cnn.py", **values)
    plain = loop.validate(config)
    with config.unlocked():
        config.hparams.max_shift = 2.0
    shifted = loop.validate(config)
    assert program.get(plain) is program.get(shifted)  # compiled once for both
    workload = program.get(plain).workload
    variables = workload.init(KEY)
    batch = {name: x[:64] for name, x in workload.splits()["train"].items()}
    rngs = {"dropout": KEY, "augment": jax.random.key(1)}

    def outputs(config, rngs):
        hparams = {name: np.float32(value) for name, value in config.hparams.items()}
        return jax.vmap(
            lambda b: workload.apply(variables, b, hparams, rngs, train=bool(rngs))[0],
            axis_name="batch",
        )(jax.tree.map(lambda x: x[None], batch))

    assert not np.array_equal(outputs(plain, rngs), outputs(shifted, rngs))
    np.testing.assert_array_equal(outputs(plain, {}), outputs(shifted, {}))
