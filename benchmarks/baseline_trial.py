#!/usr/bin/env python3
"""One training run as people write it today; `benchmarks/baseline_study.py` starts one process for each.

Flax, optax, tf.data and clu in the manner of flax's examples: a jitted train step that takes over its
state, metrics gathered on the device and written every 100 steps, `ReportProgress` as a hook, the
evaluation every 100 steps, a checkpoint at the end. It shares no code with `playbook_jax`, so that
`benchmarks/benchmark.py` has something to compare it with.
"""

import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, flags
from clu import metric_writers, periodic_actions
from flax.training import checkpoints, train_state
from sklearn import datasets

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Where events and the checkpoint go.", required=True)
flags.DEFINE_integer("steps", 1_000, "How many updates.")
flags.DEFINE_integer("batch_size", 128, "The batch size.")
flags.DEFINE_list("hidden_sizes", ["128", "128"], "The widths of the hidden layers.")
flags.DEFINE_integer("eval_every_steps", 100, "Steps between evaluations, and between log lines.")
flags.DEFINE_float("learning_rate", 0.1, "The first learning rate; it decays by a cosine.")
flags.DEFINE_float("momentum", 0.9, "Nesterov momentum.")
flags.DEFINE_float("weight_decay", 1e-4, "L2 regularization.")
flags.DEFINE_float("clip_norm", 1.0, "The largest norm of the gradient.")
flags.DEFINE_integer("seed", 0, "The random seed.")

Batch = dict[str, np.ndarray]


class MLP(nn.Module):
    """Fully connected layers with ReLU."""

    hidden_sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits [batch, 10] for images [batch, 8, 8, 1]."""
        x = x.reshape(x.shape[0], -1)
        for size in self.hidden_sizes:
            x = nn.relu(nn.Dense(size)(x))
        return nn.Dense(10)(x)


def load_splits() -> tuple[Batch, Batch]:
    """Returns the training and the validation set of the handwritten digits."""
    images, labels = datasets.load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)
    arrays = {"image": images, "label": labels.astype(np.int32)}
    # As workloads/digits.py deals them out: a sixth each to the test and the validation set.
    part = np.arange(len(labels)) % 6
    train, validation = ({k: x[rows] for k, x in arrays.items()} for rows in (part > 1, part == 1))
    return train, validation


def train_batches(arrays: Batch) -> Iterator[Batch]:
    """Returns endless batches, shuffled, prefetched by tf.data."""
    dataset = tf.data.Dataset.from_tensor_slices(arrays)
    dataset = dataset.shuffle(len(arrays["label"]), seed=FLAGS.seed).repeat()
    dataset = dataset.batch(FLAGS.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return iter(tfds.as_numpy(dataset))


def create_state() -> train_state.TrainState:
    """Returns the initial parameters with their optimizer."""
    model = MLP(tuple(int(size) for size in FLAGS.hidden_sizes))
    params = model.init(jax.random.key(FLAGS.seed), jnp.zeros((1, 8, 8, 1)))["params"]
    optimizer = optax.chain(
        optax.clip_by_global_norm(FLAGS.clip_norm),
        optax.add_decayed_weights(FLAGS.weight_decay),
        optax.sgd(
            optax.cosine_decay_schedule(FLAGS.learning_rate, FLAGS.steps),
            momentum=FLAGS.momentum,
            nesterov=True,
        ),
    )
    return train_state.TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)


def _metrics(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
    return {"loss": loss, "error_rate": jnp.mean(jnp.argmax(logits, -1) != batch["label"])}


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state: train_state.TrainState, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
    """Returns the state after one update, and the batch's metrics."""

    def loss_function(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        metrics = _metrics(state.apply_fn({"params": params}, batch["image"]), batch)
        return metrics["loss"], metrics

    (_, metrics), gradients = jax.value_and_grad(loss_function, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients), metrics


@jax.jit
def eval_step(state: train_state.TrainState, batch: Batch) -> dict[str, jax.Array]:
    """Returns the metrics of a batch."""
    return _metrics(state.apply_fn({"params": state.params}, batch["image"]), batch)


def main(argv: list[str]) -> None:
    del argv
    tf.config.set_visible_devices([], "GPU")
    train, validation = load_splits()
    batches = train_batches(train)
    state = create_state()
    writer = metric_writers.create_default_writer(FLAGS.workdir, asynchronous=False)
    report_progress = periodic_actions.ReportProgress(num_train_steps=FLAGS.steps, writer=writer)
    history: list[dict[str, jax.Array]] = []
    with metric_writers.ensure_flushes(writer):
        for step in range(1, FLAGS.steps + 1):
            state, metrics = train_step(state, next(batches))
            history.append(metrics)
            report_progress(step)
            if step % FLAGS.eval_every_steps == 0 or step == FLAGS.steps:
                columns = jax.device_get(history)
                means = {name: np.mean([m[name] for m in columns]) for name in metrics}
                history.clear()
                evaluated = jax.device_get(eval_step(state, validation))
                writer.write_scalars(step, {f"train/{k}": float(v) for k, v in means.items()})
                writer.write_scalars(
                    step, {f"validation/{k}": float(v) for k, v in evaluated.items()}
                )
    checkpoints.save_checkpoint(FLAGS.workdir, jax.device_get(state), FLAGS.steps, overwrite=True)


if __name__ == "__main__":
    app.run(main)
