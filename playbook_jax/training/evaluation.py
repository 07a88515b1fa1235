"""Evaluation: every example counts once, whatever the evaluation batch size.

Partial batches are padded with examples of weight zero (playbook, "Evaluating model performance"),
and metrics are summed as numerators and denominators before they are divided.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from playbook_jax.errors import UsageError
from playbook_jax.input import splits
from playbook_jax.input.tfrecords import RecordSplit
from playbook_jax.runtime import parallel
from playbook_jax.workload import Workload

Arrays = Mapping[str, np.ndarray]


def padded_batches(arrays: Arrays, batch_size: int) -> dict[str, np.ndarray]:
    """Returns `arrays` cut into batches for the devices, with a `weight` of 1, or 0 for padding.

    Args:
      arrays: of one split, the first axis the examples.
      batch_size: of all devices on all hosts together; smaller where the split is, and rounded up to
        a multiple of the devices.

    Returns:
      This host's part: arrays of shape [devices, batches, batch / all devices, …].
    """
    devices = parallel.all_devices_count()
    size = len(next(iter(arrays.values())))
    batch_size = -(-min(batch_size, size) // devices) * devices
    batches = -(-size // batch_size)
    # Padding repeats the last example, so that it can produce nothing that a real one cannot.
    rows = np.minimum(np.arange(batches * batch_size), size - 1)
    padded = {name: x[rows] for name, x in arrays.items()}
    padded["weight"] = (np.arange(len(rows)) < size).astype(np.float32)
    mine = parallel.host_part(batch_size)
    return {
        name: parallel.split(x.reshape(batches, batch_size, *x.shape[1:])[:, mine], axis=1)
        for name, x in padded.items()
    }


def train_sample(train: splits.Split, size: int) -> splits.Split:
    """Returns the fixed sample of the training set behind the periodic metrics `train/…`."""
    return splits.only(train, train_sample_numbers(train, size))


def train_sample_numbers(train: splits.Split, size: int) -> np.ndarray:
    """Returns which examples that sample consists of."""
    if isinstance(train, RecordSplit):
        return train.sample_numbers(size)
    return sample_numbers(size, splits.size(train))


def train_sample_size(config: ConfigDict, arrays: Mapping[str, splits.Split]) -> int:
    """Returns how large the sample of a run is; `arrays` has every split's."""
    return config.eval_train_examples or splits.size(arrays["validation"])


def sample_numbers(size: int, total: int) -> np.ndarray:
    """Returns which examples make up a sample of `size`, or all `total` where there are fewer."""
    return np.linspace(0, total, min(size, total), endpoint=False).astype(int)


def chosen_examples(chosen: int | Sequence[int], split: splits.Split) -> np.ndarray:
    """Returns the numbers of the examples that `config.save_predictions` chooses.

    Args:
      chosen: how many, evenly spaced, or which ones.
      split: whose examples these are.

    Raises:
      UsageError: it is neither, or a number is out of range.
    """
    total = splits.size(split)
    numbers = chosen if isinstance(chosen, tuple | list) else (chosen,)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
        raise UsageError(
            f"save_predictions must be a number of examples or a tuple of their numbers: {chosen!r}"
        )
    if not isinstance(chosen, tuple | list):
        return sample_numbers(chosen, total)
    if max(chosen, default=0) >= total:
        raise UsageError(
            f"save_predictions: there is no example {max(chosen)}; validation has 0 to {total - 1}"
        )
    return np.array(chosen, int)


def make_evaluate(workload: Workload) -> Callable[..., dict[str, Any]]:
    """Returns the function that adds one batch's metrics to their sums, over all devices.

    Its arguments: params; batch_stats; split, the arrays of `padded_batches`; index, which of the
    batches; hparams; sums so far, {metric: [numerator, denominator]} in float32.
    """

    def evaluate(
        params: Any,
        batch_stats: Any,
        split: Mapping[str, Any],
        index: Any,
        hparams: Mapping[str, Any],
        sums: Mapping[str, Any],
    ) -> dict[str, Any]:
        batch = {name: x[index] for name, x in split.items()}
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, _ = workload.apply(variables, batch, hparams, {}, train=False)
        counts = batch["weight"] > 0

        def total(pair: Any) -> Any:
            # `where`, not a product: a padded example's infinity must not turn into NaN.
            local = jnp.stack([jnp.sum(jnp.where(counts, x, 0)) for x in pair])
            return jax.lax.psum(local, parallel.AXIS)

        metrics = workload.metrics(outputs, batch)
        return {name: sums[name] + total(pair) for name, pair in metrics.items()}

    return evaluate


def make_predict(workload: Workload) -> Callable[..., dict[str, Any]]:
    """Returns the function that predicts one batch, the same result on all devices.

    Its arguments: variants, see `Program`; split, the arrays of `padded_batches`; index, which of the
    batches; hparams. It returns the workload's predictions of the whole batch by name, those of the
    averaged parameters with `polyak/` before the name.
    """

    def predict(
        variants: Mapping[str, Any], split: Mapping[str, Any], index: Any, hparams: Any
    ) -> dict[str, Any]:
        batch = {name: x[index] for name, x in split.items()}
        result = {}
        for variant, variables in variants.items():
            outputs, _ = workload.apply(variables, batch, hparams, {}, train=False)
            for name, x in workload.predictions(outputs, batch).items():
                result[variant + name] = jax.lax.all_gather(x, parallel.AXIS, tiled=True)
        return result

    return predict


def write_predictions(
    path: epath.Path, examples: np.ndarray, batches: Sequence[Mapping[str, Any]]
) -> None:
    """Writes predictions to an .npz file, and as `example` the numbers of the examples.

    Args:
      path: of the file; host 0 writes it.
      examples: their numbers.
      batches: what `make_predict` gave for each batch, as NumPy arrays; the last ones may be padding.
    """
    arrays = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(examples)], *batches)
    if parallel.host_index() == 0:
        write_arrays(path, {"example": examples, **arrays})


def write_arrays(path: epath.Path, arrays: Arrays) -> None:
    """Writes an .npz file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, **{name: plain(x) for name, x in arrays.items()})
    part.replace(path)


def plain(x: Any) -> np.ndarray:
    """Returns an array of a type that NumPy's files know: not bfloat16."""
    x = np.asarray(x)
    narrow = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    return x.astype(np.float32) if narrow else x


def check_predictions(workload: Workload, arrays: Arrays, variables: Any, hparams: Any) -> None:
    """Raises a UsageError if the workload predicts nothing that could be saved."""

    def predictions(variables: Any, batch: Any) -> Any:
        outputs, _ = workload.apply(variables, batch, hparams, {}, train=False)
        return workload.predictions(outputs, batch)

    batch = {name: x[:1] for name, x in arrays.items()}
    if not jax.eval_shape(predictions, variables, batch):
        raise UsageError(
            f"save_predictions: {type(workload).__name__} has no method `predictions` that gives some"
        )
