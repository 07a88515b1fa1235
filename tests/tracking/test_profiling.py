import gzip
import itertools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.runtime import parallel
from playbook_jax.tracking import peak_flops, profiling
from playbook_jax.training import loop
from tests import small
from tests.runs import interrupted

# What has to be the same with and without a profile.
FILES = ("steps.f32", "metrics.jsonl", "summary.json", "status.json", "config.json")


def profiler(steps, peak=None, **overrides):
    config = loop.validate(small.digits(**overrides))
    return profiling.Profiler(steps, config, peak), config


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    directory = tmp_path_factory.mktemp("profiled") / "trial"
    made, config = profiler(range(11, 14), peak=1e9)
    loop.train(config, directory, profiler=made)
    return directory, made


@pytest.mark.playbook("profile-on-demand")
def test_a_profile_is_a_trace_and_a_table(profiled):
    directory, made = profiled
    profile = json.loads((directory / "profile.json").read_text(), parse_constant=pytest.fail)
    assert profile["traced_steps"] == [11, 14]
    assert profile["timed_steps"] == [14, 17]
    assert profile["evaluations"] == 0
    assert profile["examples_per_second"] == pytest.approx(32 / profile["step_seconds"])
    assert profile["devices"] == 4
    assert profile["model_flop_utilization"] == pytest.approx(
        profile["flops_per_step"] / profile["step_seconds"] / 4e9
    )
    trace = json.loads(gzip.decompress((directory / profile["trace"]).read_bytes()))
    names = {event.get("name", "") for event in trace["traceEvents"]}
    # What the host does, reading input included, and what the devices do.
    for part in ("_send_steps", "feed", "Execute"):
        assert any(part in name for name in names), part
    text = "\n".join(made.describe())
    for part in ("step time", "examples/s", "utilization", str(directory / profile["trace"])):
        assert part in text


def test_a_profile_changes_nothing_of_the_run(profiled, tmp_path):
    loop.train(small.digits(), tmp_path / "trial")
    for name in FILES:
        assert (profiled[0] / name).read_bytes() == (tmp_path / "trial" / name).read_bytes()


@pytest.mark.playbook("profile-on-demand")
def test_model_flops_are_those_of_one_update_on_all_devices(profiled):
    """Against the products of matrices by hand: a loop over 8 updates must not count 8 times."""
    widths = [64, 16, 10]
    products = sum(2 * 32 * a * b for a, b in itertools.pairwise(widths))
    # Forward, and backward by weights and by activations, of which the first layer needs none.
    by_hand = 3 * products - 2 * 32 * 64 * 16
    flops = json.loads((profiled[0] / "profile.json").read_text())["flops_per_step"]
    # Activations, losses and, once on each of 4 devices, the update of 1,210 parameters add to it.
    elementwise = 4 * 1210 * 20 + 32 * (16 + 10) * 20
    assert by_hand < flops < by_hand + elementwise


@pytest.mark.parametrize("mapping", parallel.MAPPINGS)
def test_flops_do_not_depend_on_how_many_updates_a_call_makes(mapping):
    step = parallel.on_devices(
        lambda x, n: jax.lax.fori_loop(0, n, lambda i, y: y @ y, x), (0, None), mapping=mapping
    )
    x = parallel.replicate(np.zeros((64, 64), np.float32))
    expected = 4 * 2 * 64**3  # devices × product
    for num_steps in (1, 7):
        flops = profiling.flops_per_step(step, (x, np.int32(num_steps)))
        assert flops == pytest.approx(expected, rel=1e-3)  # the loop's counter counts too


def test_utilization_is_what_is_used_of_all_devices():
    profile = profiling.measure(0.5, batch_size=10, flops=6e9, peak=1e10)
    assert profile["examples_per_second"] == 20
    assert profile["flops_per_second"] == 1.2e10
    assert profile["model_flop_utilization"] == pytest.approx(0.3)  # 4 virtual devices
    # The peak of a CPU is unknown, and is said to be.
    unknown = profiling.measure(0.5, batch_size=10, flops=6e9)
    assert unknown["model_flop_utilization"] is None
    steps = {"timed_steps": (5, 9), "traced_steps": (1, 5), "evaluations": 0, "trace": "t"}
    text = "\n".join(profiling.table(unknown | steps, "/tmp/run"))
    assert "unknown" in text
    assert "--peak_flops" in text
    assert "500 ms (steps 5 to 9, not traced)" in text
    assert "12 GFLOP/s" in text


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v3", 61.5e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5e", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("cpu", None),
    ],
)
def test_peaks_by_device_kind(kind, peak):
    assert peak_flops.of(kind) == peak


