"""Evaluation: every example counts once, whatever the evaluation batch size.

Partial batches are padded with examples of weight zero (playbook, "Evaluating model performance"),
and metrics are summed as numerators and denominators before they are divided.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from playbook_jax import parallel
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


def train_sample(arrays: Arrays, size: int) -> Arrays:
    """Returns the fixed sample of the training set behind the periodic metrics `train/…`.

    Evenly spaced, so that it does not depend on the seed and represents a sorted file too.
    """
    total = len(next(iter(arrays.values())))
    chosen = np.linspace(0, total, min(size, total), endpoint=False).astype(int)
    return {name: x[chosen] for name, x in arrays.items()}


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


def metric_names(workload: Workload, arrays: Arrays, params: Any, hparams: Any) -> list[str]:
    """Returns the names of the metrics that the workload reports, without computing any."""

    def metrics(params: Any, batch: Any) -> Any:
        outputs, _ = workload.apply(params, batch, hparams, {}, train=False)
        return workload.metrics(outputs, batch)

    batch = {name: x[:1] for name, x in arrays.items()}
    return sorted(jax.eval_shape(metrics, params, batch))
