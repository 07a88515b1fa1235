"""The text of Python's standard library, byte by byte, and a transformer that predicts the next one.

The data are the interpreter's own .py files, so there is nothing to download, and machines with the same
version of Python have the same. A file belongs to one split, by a hash of its path.
"""

import functools
import hashlib
import os
import re
import sysconfig
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from playbook_jax import layers, losses
from playbook_jax.errors import UsageError, unknown
from playbook_jax.layers import Dropout, Residual
from playbook_jax.workload import PerExample, Workload

BYTES = 256
# Stands before a file's first byte and fills up its last example. Source files do not contain it.
NO_BYTE = 0
POSITIONS = ("rotary", "learned")

# Installed later, or made for one machine, or tests, which some distributions leave out.
_NOT_THE_LIBRARY = re.compile(
    r"(site-packages|dist-packages|tests?|idle_test)$|config-|_sysconfigdata|sitecustomize"
)


def split_of(path: str) -> str:
    """Returns the split of a file, by its path in the library: 80 % train, 10 % each of the others."""
    number = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") % 10
    return {0: "test", 1: "validation"}.get(number, "train")


@functools.cache
def texts(root: Path) -> dict[str, dict[str, bytes]]:
    """Returns each split's files below `root`: {split: {path: text}}, in the order of the paths.

    Raises:
      UsageError: a split has no files.
    """
    splits: dict[str, dict[str, bytes]] = {"train": {}, "validation": {}, "test": {}}
    found = {}
    for place, directories, names in os.walk(root):
        directories[:] = [name for name in directories if not _NOT_THE_LIBRARY.match(name)]
        for name in names:
            if name.endswith(".py") and not _NOT_THE_LIBRARY.match(name):
                found[Path(place, name).relative_to(root).as_posix()] = Path(place, name)
    for path, file in sorted(found.items()):
        text = file.read_bytes().replace(b"\r\n", b"\n")
        splits[split_of(path)] |= {path: text} if text else {}
    if not all(splits.values()):
        raise UsageError(
            f"the workload stdlib_lm reads the .py files of Python's standard library, and {root} "
            f"holds {len(found)} of them; use a Python that was installed with its sources"
        )
    return splits