@pytest.mark.parametrize(
    ("stop", "count", "every", "total", "expected"),
    [
        (14, 3, 10, 40, (14, 17)),
        (14, 30, 10, 40, (14, 19)),  # to the last step before the evaluation at 20
        (19, 5, 10, 40, (20, 25)),  # the next step is evaluated, so from there on
        (20, 5, 10, 40, (20, 25)),  # the evaluation at 20 is over by then
        (35, 10, 10, 40, (35, 39)),  # the last step is always evaluated
        (39, 10, 50, 40, (39, 40)),  # there is no other
        (40, 10, 10, 40, (40, 40)),  # there is none
        (5, 3, 1, 40, (5, 8)),  # each is evaluated
    ],
)
def test_what_is_timed_after_a_trace_has_no_evaluation(stop, count, every, total, expected):
    assert profiling.timed_steps(stop, count, every, total) == expected


def test_a_trace_to_the_end_of_the_run_has_only_traced_steps(tmp_path):
    made, config = profiler(range(37, 40))
    loop.train(config, tmp_path / "trial", profiler=made)
    assert made.profile["timed_steps"] == made.profile["traced_steps"] == (37, 40)
    assert made.profile["evaluations"] == 1
    assert "traced, so slower, evaluations included" in made.describe()[1]


def test_a_resumed_run_traces_what_is_left(tmp_path):
    """Its first call compiles wherever it goes on, so the trace begins after that."""
    interrupted(tmp_path / "trial", 2)
    step = trial.load(tmp_path / "trial").status["step"]
    made, config = profiler(range(2, step + 3))
    loop.train(config, tmp_path / "trial", profiler=made)
    assert made.profile["traced_steps"] == (step + 1, step + 3)
    # And nothing once the steps are behind it.
    late, _ = profiler(range(2, 5))
    late.start(tmp_path, step)
    assert late.boundaries(step) == []
    assert late.describe() == ["No profile: this process did not make the steps 2 to 5"]


def test_a_run_that_ends_while_it_is_traced_leaves_no_profile_and_no_trace_open(tmp_path):
    for name in ("0", "1"):  # a trace that is still open would refuse the second one
        made, config = profiler(range(2, 35), hparams__learning_rate=1e6)
        status = loop.train(config, tmp_path / name, profiler=made)
        assert status["state"] == "INFEASIBLE"
        assert made.describe() == ["No profile: this process did not make the steps 2 to 35"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("100", r"--profile=100: give two steps, as in --profile=100:110"),
        ("a:b", r"give two steps"),
        ("7:7", r"--profile=7:7 has no steps; the second number must be the larger one"),
        ("0:5", r"--profile=0:5: the first step compiles; begin at 1 or later"),
    ],
)
def test_steps_that_make_no_sense_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        profiling.parse(text)


def test_steps_beyond_the_run_are_refused():
    with pytest.raises(UsageError, match=r"--profile=30:50 goes beyond the run's last step, 45"):
        profiler(range(30, 50), hparams__warmup_steps=5)
    assert profiling.parse("100:110") == range(100, 110)
    for steps, peak in ((None, 1e12), (range(3, 5), -1.0)):
        with pytest.raises(UsageError, match="must be above 0, and goes with --profile=A:B"):
            profiler(steps, peak=peak)


@pytest.mark.playbook("profile-on-demand", "throughput")
def test_the_command_line_profiles_without_tensorflow(tmp_path):
    arguments = [
        "scripts/train.py",
        "--config=configs/digits_mlp.py",
        "--config.max_train_steps=150",
        f"--workdir={tmp_path / 'run'}",
        "--profile=60:64",
        "--peak_flops=1e11",
    ]
    code = (
        "import runpy, sys\n"
        f"sys.argv = {arguments!r}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: print('exit', end.code, 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=small.ROOT,
        env=small.one_device(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "exit 0 False" in done.stdout, done.stdout + done.stderr
    assert "examples/s, evaluations included" in done.stdout
    assert "% of 1 × 100 GFLOP/s (cpu)" in done.stdout
    assert (tmp_path / "run" / "profile.json").exists()
    # It is no part of the trial's identity: the same command without it finds the finished run.
    config = config_lib.load(tmp_path / "run" / "config.json")
    assert "profile" not in config
