"""What runs will take on disk, told beforehand.

Checkpoints are the larger part: the latest state and the N best (see checkpoints.py), and while a trial
runs one more of these to fall back on and one that is being written.
"""

import functools
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from playbook_jax import checkpoints, config as config_lib, trial
from playbook_jax.runtime import parallel
from playbook_jax.tracking import provenance
from playbook_jax.training import program

# Measured: names, shapes, types and places of each array, and the files of each save.
_BYTES_PER_ARRAY, _BYTES_PER_SAVE = 600, 8_000
_BYTES_PER_NUMBER = 40  # in a line of metrics.jsonl, with its name
_BYTES_PER_TRIAL = 110_000  # the smaller files; some thirty files and folders, each in whole blocks
_BYTES_OF_SOURCES = 20_000  # the texts of its workload and configs
_BYTES_PER_STUDY = 200_000  # its report, its table, the logs


def checkpoint_bytes(config: ConfigDict) -> int:
    """Returns what one checkpoint takes: the latest state and the N best, before compression.

    Args:
      config: a complete config, as `train.validate` returns it.
    """
    return _checkpoint_bytes(config_lib.static_part(config))


@functools.lru_cache(maxsize=1024)
def _checkpoint_bytes(static_part: str) -> int:
    # The traced values, which are missing here, change no shape.
    static = json.loads(static_part)
    config = config_lib.from_dict(
        static | {"hparams": dict.fromkeys(static["hparams"], 0.0), "seed": 0, "notes": ""}
    )
    state = jax.eval_shape(lambda: program.get(config).init(0))
    leaves = jax.tree.leaves(state)
    arrays = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) // parallel.device_count()
    states = 1 + config.checkpoint.keep_best
    return states * (arrays + _BYTES_PER_ARRAY * len(leaves)) + _BYTES_PER_SAVE


def trial_bytes(config: ConfigDict) -> int:
    """Returns what a trial takes once it has ended: a checkpoint, the records, the provenance.

    Args:
      config: a complete config, as `train.validate` returns it.
    """
    steps = config_lib.total_steps(config)
    rows = steps // config.eval_every_steps + 1
    numbers = 1 + len(program.PERIODIC_SPLITS) * len(program.get(config).metrics)
    return (
        checkpoint_bytes(config)
        + 4 * len(trial.STEP_COLUMNS) * steps
        + _BYTES_PER_NUMBER * numbers * rows
        + _BYTES_PER_TRIAL
        + _provenance_bytes()
    )


@functools.cache
def _provenance_bytes() -> int:
    # The changes that are not committed are in it. What this process has read so far, others have not.
    origin = provenance.collect([], config_lib.OPTIONAL["seeds"])
    return len(json.dumps(origin | {"sources": []})) + _BYTES_OF_SOURCES


def study_bytes(configs: Iterable[ConfigDict], num_workers: int) -> int:
    """Returns the most that a study takes at any time: no less than it does, nor over twice that.

    Args:
      configs: complete configs of its trials.
      num_workers: how many of them run at once.
    """
    ended, largest = _BYTES_PER_STUDY, 0
    for config in configs:
        ended += trial_bytes(config)
        largest = max(largest, checkpoint_bytes(config))
    return ended + num_workers * checkpoints.KEPT_WHILE_RUNNING * largest


def free_bytes(directory: Path) -> int:
    """Returns how much room there is where a directory is, or is to be made."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def describe(size: int) -> str:
    """Returns a number of bytes for people, as "3.4 MB"."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1_000
    return f"{size:,.1f} TB"
