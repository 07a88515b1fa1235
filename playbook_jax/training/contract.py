"""The contract between the program and a workload, checked once, before anything compiles.

By shapes alone: the methods are traced, nothing is computed. What breaks the contract is said in a line
that names the workload's class and method. The same traces note which hparams are read, see reading.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from playbook_jax.errors import InputError, UsageError, refusing
from playbook_jax.input import split_checks, splits
from playbook_jax.runtime import parallel
from playbook_jax.training import reading
from playbook_jax.workload import Workload

_EXAMPLES = 3  # that evaluations are traced with: unlike most other sizes


def variables(workload: Workload) -> dict[str, Any]:
    """Returns the shapes of what `init` gives.

    Raises:
      UsageError: it fails, or gives no parameters that can be trained.
    """
    where = f"{type(workload).__name__}.init"
    with refusing(where):
        found = jax.eval_shape(workload.init, jax.random.key(0))
    if not isinstance(found, Mapping) or "params" not in found:
        raise UsageError(
            f"{where} must return {{'params': …}}, with 'batch_stats' where the model keeps some"
        )
    if not jax.tree.leaves(found["params"]):
        raise UsageError(f"{where} returns no parameters")
    for path, leaf in jax.tree.flatten_with_path(found["params"])[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UsageError(f"{where}: params/{name} is {leaf.dtype}, which cannot be trained")
    for leaf in jax.tree.leaves(found.get("batch_stats", {})):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise UsageError(f"{where}: a key in batch_stats must be kept as jax.random.key_data")
    return found


def check_training(
    workload: Workload,
    variables: Mapping[str, Any],
    one: splits.Arrays,
    names: Iterable[str],
    size: int,
) -> set[str]:
    """Traces the loss of a training step on all devices; returns the hparams that it reads.

    Args:
      workload: the workload.
      variables: the shapes that `variables` gave.
      one: arrays of one example.
      names: of the hparams.
      size: the batch of one device.

    Raises:
      UsageError: `apply` or `loss` fails, or returns what it must not.
    """
    name, read = type(workload).__name__, set()
    given = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    def loss(given: Any, batch: Any, hparams: Any) -> Any:
        rngs = {"dropout": jax.random.key(0), "augment": jax.random.key(1)}
        hparams = reading.Noted(hparams, read)
        outputs, batch_stats = _apply(workload, given, batch, hparams, rngs, True)
        _check_batch_stats(f"{name}.apply", given["batch_stats"], batch_stats)
        with refusing(f"{name}.loss"):
            pair = workload.loss(outputs, batch, hparams)
        _check_pair(f"{name}.loss", pair, size)
        return pair[0]

    devices = parallel.all_devices_count()
    batch = {
        key: jax.ShapeDtypeStruct((devices, size, *x.shape[1:]), x.dtype) for key, x in one.items()
    }
    parallel.check_shapes(loss, (None, 0, None), given, batch, reading.scalars(names))
    return read


def check_evaluation(
    workload: Workload, variables: Mapping[str, Any], one: splits.Arrays, names: Iterable[str]
) -> tuple[list[str], Any, set[str]]:
    """Traces an evaluation; returns the metrics' names, the outputs' shapes, the hparams that it reads.

    Raises:
      UsageError: `apply` or `metrics` fails, or returns what it must not.
    """
    where, read = f"{type(workload).__name__}.metrics", set()

    def evaluate(given: Any, batch: Any, hparams: Any) -> Any:
        outputs, _ = _apply(workload, given, batch, reading.Noted(hparams, read), {}, False)
        with refusing(where):
            metrics = workload.metrics(outputs, batch)
        if not isinstance(metrics, Mapping) or "loss" not in metrics:
            raise UsageError(f"{where} must return pairs by name, 'loss' among them")
        for key, pair in metrics.items():
            _check_pair(f"{where}: {key!r}", pair, _EXAMPLES)
        return {key: pair[0] for key, pair in metrics.items()}, outputs

    given = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    batch = {
        key: jax.ShapeDtypeStruct((_EXAMPLES, *x.shape[1:]), x.dtype) for key, x in one.items()
    }
    metrics, outputs = jax.eval_shape(evaluate, given, batch, reading.scalars(names))
    return sorted(metrics), outputs, read


def _apply(
    workload: Workload, given: Any, batch: Any, hparams: Any, rngs: Any, train: bool
) -> tuple[Any, Any]:
    where = f"{type(workload).__name__}.apply"
    with refusing(where):
        result = workload.apply(given, batch, hparams, rngs, train=train)
    if not isinstance(result, tuple) or len(result) != 2:
        raise UsageError(
            f"{where} must return a pair, the outputs and the new batch statistics ({{}} where the model "
            f"keeps none); it returns a {split_checks.kind(result)}"
        )
    return result


def _check_batch_stats(where: str, old: Any, new: Any) -> None:
    before, after = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): (x.shape, x.dtype)
            for path, x in jax.tree.flatten_with_path(tree)[0]
        }
        for tree in (old, new)
    )
    if before and not after:
        raise UsageError(
            f"{where} returns no batch statistics in training, though init has some: flax returns them "
            "where mutable=['batch_stats'], and apply as the second of its pair"
        )
    for path in (*before, *after):
        if before.get(path) != after.get(path):
            raise UsageError(
                f"{where} must return the batch statistics of init anew; {path} is "
                f"{split_checks.described(before.get(path))} there and "
                f"{split_checks.described(after.get(path))} after a step"
            )


def _check_pair(where: str, pair: Any, size: int) -> None:
    """Checks a numerator and a denominator, of which each is to have one number an example."""
    must = f"must be a numerator and a denominator for each example, both of shape [{size}] here"
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        shape = f" of shape {list(pair.shape)}" if hasattr(pair, "shape") else ""
        raise UsageError(f"{where} {must}; it is a {split_checks.kind(pair)}{shape}")
    shapes = [list(np.shape(x)) for x in pair]
    if shapes != [[size], [size]]:
        raise UsageError(f"{where} {must}; they are of shapes {shapes[0]} and {shapes[1]}")
    if not jnp.issubdtype(jnp.result_type(pair[0]), jnp.floating) and "loss" in where:
        raise UsageError(f"{where} {must}, and floating; the numerator is {pair[0].dtype}")


def check_labels(workload: Workload, outputs: Any, arrays: Mapping[str, splits.Split]) -> None:
    """Finds a label that is none of the classes of the logits, where the loss counts it nevertheless.

    Where a workload says nothing of its `ranges`, its `label` has the shape of its outputs without their
    last axis. A loss may leave such examples out, by a denominator of zero.

    Raises:
      InputError: there is one; says which.
    """
    for split in ("train", "validation"):
        data = arrays[split]
        label = data.get("label") if isinstance(data, Mapping) else None
        if label is None or "label" in workload.ranges() or label.dtype.kind not in "iu":
            return
        shape = getattr(outputs, "shape", ())
        if not shape or shape[1:-1] != label.shape[1:]:
            return
        wrong = np.argwhere((label < 0) | (label >= shape[-1]))
        if not len(wrong):
            continue
        example = int(wrong[0][0])
        batch = {name: x[example : example + 1] for name, x in data.items()}
        logits = jnp.zeros((1, *shape[1:]), outputs.dtype)
        numerator, denominator = (np.asarray(x) for x in workload.metrics(logits, batch)["loss"])
        if not np.isfinite(numerator).all() or (label.ndim == 1 and denominator.any()):
            raise InputError(
                f"example {example} of {split}: label is {label[tuple(wrong[0])]}; the outputs of "
                f"{type(workload).__name__}.apply are of {shape[-1]} classes, so it must be from 0 to "
                f"{shape[-1] - 1}"
            )
