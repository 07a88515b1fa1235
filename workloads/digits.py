"""The handwritten digits that ship inside scikit-learn: 1,797 grey images of 8 × 8 pixels.

A part of the "Optical Recognition of Handwritten Digits" data set (E. Alpaydin, C. Kaynak, 1998).
"""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from playbook_jax import augmentation, layers, losses
from playbook_jax.errors import unknown
from playbook_jax.layers import Dropout, Residual
from playbook_jax.workload import Workload

CLASSES = 10


@functools.cache
def load() -> dict[str, dict[str, np.ndarray]]:
    """Returns images (uint8 from 0 to 16, [n, 8, 8, 1]) and labels (int32, [n]) of each split."""
    # The file is read without importing scikit-learn, which would take two seconds.
    root = importlib.util.find_spec("sklearn").submodule_search_locations[0]
    table = np.loadtxt(Path(root) / "datasets" / "data" / "digits.csv.gz", np.uint8, delimiter=",")
    data = {"image": table[:, :64].reshape(-1, 8, 8, 1), "label": table[:, 64].astype(np.int32)}
    # The file goes writer by writer, so dealing its rows out gives each split all of them.
    part = np.arange(len(table)) % 6
    rows = {"test": part == 0, "validation": part == 1, "train": part > 1}
    return {name: {key: x[chosen] for key, x in data.items()} for name, chosen in rows.items()}


class MLP(nn.Module):
    """Fully connected layers with an activation and dropout."""

    hidden_sizes: tuple[int, ...]
    activation: str = "relu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Any, dropout_rate: Any, train: bool) -> Any:
        """Returns logits [batch, CLASSES] for images [batch, 8, 8, 1] between -1 and 1."""
        dtype = layers.dtype(self.dtype)
        act = layers.activation(self.activation)
        x = images.reshape(images.shape[0], -1)
        for size in self.hidden_sizes:
            x = act(nn.Dense(size, dtype=dtype)(x))
            x = Dropout(deterministic=not train)(x, dropout_rate)
        return nn.Dense(CLASSES, dtype=dtype)(x)


class CNN(nn.Module):
    """A small residual network (https://arxiv.org/abs/1603.05027): a block for each entry of `channels`.

    Each stage but the first halves height and width.
    """

    channels: tuple[int, ...]
    norm: str = "batch"
    virtual_batch_size: int | None = None
    norm_placement: str = "pre"
    zero_init_residual: bool = False
    activation: str = "relu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Any, dropout_rate: Any, train: bool) -> Any:
        """Returns logits [batch, CLASSES] for images [batch, 8, 8, 1] between -1 and 1."""
        dtype = layers.dtype(self.dtype)
        act = layers.activation(self.activation)
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), dtype=dtype)
        norm = functools.partial(
            layers.make_norm,
            self.norm,
            train=train,
            virtual_batch_size=self.virtual_batch_size,
            dtype=dtype,
        )
        x = images
        for stage, channels in enumerate(self.channels):
            x = conv(channels, strides=min(stage + 1, 2))(x)

            def branch(y: Any, channels: int = channels) -> Any:
                y = conv(channels)(act(y))
                return conv(channels)(act(norm()(y)))

            x = Residual(norm, self.norm_placement, self.zero_init_residual)(x, branch)
        if self.norm_placement != "post":
            x = norm()(x)
        x = act(x).reshape(x.shape[0], -1)
        x = Dropout(deterministic=not train)(x, dropout_rate)
        return nn.Dense(CLASSES, dtype=dtype)(x)


MODELS = {"mlp": MLP, "cnn": CNN}


class Digits(Workload):
    """Classification of the digits by an MLP or a CNN."""

    def __init__(self, config: Any) -> None:
        """Builds the model that `config.model.name` names, the other keys its fields."""
        super().__init__(config)
        fields = dict(config.model)
        name = fields.pop("name")
        if name not in MODELS:
            raise unknown("model of the workload digits", name, MODELS)
        self.model = layers.from_config(MODELS[name], fields)

    def splits(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns images (uint8 from 0 to 16, [n, 8, 8, 1]) and labels (int32, [n])."""
        return load()

    def ranges(self) -> dict[str, int]:
        """Returns how many classes there are."""
        return {"label": CLASSES}

    def init(self, rng: Any) -> dict[str, Any]:
        """Returns freshly drawn parameters."""
        return self.model.init(rng, jnp.zeros((1, 8, 8, 1)), 0.0, train=False)

    def apply(
        self, variables: Any, batch: Any, hparams: Any, rngs: Any, train: bool
    ) -> tuple[Any, Any]:
        """Returns logits [batch, CLASSES] and the new batch statistics."""
        images = batch["image"].astype(jnp.float32) / 8 - 1
        if train and "max_shift" in hparams:
            images = augmentation.random_shift(
                rngs["augment"], images, hparams["max_shift"], fill=-1.0
            )
        logits, updated = self.model.apply(
            variables,
            images,
            hparams.get("dropout_rate", 0.0),
            train,
            rngs=rngs,
            mutable=["batch_stats"] if train else [],
        )
        return logits, updated.get("batch_stats", {})

    def loss(self, outputs: Any, batch: Any, hparams: Any) -> Any:
        """Returns the cross-entropy with label smoothing."""
        return losses.cross_entropy(outputs, batch["label"], hparams["label_smoothing"])

    def metrics(self, outputs: Any, batch: Any) -> dict[str, Any]:
        """Returns the cross-entropy and the misclassification rate."""
        return {
            "loss": losses.cross_entropy(outputs, batch["label"]),
            "error_rate": losses.error_rate(outputs, batch["label"]),
        }

    def predictions(self, outputs: Any, batch: Any) -> dict[str, Any]:
        """Returns the predicted class, its probability, and the label."""
        probability = jnp.max(jax.nn.softmax(outputs), axis=-1)
        return {
            "prediction": jnp.argmax(outputs, axis=-1),
            "probability": probability,
            "label": batch["label"],
        }
