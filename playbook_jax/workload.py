"""What a model and its data implement, and how one is found by name.

A workload is one file in a directory `workloads/` (of this repository, or of the directory where the
command runs), named as `config.workload` says, that defines a subclass of `Workload`. There is no
registry.
"""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from playbook_jax import trial as trial_lib
from playbook_jax.errors import UsageError, refusing, unknown
from playbook_jax.input.tfrecords import Arrayed, Records
from playbook_jax.tracking import sources

Batch = Mapping[str, Any]
# For each example how much it adds to a metric's numerator and denominator, both of shape [batch].
# They are summed over batches and devices before they are divided: a mean of means would be wrong
# where examples count differently.
PerExample = tuple[Any, Any]


class Workload:
    """A model, its loss and metrics, and its data: `splits` or `records`, or both.

    Every method but these two is a pure function.
    """

    def __init__(self, config: ConfigDict) -> None:
        """Builds the model from the static part of the config (never from `config.hparams`)."""
        self.config = config

    def splits(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        """Returns the arrays of "train", "validation" and "test", the first axis the examples.

        The split must not depend on `config.seed`: replicates are to see the same data. A workload
        with `records` needs no method of its own: these are read into memory when they are asked for.
        """
        return Arrayed(self.records())

    def records(self) -> Records:
        """Returns the TFRecord files that are streamed where `dataset.source` is "tfds".

        Raises:
          UsageError: the workload has none.
        """
        raise UsageError(
            f"the workload {self.config.workload!r} has no method records(), so it cannot be streamed: "
            "dataset.source must be 'memory' or 'tf_data'"
        )

    def ranges(self) -> Mapping[str, int]:
        """Returns how many values an integer of the data may take, by name: {"label": 10} for 0 to 9.

        An example with another value ends the run, and is named.
        """
        return {}

    def init(self, rng: Any) -> dict[str, Any]:
        """Returns the variables: `params`, and `batch_stats` where the model keeps some."""
        raise NotImplementedError

    def apply(
        self,
        variables: Mapping[str, Any],
        batch: Batch,
        hparams: Mapping[str, Any],
        rngs: Mapping[str, Any],
        train: bool,
    ) -> tuple[Any, Any]:
        """Returns the model's outputs and the new batch statistics.

        Args:
          variables: `params` and `batch_stats`.
          batch: arrays of this device's examples.
          hparams: traced scalars, so that changing one never recompiles.
          rngs: {"dropout": key, "augment": key} in training, empty in evaluation.
          train: whether this is a training step.
        """
        raise NotImplementedError

    def loss(self, outputs: Any, batch: Batch, hparams: Mapping[str, Any]) -> PerExample:
        """Returns what training minimizes, label smoothing included, weight decay not."""
        raise NotImplementedError

    def metrics(self, outputs: Any, batch: Batch) -> Mapping[str, PerExample]:
        """Returns what evaluations report, by name; "loss" among them, without label smoothing."""
        raise NotImplementedError

    def predictions(self, outputs: Any, batch: Batch) -> Mapping[str, Any]:
        """Returns what offline evaluations save of each example, arrays [batch, …] by name.

        A classifier's `prediction` and `label` are also counted by class.
        """
        return {}

    def decay_mask(self, params: Any) -> Any:
        """Returns which parameters weight decay acts on, a tree of bools, or None for the default.

        The default is those of two or more dimensions: neither biases nor the scales of norms.
        """
        return None


_recalled: dict[str, Path] = {}  # by name


def recall(provenance: Any) -> None:
    """Lets `find` take the workload that a trial was run with from where it lay, if it still lies there.

    That may be outside of the checkout and of the current directory. Comes before the first `find`.

    Args:
      provenance: the trial's, as its file has it.
    """
    for source in sources.of(provenance, sources.WORKLOAD):
        if Path(source["path"]).is_file():
            _recalled[Path(source["path"]).stem] = Path(source["path"])


def find(name: str) -> type[Workload]:
    """Returns the `Workload` subclass that `workloads/NAME.py` defines; see `recall` for other places.

    Raises:
      UsageError: there is no such file, or it defines no workload or several.
    """
    # No __init__.py there, so the directories of all these places make up one namespace package.
    for place in (str(Path.cwd()), str(Path(__file__).parent.parent)):
        if place not in sys.path:
            sys.path.append(place)
    with refusing(f"workloads/{name}.py"):
        module = sys.modules.get(f"workloads.{name}") or _load(name)
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Workload)
        and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise UsageError(
            f"workloads/{name}.py must define one subclass of Workload; it defines {len(classes)}"
        )
    return classes[0]


def of_trial(trial: trial_lib.Trial) -> type[Workload]:
    """Returns the workload that a trial was run with; says on standard error where its text has changed.

    Raises:
      UsageError: see `find`.
    """
    recall(trial.provenance)
    found = find(trial.config["workload"])
    sources.warn(trial.provenance, {"sources": sources.known()}, "the trial")
    return found


def _load(name: str) -> ModuleType:
    """Returns the module of a workload, and notes its text and that of its neighbours which it imports."""
    package = importlib.import_module("workloads")
    before = set(sys.modules)
    if name in _recalled:
        full = f"workloads.{name}"
        spec = importlib.util.spec_from_file_location(full, _recalled[name])
        module = sys.modules[full] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[full]
            raise
    else:
        known = [module.name for module in pkgutil.iter_modules(package.__path__)]
        if name not in known:
            raise unknown("workload", name, known)
        module = importlib.import_module(f"workloads.{name}")
    for new in {n for n in sys.modules if n.startswith("workloads.")} - before:
        sources.note(
            sources.WORKLOAD, sys.modules[new].__file__, inspect.getsource(sys.modules[new])
        )
    return module
