"""The training run, from a config to a finished trial directory.

A run trains for a fixed number of steps, evaluates at fixed step intervals, keeps the latest and the
best checkpoints, and chooses the best one when it is over. It is a function of its config and seed:
stopped anywhere and started again, it ends the same. The devices never wait for the host: what a
stretch of steps has left is read while the calls that were sent after it run.
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from playbook_jax import config as config_lib, trial
from playbook_jax.input import pipeline
from playbook_jax.runtime import parallel
from playbook_jax.tracking import clock as clock_lib, profiling
from playbook_jax.training import (
    failures,
    feeds as feeds_lib,
    initialize_from,
    lanes as lanes_lib,
    program as program_lib,
    recorder as recorder_lib,
    tensorboard,
    train_step,
)
from playbook_jax.training.recorder import Progress, Recorder
from playbook_jax.training.train_step import TrainState

# Calls of the device that may be unfinished, and behind which the host reads what those before them have
# left. Enough that it never waits; on several virtual CPU devices, more than 16 abort the process.
CALLS_IN_FLIGHT = 8


def validate(config: ConfigDict) -> ConfigDict:
    """Returns the config with its optional keys, after every check that `train` makes of it.

    Files are looked at later: the workdir, and what `initialize_from` names, which a resumed run
    does not need.

    Raises:
      UsageError: the config can't be run; nothing has been written.
    """
    config = config_lib.complete(config)
    program_lib.get(config)
    return config


def unread(config: ConfigDict) -> set[str]:
    """Returns the paths of the hparams that nothing in a valid config's program reads."""
    config = config_lib.complete(config)
    return {f"hparams.{name}" for name in set(config.hparams) - program_lib.get(config).reads}


def train(
    config: ConfigDict,
    workdir: epath.PathLike,
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    command: list[str] | None = None,
    profiler: profiling.Profiler | None = None,
    view: tensorboard.View | None = None,
) -> dict[str, Any]:
    """Runs one trial to its end, going on where an earlier run of it was stopped.

    Args:
      config: the training config.
      workdir: the trial directory; made if it does not exist.
      progress: is told how far the run is, once a stretch of steps.
      should_stop: asked between calls of the device; once true, the run saves and ends INTERRUPTED.
      command: what started the run, for its provenance; this process's command when None.
      profiler: what profiles some of its steps.
      view: what shows it in TensorBoard.

    Returns:
      The trial's status. A trial that is COMPLETE or INFEASIBLE already returns it at once. An
      error while training ends it as FAILED, with the traceback on standard error.

    Raises:
      UsageError: the config can't be run, another run has `workdir`, or it or its checkpoint is not
        for this config.
    """
    config = validate(config)
    start = initialize_from.read(config, workdir)
    with recorder_lib.open_trial(workdir, config) as writer:
        status = writer.status
        if _of_host_0(status["state"] in (trial.COMPLETE, trial.INFEASIBLE)):
            return status
        try:
            with (
                Recorder(config, writer, start, progress=progress) as recorder,
                profiler or profiling.Profiler() as profiler,
                view or contextlib.nullcontext() as writer.view,
            ):
                run = Run(program_lib.get(config), {0: recorder}, command, profiler)
                run.to_the_end(should_stop)
                return recorder.status
        except Exception as error:
            return failures.conclude([writer], error)[0]


def _of_host_0(value: int) -> int:
    return parallel.agree(value)[0]


