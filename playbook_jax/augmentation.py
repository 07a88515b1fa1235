"""Random changes of training images inside the compiled step, their strengths traced hyperparameters.

So a study sweeps them without compiling again. Decoding and cropping belong into the input pipeline.

    if train:
        images = augmentation.random_shift(rngs["augment"], images, hparams["max_shift"])
"""

from typing import Any

import jax
import jax.numpy as jnp


def random_shift(key: Any, images: Any, max_shift: Any, fill: float = 0.0) -> Any:
    """Returns each image moved by a whole number of pixels in either direction.

    Args:
      key: a key of this step and device.
      images: [batch, height, width, channels].
      max_shift: in pixels, rounded; each shift from −max_shift to max_shift is as likely. May be
        traced; 0 gives `images`.
      fill: of the pixels that no pixel has moved to.
    """
    most = jnp.round(jnp.asarray(max_shift, jnp.float32))
    drawn = jax.random.uniform(key, (2, images.shape[0]))
    shifts = (jnp.floor(drawn * (2 * most + 1)) - most).astype(jnp.int32)
    for axis, shift in zip((1, 2), shifts, strict=True):
        size = images.shape[axis]
        source = jnp.arange(size) - shift[:, None]
        shape = (images.shape[0], *(size if a == axis else 1 for a in (1, 2, 3)))
        inside = ((source >= 0) & (source < size)).reshape(shape)
        moved = jnp.take_along_axis(images, jnp.clip(source, 0, size - 1).reshape(shape), axis)
        images = jnp.where(inside, moved, jnp.asarray(fill, images.dtype))
    return images


def gaussian_noise(key: Any, images: Any, stddev: Any) -> Any:
    """Returns `images` with independent normal noise of this standard deviation, which may be traced."""
    noise = jax.random.normal(key, images.shape, images.dtype)
    return images + jnp.asarray(stddev, images.dtype) * noise
