#!/usr/bin/env python3
"""Measures our batch norm against flax's, as ratios, in the regimes that flax's has.

    benchmarks/batch_norm.py                 a minute or two
    benchmarks/batch_norm.py --devices=1     without the synchronized regime on a CPU

Forward and backward: the output, the new running statistics, and the gradients by input, scale and bias.
Below 1.00 ours is faster. Flax's is measured as it comes, which computes the variance as E[x²] − E[x]²
(that of large means is wrong), and with `use_fast_variance=False`, whose numbers are as good as ours.
"""

import functools
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import flags

from benchmarks.benchmarking import measured, paired, say_where, show
from playbook_jax.runtime import command_line

SHAPES = ((1024, 256), (128, 8, 8, 32), (32, 32, 32, 64))
CALLS = 20  # in each measurement; on several virtual CPU devices, more than 16 in flight abort

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 9, "How often each ratio is measured.", lower_bound=1)
flags.DEFINE_integer("devices", 2, "How many virtual devices a CPU is split into.", lower_bound=1)


def main(argv: list[str]) -> None:
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={FLAGS.devices}"
    )
    import jax

    say_where()
    for devices in sorted({1, jax.local_device_count()}):
        regime = "the device's own statistics" if devices == 1 else f"synchronized over {devices}"
        for fast_variance in (True, False):
            kind = "as it comes" if fast_variance else "use_fast_variance=False"
            print(f"{regime}, against flax's {kind}")
            for shape in SHAPES:
                for dtype in ("float32", "bfloat16"):
                    what = f"{' × '.join(map(str, shape))}, {dtype}"
                    show(what, compare(shape, dtype, devices, fast_variance), "goal 1.00")


def compare(
    shape: tuple[int, ...], dtype: str, devices: int, fast_variance: bool
) -> list[tuple[float, float]]:
    """Returns the seconds of our calls and of flax's in each round, statistics over all devices."""
    import flax.linen as nn

    from playbook_jax.batch_norm import BatchNorm
    from playbook_jax.runtime.parallel import AXIS

    ours = BatchNorm(shape[0] * devices, use_running_average=False, momentum=0.9, dtype=dtype)
    theirs = nn.BatchNorm(
        use_running_average=False,
        momentum=0.9,
        dtype=dtype,
        axis_name=AXIS if devices > 1 else None,
        use_fast_variance=fast_variance,
    )
    calls = [
        functools.partial(measured, functools.partial(repeat, step(norm, shape, dtype, devices)))
        for norm in (ours, theirs)
    ]
    return paired(*calls, FLAGS.rounds)


def step(norm: Any, shape: tuple[int, ...], dtype: str, devices: int) -> Any:
    """Returns a compiled call of the norm, forward and backward, with all that it computes."""
    import jax

    from playbook_jax.runtime.parallel import AXIS, place

    x, cotangent = jax.random.normal(jax.random.key(0), (2, devices, *shape)).astype(dtype)
    variables = norm.init(jax.random.key(0), x[0, :2])

    def call(x: Any, cotangent: Any, params: Any, stats: Any) -> Any:
        def forward(x: Any, params: Any) -> Any:
            variables = {"params": params, "batch_stats": stats}
            return norm.apply(variables, x, mutable=["batch_stats"])

        y, pullback, updated = jax.vjp(forward, x, params, has_aux=True)
        return y, updated, pullback(cotangent)

    if devices == 1:
        compiled = jax.jit(call)
        x, cotangent = x[0], cotangent[0]
    else:
        compiled = jax.pmap(call, axis_name=AXIS, in_axes=(0, 0, None, None))
        x, cotangent = place(x), place(cotangent)
    arguments = (x, cotangent, variables["params"], variables["batch_stats"])
    jax.block_until_ready(compiled(*arguments))
    return functools.partial(compiled, *arguments)


def repeat(function: Any) -> None:
    """Calls the function CALLS times and waits for each: no call hides behind another."""
    import jax

    for _ in range(CALLS):
        jax.block_until_ready(function())


if __name__ == "__main__":
    command_line.run(main)