class _Lane:
    """One of the trials that run.

    Attributes:
      recorder: keeps its directory.
      start: the number of completed updates at the start of the current stretch.
      step: how many updates were sent to the devices.
      boundary: where the stretch ends.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.start = self.step = self.boundary = recorder.step

    @property
    def runs(self) -> bool:
        """Whether there are steps left to be sent."""
        return self.recorder.status is None and self.step < self.recorder.total

    @property
    def ahead(self) -> int:
        """How many steps there are up to the end of the stretch."""
        return self.boundary - self.step if self.runs else 0

    def set_out(self, also: Callable[[int], Sequence[int]]) -> None:
        """Begins the stretch up to where something is to be logged, evaluated or saved, or `also`."""
        self.start, self.boundary = self.step, self._boundary(self.step, also)

    def _boundary(self, step: int, also: Callable[[int], Sequence[int]]) -> int:
        config = self.recorder.config
        intervals = (
            config.log_every_steps,
            config.eval_every_steps,
            config.checkpoint.every_steps,
        )
        due = [(step // every + 1) * every for every in intervals]
        return min(self.recorder.total, *due, *also(step))

    def calls(self, also: Callable[[int], Sequence[int]]) -> Iterator[tuple[int, int]]:
        """Yields the first step and the number of steps of each call up to the end of the run."""
        step, most = self.step, config_lib.most_steps_per_call(self.recorder.config)
        while step < self.recorder.total:
            boundary = self._boundary(step, also)
            yield from ((i, min(most, boundary - i)) for i in range(step, boundary, most))
            step = boundary

    def is_due(self, every: int) -> bool:
        """Whether what happens every so many steps, and at the end, is due at the stretch's end."""
        return self.step > self.start and (
            self.step == self.recorder.total or self.step % every == 0
        )


@dataclasses.dataclass(frozen=True)
class _Stretch:
    """What a stretch of steps has left on the devices, to be read once they are through.

    Attributes:
      spans: lane → the numbers of completed updates before and after it.
      evaluated: the lanes that are evaluated at its end.
      saved: the lanes of which a checkpoint is made.
      early: those of them of which none is due.
      records: per-step records, the first of the buffer.
      outcome: the last of what `run_steps` returns.
      snapshot: the state, where there is an evaluation or a checkpoint.
      evaluations: metric → its numerator and denominator.
      predictions: those of `config.save_predictions`, a batch each.
      of_devices: each device's own batch statistics, where there are early checkpoints.
    """

    spans: Mapping[int, tuple[int, int]]
    evaluated: frozenset[int]
    saved: frozenset[int]
    early: frozenset[int]
    records: Any
    outcome: Any
    snapshot: TrainState | None
    evaluations: Mapping[str, Any]
    predictions: list[Any]
    of_devices: Any


