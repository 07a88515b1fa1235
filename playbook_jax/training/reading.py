"""What of a config is read: a key that is misspelt, or that a study varies for nothing, is found.

The hparams are noted while the program is traced once, by shapes; nothing of it is left in what runs.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from playbook_jax import config_keys, optimizers, schedules
from playbook_jax.errors import UsageError, closest, refusing
from playbook_jax.workload import Workload

_OF_THE_STEP = {"learning_rate", "warmup_steps", "post_warmup_steps", "clip_norm"}
_OF_THE_STEP |= {"divergence_factor", "polyak_decay"}


class Noted(dict):
    """Hyperparameters that note which of them are looked up, be they there or not."""

    def __init__(self, values: Mapping[str, Any], names: set[str]) -> None:
        """Notes the names of `values` in `names`."""
        super().__init__(values)
        self.names = names

    def __getitem__(self, name: str) -> Any:
        """Returns one, as any dictionary does."""
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns the value or the default, as any dictionary does."""
        self.names.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        """Asking for one counts as reading it."""
        self.names.add(str(name))
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        """Yields the names; without this method {**hparams} would go past the others."""
        return super().__iter__()

    def items(self) -> Any:
        """Returns them all, which counts as reading them all."""
        self.names.update(super().keys())
        return super().items()

    def values(self) -> Any:
        """Returns them all, which counts as reading them all."""
        self.names.update(super().keys())
        return super().values()


def _flatten(noted: Noted) -> tuple[list[Any], tuple[str, ...]]:
    names = tuple(sorted(noted))
    return [noted[name] for name in names], names


jax.tree_util.register_pytree_node(
    Noted, _flatten, lambda names, values: dict(zip(names, values, strict=True))
)


class NotedConfig(ConfigDict):
    """A part of a config that notes which of its keys are looked up."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Notes them in `names`."""
        object.__setattr__(self, "names", set())
        super().__init__(values)

    def __getitem__(self, key: str) -> Any:
        """Returns one, as any config does."""
        self.names.add(key)
        return super().__getitem__(key)

    def to_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Returns them all, which counts as reading them all."""
        self.names.update(self._fields)
        return super().to_dict(*arguments, **options)


def of_program(config: ConfigDict, of_workload: set[str]) -> frozenset[str]:
    """Returns the hparams that this config's program reads.

    Args:
      config: static part of a config; names of hparams suffice.
      of_workload: those that the workload reads.
    """
    multipliers = {x for _, x in config.learning_rate_multipliers if isinstance(x, str)}
    return frozenset(
        of_workload
        | _OF_THE_STEP
        | set(optimizers.hyperparameters(config.optimizer))
        | _schedule_reads(config.schedule, config.hparams)
        | multipliers
    )


def _schedule_reads(name: str, names: Iterable[str]) -> set[str]:
    read: set[str] = set()

    def rate(hparams: Any) -> Any:
        with refusing(f"the schedule {name!r}"):
            return schedules.make_schedule(name, Noted(hparams, read), 1)(jnp.int32(0))

    jax.eval_shape(rate, scalars(names))
    return read


def check(config: ConfigDict, workload: Workload, read: frozenset[str], dataset: set[str]) -> None:
    """Checks that somebody reads each of the hparams and keys of the data set.

    What only another optimizer reads, or the workload only with other values, is let pass.

    Args:
      config: the static part of a config; names of hparams suffice.
      workload: its workload, in whose text a key may be named that nothing has read yet.
      read: what `of_program` gave.
      dataset: the keys of `config.dataset` that were looked up.

    Raises:
      UsageError: nothing reads one; names the nearest that is read.
    """
    others = {key for name in optimizers.OPTIMIZERS for key in optimizers.hyperparameters(name)}
    defaults = {name for name, bounds in config_keys.HPARAMS.items() if bounds.default is not None}
    text = _text(workload)
    by = f"the workload {config.workload!r}, the optimizer {config.optimizer!r} and the schedule"
    for part, names, known, readers in (
        ("hparams", config.hparams, read | others | defaults, f"{by} {config.schedule!r}"),
        (
            "dataset",
            config.dataset.keys(),
            dataset | set(config_keys.children("dataset")),
            f"the workload {config.workload!r} and its source",
        ),
    ):
        for name in names:
            if name not in known and not re.search(rf"\b{re.escape(name)}\b", text):
                used = read if part == "hparams" else known
                raise UsageError(
                    f"nothing reads {part}.{name}{closest(name, used - {name})} ({readers} read "
                    f"{', '.join(sorted(used))})"
                )


def _text(workload: Workload) -> str:
    """Returns the text of the files in which the workload's classes are defined."""
    ours = Workload.__module__.split(".")[0]
    modules = {cls.__module__ for cls in type(workload).__mro__} - {"builtins"}
    texts = []
    for name in modules:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and name.split(".")[0] != ours:
            texts.append(inspect.getsource(sys.modules[name]))
    return "\n".join(texts)


def scalars(names: Iterable[str]) -> dict[str, Any]:
    """Returns the shapes of hparams with these names."""
    return {name: jax.ShapeDtypeStruct((), np.float32) for name in names}