def _examples(text: bytes, length: int) -> np.ndarray:
    """Returns a text as examples [n, length + 1] in which each byte is predicted exactly once."""
    stream = np.full(-(-len(text) // length) * length + 1, NO_BYTE, np.uint8)
    stream[1 : len(text) + 1] = np.frombuffer(text, np.uint8)
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[::length]


def rotate(x: Any) -> Any:
    """Returns [batch, length, heads, size] with each pair of features turned in proportion to its position.

    Afterwards the product of a query and a key depends on how far they are apart, not on where they
    are (RoPE, https://arxiv.org/abs/2104.09864).
    """
    length, size = x.shape[1], x.shape[3]
    frequency = 10_000.0 ** (-jnp.arange(0, size, 2) / size)
    angle = jnp.arange(length)[:, None, None] * frequency  # [length, 1, size / 2]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class Transformer(nn.Module):
    """A causal transformer (https://arxiv.org/abs/1706.03762); its attributes are `config.model`."""

    num_layers: int
    embedding_size: int
    num_heads: int
    feed_forward_size: int
    positions: str = "rotary"
    tied_embeddings: bool = True
    norm: str = "layer"
    norm_placement: str = "pre"
    zero_init_residual: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, text: Any, dropout_rate: Any, train: bool) -> Any:
        """Returns logits [batch, length, BYTES] of what follows each byte of `text` [batch, length]."""
        dtype = layers.dtype(self.dtype)
        dense = functools.partial(nn.DenseGeneral, use_bias=False, dtype=dtype)
        norm = functools.partial(layers.make_norm, self.norm, train=train, dtype=dtype)
        dropout = Dropout(deterministic=not train)

        def attention(x: Any) -> Any:
            shape = (3, self.num_heads, self.embedding_size // self.num_heads)
            query, key, value = jnp.moveaxis(dense(shape)(x), -3, 0)
            if self.positions == "rotary":
                query, key = rotate(query), rotate(key)
            x = jax.nn.dot_product_attention(query, key, value, is_causal=True)
            return dropout(dense(self.embedding_size, axis=(-2, -1))(x), dropout_rate)

        def feed_forward(x: Any) -> Any:
            x = nn.gelu(dense(self.feed_forward_size)(x))
            return dropout(dense(self.embedding_size)(x), dropout_rate)

        embed = nn.Embed(BYTES, self.embedding_size, dtype=dtype)
        x = embed(text)
        if self.positions == "learned":
            shape = (text.shape[1], self.embedding_size)
            x += self.param("positions", nn.initializers.normal(0.02), shape).astype(dtype)
        for branch in (attention, feed_forward) * self.num_layers:
            x = Residual(norm, self.norm_placement, self.zero_init_residual)(x, branch)
        if self.norm_placement != "post":
            x = norm()(x)
        return embed.attend(x) if self.tied_embeddings else dense(BYTES)(x)


class StdlibLM(Workload):
    """Prediction of the next byte."""

    def __init__(self, config: Any) -> None:
        """Builds the transformer from `config.model`."""
        super().__init__(config)
        self.model = layers.from_config(Transformer, config.model)
        if self.model.positions not in POSITIONS:
            raise unknown("model.positions", self.model.positions, POSITIONS)
        if self.model.norm == "batch":
            raise UsageError(
                "model.norm 'batch' would tell each byte about those after it; use 'layer' or 'none'"
            )
        if self.model.embedding_size % (2 * self.model.num_heads):
            raise UsageError("model.embedding_size must be a multiple of twice model.num_heads")
        if config.dataset.sequence_length < 1:
            raise UsageError("dataset.sequence_length must be at least 1")

    def splits(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns `bytes`, uint8 [n, sequence_length + 1]: each but the first is to be predicted."""
        dataset = self.config.dataset
        result = {}
        for name, files in texts(Path(sysconfig.get_path("stdlib"))).items():
            x = np.concatenate([_examples(t, dataset.sequence_length) for t in files.values()])
            limit = dataset.train_bytes if name == "train" else dataset.evaluation_bytes
            count = min(-(-limit // dataset.sequence_length), len(x)) if limit > 0 else len(x)
            result[name] = {"bytes": x[np.linspace(0, len(x), count, endpoint=False).astype(int)]}
        return result

    def init(self, rng: Any) -> dict[str, Any]:
        """Returns freshly drawn parameters."""
        text = jnp.zeros((1, self.config.dataset.sequence_length), jnp.uint8)
        return self.model.init(rng, text, 0.0, train=False)

    def apply(
        self, variables: Any, batch: Any, hparams: Any, rngs: Any, train: bool
    ) -> tuple[Any, Any]:
        """Returns logits [batch, sequence_length, BYTES]; there are no batch statistics."""
        text, rate = batch["bytes"][:, :-1], hparams.get("dropout_rate", 0.0)
        return self.model.apply(variables, text, rate, train, rngs=rngs), {}

    def loss(self, outputs: Any, batch: Any, hparams: Any) -> PerExample:
        """Returns the cross-entropy with label smoothing, in nats, and the number of bytes."""
        loss = losses.cross_entropy(outputs, batch["bytes"][:, 1:], hparams["label_smoothing"])
        return _sums(loss, batch)

    def metrics(self, outputs: Any, batch: Any) -> dict[str, PerExample]:
        """Returns nats a byte, the same in bits, and how often the likeliest byte is the wrong one."""
        targets = batch["bytes"][:, 1:]
        nats, count = _sums(losses.cross_entropy(outputs, targets), batch)
        return {
            "loss": (nats, count),
            "bits_per_byte": (nats / np.log(2), count),
            "error_rate": _sums(losses.error_rate(outputs, targets), batch),
        }

    def predictions(self, outputs: Any, batch: Any) -> dict[str, Any]:
        """Returns the likeliest next bytes, uint8 [batch, sequence_length], and the real ones."""
        likeliest = jnp.argmax(outputs, axis=-1)
        return {"next_bytes": likeliest.astype(jnp.uint8), "bytes": batch["bytes"][:, 1:]}


def _sums(pair: PerExample, batch: Any) -> PerExample:
    """Returns sums over the bytes of each example; what fills up a file's last one does not count."""
    counts = batch["bytes"][:, 1:] != NO_BYTE
    return tuple(jnp.sum(jnp.where(counts, x, 0), axis=1) for x in pair)
