"""The workers of a study on a Ray cluster: those of `pool.py`, each behind an actor on some node.

The pool decides here as it does on one machine which trial a worker gets, and what follows from a lost
one. Ray only finds places and carries messages; it repeats nothing, so no trial is ever run twice at
once. All nodes share the study directory. See `ray_actor.py` for the other end, and docs/clusters.md for
what is to be set up.
"""

import contextlib
import dataclasses
import math
import os
import selectors
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from playbook_jax.errors import UsageError
from playbook_jax.studies.execution import device_placement, jobs
from playbook_jax.studies.execution.executor import Executor, Listener, Stop, Trial
from playbook_jax.studies.execution.pool import Pool
from playbook_jax.studies.ray import actor, cluster
from playbook_jax.studies.ray.worker import RayWorker
from playbook_jax.studies.store import leases
from playbook_jax.studies.store.directory import StudyDirectory


def maker(
    address: str, num_workers: int, train_module: str
) -> Callable[[StudyDirectory, Stop], Executor]:
    """Returns what `launcher.launch` takes as `make_executor`, see `RayExecutor`."""
    return lambda study, stop: RayExecutor(study, stop, address, num_workers, train_module)


class RayExecutor(Pool):
    """A pool whose workers are on a Ray cluster, one a GPU where it has GPUs, else one a CPU."""

    def __init__(
        self, study: StudyDirectory, stop: Stop, address: str, num_workers: int, train_module: str
    ) -> None:
        """Connects to the cluster; the workers start with `validate`.

        Args:
          study: the study.
          stop: asked whether to go on.
          address: HOST:PORT of the cluster's head, or "auto", see `ray_cluster`.
          num_workers: how many; 0: as many as the cluster has GPUs or CPUs. They start as there is
            room for them.
          train_module: see `Pool`.

        Raises:
          UsageError: the cluster can't be used.
        """
        self._ray, resources = cluster.connect(address)
        self._places = Places.of(resources, num_workers)
        self._study = study
        self._path = Path(os.path.abspath(study.path))
        super().__init__(0, study.logs, train_module, study.lock.fd, stop)

    def validate(self, shared: Mapping[str, Any], trials: Sequence[Trial]) -> bool:
        """Implements `executor.Executor`."""
        self.size = min(self._places.num_workers, len(jobs.make(trials, trials, self._study.lanes)))
        for index in range(self.size):
            self._start(index)
        return super().validate(shared, trials)

    def run(
        self, trials: Sequence[Trial], directory: Callable[[int], Path], listener: Listener
    ) -> bool:
        """Implements `executor.Executor`."""
        return super().run(trials, lambda trial: directory(trial).absolute(), listener)

    def close(self) -> None:
        """Ends all workers and leaves the cluster."""
        super().close()
        self._ray.shutdown()
        with contextlib.suppress(OSError):  # a worker that was lost may hold its lease still
            leases.directory(self._path).rmdir()

    def _start(self, index: int) -> RayWorker:
        train_module, logs, _ = self._arguments
        settings = actor.Settings(
            index=index,
            train_module=train_module,
            lease=str(leases.directory(self._path) / f"{index}-{uuid.uuid4().hex}"),
            log=str(logs.absolute() / f"worker-{index}.log"),
            directory=str(Path.cwd()),
            environment={k: v for k, v in os.environ.items() if k in actor.CARRIED},
            on_gpu=bool(self._places.options.get("num_gpus")),
            memory=self._places.memory,
        )
        worker = RayWorker(self._ray, settings, self._places.options, self._path)
        self._workers[index] = worker
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        return worker


@dataclasses.dataclass(frozen=True)
class Places:
    """What each worker takes of the cluster.

    Attributes:
      num_workers: how many there are.
      options: the resources that Ray gives to each.
      memory: what it may take of its GPU's memory; 0: as jax likes.
    """

    num_workers: int
    options: Mapping[str, float]
    memory: float

    @classmethod
    def of(cls, resources: Mapping[str, float], num_workers: int) -> "Places":
        """Returns the places in a cluster with these resources; several workers may share a GPU."""
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        if not gpus:
            if not cpus and not num_workers:
                raise UsageError(
                    "the Ray cluster has neither GPUs nor CPUs to run trials on; add nodes to it, or "
                    "give --workers=N where it adds them as they are needed"
                )
            return cls(num_workers or cpus, {"num_cpus": 1}, 0.0)
        sharing = max(1, math.ceil(num_workers / gpus))
        return cls(
            num_workers or gpus,
            {"num_cpus": 0, "num_gpus": 1 / sharing},
            device_placement.memory(sharing),
        )