class Run:
    """One run of one trial, or of several whose configs share their static part, side by side.

    Attributes:
      lanes: those of the program that hold a trial.
    """

    def __init__(
        self,
        program: program_lib.Program,
        recorders: Mapping[int, Recorder],
        command: list[str] | None,
        profiler: profiling.Profiler,
    ) -> None:
        """Brings the trials to where they go on.

        Args:
          program: that of their configs.
          recorders: lane → the open trial; {0: …} in a program without lanes.
          command: what started the run, for the provenance.
          profiler: what profiles some of its steps; not with lanes.
        """
        self._program, self._profiler = program, profiler
        self._join = functools.partial(lanes_lib.join, program.lanes)
        self._part = functools.partial(lanes_lib.part, program.lanes)
        configs = {lane: recorder.config for lane, recorder in recorders.items()}
        self._config = next(iter(configs.values()))  # for what all of them share
        self._values = program.values(configs)
        sources = {
            lane: pipeline.make_source(config, program.workload, program.arrays["train"])
            for lane, config in configs.items()
        }
        self._state = self._begin(recorders)
        self.lanes = {lane: _Lane(recorder) for lane, recorder in recorders.items()}
        self._records = self._new_records()
        # Calls, by their outcomes, and behind them the stretches that end with them.
        self._unread: collections.deque[Any] = collections.deque()
        self._outcome: Any = None  # of the last call
        self._all_stop = False  # whether some host was asked to stop
        self._clock = clock_lib.Clock()
        for lane, recorder in recorders.items():
            packing = None if program.lanes is None else {"lanes": program.lanes, "lane": lane}
            recorder.started(self._clock, command, packing)
            profiler.start(recorder.directory, recorder.step)
        self._feeds = feeds_lib.Feeds(
            program.lanes,
            sources,
            config_lib.most_steps_per_call(self._config),
            next(iter(self.lanes.values())).calls(profiler.boundaries),
        )

    def _begin(self, recorders: Mapping[int, Recorder]) -> TrainState:
        """Returns the state, on the devices, from which the trials go on."""
        seeds = {lane: config_lib.seeds(r.config) for lane, r in recorders.items()}
        names = ("initialization", "dropout")
        state = self._program.init(
            *(self._join({lane: np.uint32(s[name]) for lane, s in seeds.items()}) for name in names)
        )
        drawn = parallel.first(state)
        fresh = {lane: self._part(drawn, lane) for lane in recorders}
        begun = {lane: r.begin(self._program, fresh[lane]) for lane, r in recorders.items()}
        restored = {lane: there for lane, there in begun.items() if there is not None}
        if not restored:
            return state
        states = fresh | {lane: there.state for lane, there in restored.items()}
        return self._program.restore(
            states, {lane: there.of_devices for lane, there in restored.items()}
        )

    def to_the_end(self, should_stop: Callable[[], bool]) -> None:
        """Trains, evaluates and saves until all trials are over, or the run is stopped."""
        for lane in self.lanes.values():
            if not lane.runs:  # all was done, but for the last words
                lane.recorder.conclude()
        with contextlib.closing(self._feeds):
            while any(lane.runs for lane in self.lanes.values()):
                for lane in self.lanes.values():
                    lane.set_out(self._profiler.boundaries)
                while any(lane.ahead for lane in self.lanes.values()):
                    asked_to_stop = should_stop()
                    if self._all_stop or (asked_to_stop and parallel.host_count() == 1):
                        return self._interrupt()
                    self._send_steps(asked_to_stop)
                    self._catch_up(CALLS_IN_FLIGHT)
                stretch = self._end_stretch()
                self._profiler.at(next(iter(self.lanes.values())).step, vars(stretch))
            self._catch_up(0)

    def _new_records(self) -> Any:
        rows = config_lib.longest_stretch(self._config)
        columns = len(self._program.columns)
        return parallel.replicate(self._join({0: train_step.new_records(rows, columns)}))

    def _send_steps(self, asked_to_stop: bool) -> None:
        """Sends the next steps to the devices, which may be busy with earlier ones."""
        most = config_lib.most_steps_per_call(self._config)
        ahead = {i: lane for i, lane in self.lanes.items() if lane.ahead}
        num_steps = {i: min(most, lane.ahead) for i, lane in ahead.items()}
        calls = {i: (lane.step, num_steps[i]) for i, lane in ahead.items()}
        feed = self._clock.input(lambda: self._feeds.next(calls))
        rows = {i: (lane.step - lane.start, num_steps[i]) for i, lane in ahead.items()}
        numbers = lanes_lib.numbers(self._program.lanes, rows, asked_to_stop)
        call = train_step.Call(feed, numbers)
        arguments = (self._state, self._records, self._program.resident, call, self._values)
        self._profiler.note(self._program.run_steps, arguments)
        self._state, self._records, self._outcome = self._program.run_steps(*arguments)
        for i, lane in ahead.items():
            lane.step += num_steps[i]
        self._unread.append(self._outcome)
        self._clock.sent(self._outcome)

    def _catch_up(self, most: int) -> None:
        """Waits until at most so many calls are unfinished, and reads the stretches before those.

        How far that goes depends alone on what was sent, so it is the same on all hosts.
        """
        calls = sum(not isinstance(item, _Stretch) for item in self._unread)
        while calls > most or (self._unread and isinstance(self._unread[0], _Stretch)):
            calls -= not isinstance(self._unread[0], _Stretch)
            self._read_next()

    def _read_next(self) -> None:
        item = self._unread.popleft()
        if isinstance(item, _Stretch):
            self._read(item)
        elif parallel.host_count() == 1:
            item.block_until_ready()
        else:  # of each call, since the next stretch may end minutes later
            votes_to_stop = np.max(parallel.first(item)[1])
            self._all_stop |= votes_to_stop > 0

    def _end_stretch(self, stopping: bool = False) -> _Stretch:
        """Sends the devices what is due after the current steps, to be read when they are through."""
        intervals = (self._config.eval_every_steps, self._config.checkpoint.every_steps)
        if stopping or any(lane.is_due(n) for lane in self.lanes.values() for n in intervals):
            self._free_snapshot()
            self._clock.host()
        live = {i: lane for i, lane in self.lanes.items() if lane.recorder.status is None}
        evaluated = {i for i, lane in live.items() if lane.is_due(intervals[0])}
        saved = {i for i, lane in live.items() if lane.is_due(intervals[1])}
        early = set(live) - evaluated - saved if stopping else set()
        snapshot, evaluations, predictions = None, {}, []
        # Only what the config fixes may change what follows: here the averages are a copy.
        of_devices = self._program.of_devices(self._state) if stopping else None
        if evaluated | saved | early:
            self._state, snapshot, variants = self._settle(evaluated | saved | early)
        if evaluated:
            evaluations = self._program.start_evaluations(variants, self._values.hparams)
            predictions = self._program.start_predictions(variants, self._values.hparams)
            self._clock.sent(*jax.tree.leaves((evaluations, predictions)))
        records, self._records = self._records, self._new_records()
        spans = {i: (lane.start, lane.step) for i, lane in live.items()}
        for lane in live.values():
            lane.start = lane.step
        due = (frozenset(evaluated), frozenset(saved | early), frozenset(early))
        rest = (snapshot, evaluations, predictions, of_devices)
        stretch = _Stretch(spans, *due, records, self._outcome, *rest)
        self._unread.append(stretch)
        return stretch

    def _free_snapshot(self) -> None:
        """Reads up to the last snapshot, so that there are never two of them on the devices."""
        while any(isinstance(s, _Stretch) and s.snapshot is not None for s in self._unread):
            self._read_next()

    def _settle(self, due: set[int]) -> tuple[TrainState, TrainState, lanes_lib.Variants]:
        if self._program.lanes is None:
            return self._program.settle(self._state)
        where = np.array([i in due for i in range(self._program.lanes)])
        return self._program.settle(self._state, where)

    def _read(self, stretch: _Stretch) -> None:
        """Lets each trial's recorder have what a stretch has left of it."""
        records, outcome = parallel.first(stretch.records), parallel.first(stretch.outcome)
        evaluations = parallel.first(stretch.evaluations) if stretch.evaluated else {}
        predictions = [parallel.first(batch) for batch in stretch.predictions]
        snapshot = functools.cache(lambda: parallel.first(stretch.snapshot))
        for i, (start, end) in stretch.spans.items():
            recorder, part = self.lanes[i].recorder, functools.partial(self._part, lane=i)
            if recorder.status is not None:  # it was over before
                continue
            left = recorder_lib.Left(
                start=start,
                end=end,
                records=part(records),
                bad_step=int(part(outcome)[0]),
                evaluations=part(evaluations) if i in stretch.evaluated else {},
                predictions=part(predictions) if i in stretch.evaluated else [],
                save=i in stretch.saved,
                state=functools.partial(lambda part: part(snapshot()), part),
                of_devices=part(stretch.of_devices, axis=1) if i in stretch.early else None,
            )
            self._clock.read(functools.partial(recorder.read, left))

    def _interrupt(self) -> None:
        """Saves where the trials are, so that the same command goes on from here."""
        self._catch_up(0)
        recorders = [lane.recorder for lane in self.lanes.values()]
        if self._outcome is not None and any(recorder.status is None for recorder in recorders):
            self._end_stretch(stopping=True)
            self._catch_up(0)
        for recorder in recorders:
            if recorder.status is None:
                recorder.interrupt()
