#!/usr/bin/env python3
"""Measures how many examples a second a config's input gives, and where their time goes.

    benchmarks/input.py --config=configs/digits_tfds.py
    benchmarks/input.py --config=configs/digits_tfds.py --config.dataset.shift=0

stages    of streamed records: each line does what the one before does, and more; the difference is
          what that costs, with all cores at work
sources   each way of getting batches to the device that the workload allows, against "memory" where
          that is one (augmentation while streaming excludes it)

Nothing trains meanwhile, so this is the most that there can be. A run writes what it really gets, and how
long it waits, into timing.jsonl. Medians of --rounds turns with all of them, with the range.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from benchmarks import benchmarking
from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line

FLAGS = flags.FLAGS
flags.DEFINE_integer("examples", 20_000, "How many examples each measurement takes, about.")
flags.DEFINE_integer("rounds", 5, "How often each thing is measured.")

Measured = Callable[[], Iterator[int]]  # yields how many examples are through, without end


def stages(config: Any) -> dict[str, Measured]:
    """Returns the stages of streamed records, one more in each."""
    from playbook_jax import workload as workload_lib
    from playbook_jax.input import pipeline as pipeline_lib, streaming
    from playbook_jax.lazy_tensorflow import import_tensorflow

    tf = import_tensorflow()
    workload = workload_lib.find(config.workload)(config)
    train = pipeline_lib.TfdsSource.read(workload)["train"]
    buffer = config.dataset.get("shuffle_buffer", streaming.SHUFFLE_BUFFER)
    shard = streaming.make_shard(train, config.seed, 0, 1, config.batch_size, buffer)
    size = config.batch_size

    def counted(dataset: Any) -> Iterator[int]:
        return (size for _ in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator())

    def records() -> Any:
        return streaming.shuffled_records(shard, 0)

    def mapped(function: Callable) -> Any:
        return (
            records()
            .enumerate()
            .map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        )

    found: dict[str, Measured] = {
        "reading and shuffling": lambda: counted(records().batch(size)),
        "and decoding": lambda: counted(
            mapped(lambda position, record: shard.split.decoded(record)).batch(size)
        ),
    }
    if train.records.augment:
        found["and augmenting"] = lambda: counted(
            mapped(
                lambda position, record: shard.split.trained(
                    record, shard.augmentation_seed(position)
                )
            ).batch(size)
        )
    found["and going to the device"] = lambda: source(config, "tfds")
    return found


def sources(config: Any) -> dict[str, Measured]:
    """Returns the sources that the workload allows, each as far as the device."""
    from playbook_jax.training import loop as loop_lib

    found: dict[str, Measured] = {}
    for name, changes in (
        ("memory", {"dataset.source": "memory"}),
        ("tf_data", {"dataset.source": "tf_data"}),
        ("tfds, dataset.cache", {"dataset.source": "tfds", "dataset.cache": True}),
        ("tfds", {"dataset.source": "tfds"}),
    ):
        try:
            changed = loop_lib.validate(config_lib.override(config, changes))
        except UsageError as error:
            print(f"  {name}: {error}")
        else:
            found[name] = lambda changed=changed: source(changed, changed.dataset.source)
    return found


def source(config: Any, name: str) -> Iterator[int]:
    """Yields how many examples of a source have come to the devices, as batches."""
    import jax

    from playbook_jax.input import pipeline as pipeline_lib
    from playbook_jax.runtime import parallel
    from playbook_jax.training import program as program_lib

    program = program_lib.get(config)
    made = pipeline_lib.make_source(config, program.workload, program.arrays["train"])
    gather = parallel.on_devices(pipeline_lib.source_class(name).gather, (0, 0))
    waiting: list[Any] = []
    for step in itertools.count():
        fed = jax.tree.map(lambda x: parallel.split(x[0]), made.feed(step, 1))
        waiting.append(gather(program.resident, fed))
        if len(waiting) > 2:  # as in a run, the next batch goes while this one is used
            jax.block_until_ready(waiting.pop(0))
        yield config.batch_size


def seconds_per_example(made: Measured) -> float:
    """Returns the time of an example, once the pipeline flows."""
    progress = made()
    next(progress)
    start, done = time.perf_counter(), 0
    while done < FLAGS.examples:
        done += next(progress)
    return (time.perf_counter() - start) / done


def show(all_made: dict[str, Measured]) -> None:
    """Prints the rates of all, and how each compares with the first."""
    times: dict[str, list[float]] = {name: [] for name in all_made}
    for turn in range(FLAGS.rounds):
        for name in sorted(all_made, reverse=turn % 2 == 1):
            times[name].append(seconds_per_example(all_made[name]))
    first = next(iter(times.values()), [])
    for name, found in times.items():
        ratios = sorted(a / b for a, b in zip(found, first, strict=True))
        print(
            f"  {name:<26} {1 / statistics.median(found):>12,.0f} examples/s  "
            f"{statistics.median(found) * 1e6:>8.2f} µs each  "
            f"{benchmarking.number(statistics.median(ratios))} of the first "
            f"({benchmarking.number(ratios[0])} to {benchmarking.number(ratios[-1])})"
        )


def main(argv: list[str]) -> int:
    del argv
    if min(FLAGS.rounds, FLAGS.examples) < 1:
        raise UsageError("--rounds and --examples must each be at least 1")
    from playbook_jax.runtime import compilation_cache
    from playbook_jax.training import loop as loop_lib

    compilation_cache.enable()
    benchmarking.say_where()
    config = loop_lib.validate(FLAGS.config)
    if config.dataset.source == "tfds":
        print("Stages of streaming:")
        show(stages(config))
    print(f"Sources, batches of {config.batch_size} on the device:")
    show(sources(config))
    return 0


if __name__ == "__main__":
    command_line.run(main, config_flag=True)
