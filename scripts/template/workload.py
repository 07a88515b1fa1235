"""What the data are, and where they come from."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from playbook_jax import layers, losses
from playbook_jax.layers import Dropout
from playbook_jax.workload import PerExample, Workload

FEATURES, CLASSES = 20, 5


class Model(nn.Module):
    """Fully connected layers with a norm and dropout; its attributes are `config.model`."""

    hidden_sizes: tuple[int, ...]
    norm: str
    virtual_batch_size: int
    dtype: str

    @nn.compact
    def __call__(self, x: Any, dropout_rate: Any, train: bool) -> Any:
        """Returns logits [batch, CLASSES] for `x` [batch, FEATURES]."""
        dtype = layers.dtype(self.dtype)
        size = self.virtual_batch_size
        for width in self.hidden_sizes:
            x = nn.Dense(width, dtype=dtype)(x)
            x = layers.make_norm(self.norm, train=train, virtual_batch_size=size, dtype=dtype)(x)
            x = Dropout(deterministic=not train)(nn.relu(x), dropout_rate)
        return nn.Dense(CLASSES, dtype=dtype)(x)


class NewWorkload(Workload):
    """Which input is to give which answer."""

    def __init__(self, config: Any) -> None:
        """Builds the model from the static part of the config."""
        super().__init__(config)
        self.model = layers.from_config(Model, config.model)

    def splits(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns the arrays of each split, the first axis the examples."""
        # Made up, so that this trains as it stands: your data go here, under any names. Do not let
        # the split depend on config.seed, or trials with other seeds could not be compared.
        rng = np.random.default_rng(0)
        x = rng.normal(size=(6_000, FEATURES)).astype(np.float32)
        hidden = np.tanh(x @ rng.normal(size=(FEATURES, 10)))
        label = np.argmax(hidden @ rng.normal(size=(10, CLASSES)), axis=1).astype(np.int32)
        rows = {
            "train": slice(4_000),
            "validation": slice(4_000, 5_000),
            "test": slice(5_000, None),
        }
        return {name: {"x": x[part], "label": label[part]} for name, part in rows.items()}

    def init(self, rng: Any) -> dict[str, Any]:
        """Returns freshly drawn parameters, and batch statistics where the norm keeps some."""
        return self.model.init(rng, jnp.zeros((1, FEATURES)), 0.0, train=False)

    def apply(
        self, variables: Any, batch: Any, hparams: Any, rngs: Any, train: bool
    ) -> tuple[Any, Any]:
        """Returns logits [batch, CLASSES] and the new batch statistics."""
        arguments = variables, batch["x"], hparams["dropout_rate"], train
        mutable = ["batch_stats"] if train else []
        logits, updated = self.model.apply(*arguments, rngs=rngs, mutable=mutable)
        return logits, updated.get("batch_stats", {})

    def loss(self, outputs: Any, batch: Any, hparams: Any) -> PerExample:
        """Returns what training minimizes: a numerator and a denominator for each example."""
        return losses.cross_entropy(outputs, batch["label"], hparams["label_smoothing"])

    def metrics(self, outputs: Any, batch: Any) -> dict[str, PerExample]:
        """Returns what evaluations report, in the same form."""
        # Which number would tell, where the model is to be used, whether it does well? Add it here and
        # name it in config.checkpoint.metric: all that is tuned from now on is chosen by it.
        return {
            "loss": losses.cross_entropy(outputs, batch["label"]),
            "error_rate": losses.error_rate(outputs, batch["label"]),
        }

    def predictions(self, outputs: Any, batch: Any) -> dict[str, Any]:
        """Returns what scripts/evaluate.py saves of each example."""
        return {"prediction": jnp.argmax(outputs, axis=-1), "label": batch["label"]}
