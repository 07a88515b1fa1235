"""How many trials to run in one program, chosen by what a step of so many at once takes (`--pack=auto`).

A program of k trials needs more time a step than one of a single trial, but fewer programs are run one
after another. Tiny models leave most of a device idle and gain; large ones, and convolutions on CPUs, lose.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from playbook_jax.errors import UsageError
from playbook_jax.studies.execution import jobs
from playbook_jax.studies.execution.executor import Executor, Measured, Packs, Trial

AUTO = "auto"
ALONE = 1
_WIDTHS = (2, 4, 8, 16, 32)


def widths(num_trials: int) -> list[int]:
    """Returns the numbers of trials that are worth measuring, from ALONE on."""
    return [ALONE, *(k for k in _WIDTHS if k <= num_trials)]


def no_better(seconds: Mapping[int, float]) -> bool:
    """Returns whether wider programs need not be measured.

    Args:
      seconds: what a step takes, by how many trials make it at once, in ascending order.
    """
    *others, last = (taken / k for k, taken in seconds.items())
    # Twice the width never needs less than half the rounds, so it must take less than twice the time.
    return bool(others) and last >= others[-1]


def lanes_of(width: int) -> int | None:
    """Returns the lanes of the program in which so many trials run; None where one runs without them."""
    return None if width == ALONE else width


def explore(
    widths: Iterable[int],
    step_time: Callable[[int | None], float],
    out_of_memory: type[Exception] | tuple[type[Exception], ...],
    heard: Callable[[int, float], bool] = lambda width, seconds: True,
) -> Measured:
    """Returns what a step takes, measured for one width after the other while more are better.

    Args:
      widths: how many trials are to make it at once, in ascending order.
      step_time: measures it, of a program with so many lanes or with none, see `lanes_of`.
      out_of_memory: what it raises where the memory is too small.
      heard: is told each width and its seconds, and says whether to go on.
    """
    found = Measured()
    for width in widths:
        try:
            found.seconds[width] = step_time(lanes_of(width))
        except out_of_memory as error:
            found.problem = f"{width} fail ({' '.join(str(error).split())[:100]})"
            break
        if not heard(width, found.seconds[width]) or no_better(found.seconds):
            break
    found.over = True
    return found


def rounds(counts: Sequence[int], lanes: int, workers: int) -> int:
    """Returns how many packs the busiest worker runs.

    Args:
      counts: of the trials that share a program, for each program.
      lanes: how many trials a pack holds.
      workers: how many packs run at once.
    """
    return math.ceil(sum(math.ceil(count / lanes) for count in counts) / workers)


def choose(seconds: Mapping[int, float], counts: Sequence[int], workers: int) -> int:
    """Returns how many trials to run in one program: as many as take the least time in all.

    Widths between measured ones count too, a step of theirs as on the line between those: 20 trials on
    two workers are one round of 10 lanes as well as of 16. The narrowest on a tie.

    Args:
      seconds: what a step takes, by how many trials make it at once; ALONE among them.
      counts: see `rounds`.
      workers: see `rounds`.
    """
    measured = sorted(seconds)
    predicted = dict(seconds)
    for narrow, wide in itertools.pairwise(measured):
        slope = (seconds[wide] - seconds[narrow]) / (wide - narrow)
        for k in range(narrow + 1, wide):
            predicted[k] = seconds[narrow] + slope * (k - narrow)
    return min(sorted(predicted), key=lambda k: rounds(counts, k, workers) * predicted[k])


def describe(lanes: int, seconds: Mapping[int, float], problem: str) -> str:
    """Returns what was chosen, and why, in one line.

    Args:
      lanes: what `choose` gave.
      seconds: what it was given; may be empty.
      problem: what ended the measurement, if it was an error.
    """
    chosen = f"{lanes} trials in one program" if lanes > ALONE else "none, each trial runs alone"
    others = [k for k in seconds if k != ALONE]
    if others:
        measured = ", ".join(f"{k} take {seconds[k] / seconds[ALONE]:.2f}" for k in others)
        chosen += f" (a step of one trial takes 1, of {measured})"
    return f"Packing: {chosen}" + (f"; {problem}" if problem else "")


def measure(executor: Packs, trials: Sequence[Trial]) -> int:
    """Returns how many trials to run in one program, chosen by a measurement; prints one line about it.

    Where trials differ in more than what is traced, the program that most of them share is measured.

    Args:
      executor: measures; it has validated the trials.
      trials: all of the study.
    """
    programs = list(jobs.by_program(trials).values())
    counts = [len(of_one_program) for of_one_program in programs]
    largest = max(programs, key=len)
    found = executor.measure(largest[0], widths(len(largest)))
    lanes = ALONE
    if ALONE in found.seconds:
        lanes = choose(found.seconds, counts, executor.size)
    print(describe(lanes, found.seconds, found.problem))
    return lanes


def parse(text: str | None) -> int | str | None:
    """Returns what `--pack` asks for: a number, AUTO, or None for nothing.

    Raises:
      UsageError: it is something else.
    """
    if text is None or text == AUTO:
        return text
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(
            f"--pack={text} must be how many trials run in one program, at least 1, or {AUTO!r}"
        )
    return int(text)


def refuse_other(pack: int | str | None, path: Path, lanes: int) -> None:
    """Raises a UsageError where a study is to go on with other packs than it was begun with.

    Args:
      pack: what is asked for; whatever was chosen for AUTO stays.
      path: the study.
      lanes: how many trials it has in one program.
    """
    if pack not in (None, AUTO, lanes):
        begun = f"--pack={lanes}" if lanes > ALONE else "each trial alone"
        raise UsageError(
            f"{path} was begun with {begun}, on which the trials' bits depend; "
            f"leave --pack={pack} out to go on so, or use another --workdir"
        )


def refuse_where_impossible(executor: Executor, lanes: int, pack: int | str | None) -> None:
    """Raises a UsageError where trials are to be packed by what can't do that."""
    if (lanes > ALONE or pack == AUTO) and not isinstance(executor, Packs):
        way_out = "leave --pack out" if pack is not None else "continue it on one machine"
        raise UsageError(
            f"several trials in one program run on one machine, by the launcher's own workers; {way_out}"
        )
