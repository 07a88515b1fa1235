"""What trials of one static config share: the model, the data on the devices, the compiled steps.

One program runs one trial, or, packed, several of them at once; see lanes.py.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from playbook_jax import (
    config as config_lib,
    optimizers,
    schedules,
    trial,
    workload as workload_lib,
)
from playbook_jax.errors import UsageError, refusing, unknown
from playbook_jax.input import pipeline, splits
from playbook_jax.runtime import parallel
from playbook_jax.training import (
    contract,
    evaluation,
    evaluation_batches,
    gradient_norms,
    lanes as lanes_lib,
    parameter_rules,
    reading,
    train_step,
)
from playbook_jax.training.train_step import TrainState

# Splits that periodic evaluations see. The test set is not among them.
PERIODIC_SPLITS = ("train", "validation")
_KEPT_PROGRAMS = 8  # of a study with several static configs


@dataclasses.dataclass(frozen=True)
class Program:
    """Compiled on first use, then kept by `get`.

    Where there are lanes, the arguments and results that belong to a trial have a lane axis:
    `lanes.join` and `lanes.part` lead there and back.

    Attributes:
      workload: the model, its loss and metrics.
      arrays: the data of every split: arrays on the host, or the records that are streamed.
      resident: what of the training set lies on the devices.
      splits: the padded batches of PERIODIC_SPLITS, see `evaluation_batches`.
      metrics: the names of the metrics.
      columns: the names of the per-step records' columns.
      rules: which parameters are frozen, learn slower, or decay.
      examples: the numbers of the validation examples whose predictions are saved.
      reads: the names of the hparams that something in it reads.
      functions: what it is compiled from.
      lanes: how many trials run in it at once; None where it is one, without a lane axis.
      init: (seed, dropout_seed) → the state before step 0, on the devices; see `initial_state`.
      run_steps: see `train_step.make_run_steps`.
      settle: (state) → (state, copy, variants), with the batch statistics averaged over the devices.
        The copy can be read while the next step takes over the state's buffers. The variants are
        what is to be evaluated, {"": variables}, and {"polyak/": variables} where there are averages.
        With lanes, (state, due): bool [lanes], of which lanes the statistics are averaged.
      evaluate: see `evaluation.make_evaluate`.
      predict: see `evaluation.make_predict`; of `examples`, whose batches are `splits["examples"]`.
    """

    workload: workload_lib.Workload
    arrays: Mapping[str, splits.Split]
    resident: Any
    splits: Mapping[str, evaluation_batches.Batches]
    metrics: tuple[str, ...]
    columns: tuple[str, ...]
    rules: parameter_rules.ParameterRules
    examples: np.ndarray
    reads: frozenset[str]
    functions: lanes_lib.Functions
    lanes: int | None
    init: Callable[..., TrainState]
    run_steps: Callable[..., tuple[TrainState, Any, Any]]
    settle: Callable[..., tuple[TrainState, TrainState, lanes_lib.Variants]]
    evaluate: Callable[..., dict[str, Any]]
    predict: Callable[..., dict[str, Any]]

    def restore(
        self, states: Mapping[int, TrainState], of_devices: Mapping[int, Any] = MappingProxyType({})
    ) -> TrainState:
        """Returns states of NumPy arrays on the devices.

        Args:
          states: lane → state, the same on all devices; {0: state} without lanes.
          of_devices: lane → what `of_devices` gave. From another number of devices it is of no use;
            then, and where it is missing, all devices begin with the averaged statistics of the state.
        """
        state = parallel.replicate(lanes_lib.join(self.lanes, states))
        devices = parallel.all_devices_count()
        given = {
            lane: own
            for lane, own in of_devices.items()
            if own is not None and len(jax.tree.leaves(own)[0]) == devices
        }
        if not given:
            return state
        averaged = {
            lane: jax.tree.map(lambda x: np.stack([x] * devices), lanes_lib.statistics(one))
            for lane, one in states.items()
        }
        mine = parallel.host_part(devices)
        joined = lanes_lib.join(self.lanes, averaged | given, axis=1)
        own = jax.tree.map(lambda x: parallel.place(x[mine.start : mine.stop]), joined)
        polyak = {**state.polyak, **own.get("polyak", {})}
        return dataclasses.replace(state, batch_stats=own["batch_stats"], polyak=polyak)

    def values(self, configs: Mapping[int, ConfigDict]) -> train_step.Values:
        """Returns, on the devices, what stays the same in every call; lane → config, {0: …} without."""
        each = {lane: train_step.values(config) for lane, config in configs.items()}
        return parallel.replicate(lanes_lib.join(self.lanes, each))

    def of_devices(self, state: TrainState) -> Any:
        """Returns what differs from device to device, NumPy arrays [devices of all hosts, …].

        These are the running statistics of batch norm and their moving average; None without any.
        """
        own = lanes_lib.statistics(state)
        return parallel.of_all_devices(own) if jax.tree.leaves(own) else None

    def start_evaluations(self, variants: lanes_lib.Variants, hparams: Any) -> dict[str, Any]:
        """Returns the sums of all periodic metrics by name, while the devices still compute them.

        The hyperparameters are those of `values`, on the devices.
        """
        return {
            f"{split}/{variant}{metric}": pair
            for split in PERIODIC_SPLITS
            for variant, variables in variants.items()
            for metric, pair in self.start_evaluation(variables, split, hparams).items()
        }

    def start_evaluation(
        self, variables: Mapping[str, Any], split: str, hparams: Any
    ) -> dict[str, Any]:
        """Returns the sums of the metrics over a split, while the devices still compute them."""
        lanes = () if self.lanes is None else (self.lanes,)
        shape = (parallel.device_count(), *lanes, 2)
        sums = {name: np.zeros(shape, np.float32) for name in self.metrics}
        batches = self.splits[split]
        for number, (data, index) in enumerate(batches, start=1):
            sums = self.evaluate(
                variables["params"], variables["batch_stats"], data, index, hparams, sums
            )
            if batches.most_in_flight and number % batches.most_in_flight == 0:
                jax.block_until_ready(sums)
        return sums

    def start_predictions(self, variants: lanes_lib.Variants, hparams: Any) -> list[dict[str, Any]]:
        """Returns, a batch each, the predictions of `examples`, while the devices compute them."""
        return [
            self.predict(variants, data, index, hparams)
            for data, index in self.splits.get("examples", ())
        ]


def get(config: ConfigDict, lanes: int | None = None) -> Program:
    """Returns the program of a complete config, the same one for all that share its static part.

    Args:
      config: any of those whose trials it is to run.
      lanes: how many of them at once; None: one, without a lane axis.

    Raises:
      UsageError: the config names something that does not exist, or sizes do not fit.
    """
    if config.device_mapping not in parallel.MAPPINGS:
        raise unknown("device_mapping", config.device_mapping, parallel.MAPPINGS)
    if config.device_mapping != "pmap" and parallel.host_count() > 1:
        raise UsageError(f"device_mapping {config.device_mapping!r} is for one host; use 'pmap'")
    return _build(config_lib.static_part(config), lanes)


@functools.lru_cache(maxsize=_KEPT_PROGRAMS)
def _build(static_part: str, lanes: int | None) -> Program:
    if lanes is not None:
        alone = _build(static_part, None)
        return dataclasses.replace(alone, lanes=lanes, **alone.functions.compiled(lanes))
    values = json.loads(static_part)
    averages = values.pop("averages")
    config = config_lib.from_dict(values)
    source = pipeline.source_class(config.dataset.source)
    dataset = reading.NotedConfig(config.dataset.to_dict())
    with config.unlocked(), config.ignore_type():
        config.dataset = dataset.lock()
    kind = workload_lib.find(config.workload)
    # Only now: the workload's file may have added some.
    if config.optimizer not in optimizers.OPTIMIZERS:
        raise unknown("optimizer", config.optimizer, optimizers.OPTIMIZERS)
    if config.schedule not in schedules.SCHEDULES:
        raise unknown("schedule", config.schedule, schedules.SCHEDULES)
    with refusing(f"{kind.__name__}.__init__"):
        workload = kind(config)
    arrays = source.read(workload)
    train, validation = (arrays[split] for split in PERIODIC_SPLITS)
    _check_batch_sizes(config, splits.size(train))
    one = splits.template(train)

    hparams = {name: np.float32(0) for name in config.hparams}
    variables = contract.variables(workload)
    rules = parameter_rules.of_config(config, variables["params"])
    size = config.batch_size // parallel.all_devices_count()
    in_training = contract.check_training(workload, variables, one, config.hparams, size)
    metrics, outputs, in_evaluation = contract.check_evaluation(
        workload, variables, one, config.hparams
    )
    contract.check_labels(workload, outputs, arrays)
    reads = reading.of_program(config, in_training | in_evaluation)
    reading.check(config, workload, reads, dataset.names)
    examples = evaluation.chosen_examples(config.save_predictions, validation)
    _check_metric(config, metrics, averages)
    samples = {
        "train": evaluation.train_sample(train, evaluation.train_sample_size(config, arrays)),
        "validation": validation,
    }
    if len(examples):
        evaluation.check_predictions(workload, splits.template(validation), variables, hparams)
        samples["examples"] = splits.only(validation, examples)
    trained = rules.trained(variables["params"])
    groups = gradient_norms.columns(trained) if config.record_group_norms else ()
    functions = _functions(config, workload, source.gather, rules, averages)
    return Program(
        workload=workload,
        arrays=arrays,
        resident=parallel.replicate(source.resident(train)),
        splits={
            name: evaluation_batches.make(sample, config.eval_batch_size, workload.ranges())
            for name, sample in samples.items()
        },
        metrics=tuple(metrics),
        columns=trial.STEP_COLUMNS + groups,
        rules=rules,
        examples=examples,
        reads=reads,
        functions=functions,
        lanes=None,
        **functions.compiled(None),
    )


def _functions(
    config: ConfigDict,
    workload: workload_lib.Workload,
    gather: Callable[[Any, Any], Any],
    rules: parameter_rules.ParameterRules,
    averages: bool,
) -> lanes_lib.Functions:
    """Returns what a trial of this config does on a device."""
    return lanes_lib.Functions(
        init=functools.partial(
            train_step.initial_state,
            workload,
            config.optimizer,
            polyak=averages,
            rules=rules,
        ),
        run_steps=functools.partial(
            train_step.make_run_steps,
            workload,
            config.optimizer,
            config.schedule,
            gather,
            config.steps_per_call,
            rules,
            config.record_group_norms,
        ),
        evaluate=evaluation.make_evaluate(workload),
        predict=evaluation.make_predict(workload),
        mapping=config.device_mapping,
    )


def _check_metric(config: ConfigDict, metrics: Iterable[str], averages: bool) -> None:
    names = [
        f"{split}/{variant}{metric}"
        for split in PERIODIC_SPLITS
        for variant in ("", "polyak/")[: 1 + averages]
        for metric in metrics
    ]
    if config.checkpoint.metric not in names:
        raise unknown("checkpoint.metric", config.checkpoint.metric, names)


def _check_batch_sizes(config: ConfigDict, train_size: int) -> None:
    if config.batch_size > train_size:
        raise UsageError(
            f"batch_size {config.batch_size} is larger than the training set of "
            f"{train_size} examples"
        )
    devices = parallel.all_devices_count()
    shards = config.dataset.num_shards or 1
    unit = math.lcm(devices, shards)
    if config.batch_size % unit:
        lower = config.batch_size // unit * unit
        fitting = [str(size) for size in (lower, lower + unit) if 0 < size <= train_size]
        over = f"{devices} devices" + f" and {shards} dataset.num_shards" * (shards > 1)
        raise UsageError(
            f"batch_size {config.batch_size} cannot be split evenly over {over}; "
            f"the nearest that can: {', '.join(fitting) or 'none up to the training set'}"
        )
    pipeline.check(config)
