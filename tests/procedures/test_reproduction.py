import os
import shutil
from unittest import mock

import numpy as np
import pytest

from playbook_jax import trial
from playbook_jax.errors import UsageError
from playbook_jax.procedures import bitwise_diff, reproduce as reproduce_lib
from playbook_jax.training import loop, packing
from tests import small
from tests.runs import interrupted
from tests.studies.test_digits import run
from tests.studies.test_specification import write

# A small convolutional network: on two cores it ends in other bits than on one.
FIXED = {
    "model.channels": [8, 16],
    "max_train_steps": 12,
    "eval_every_steps": 4,
    "log_every_steps": 4,
    "checkpoint.every_steps": 8,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study on the digits by one worker, which has one core; its second trial diverges."""
    directory = tmp_path_factory.mktemp("study")
    config = write(
        directory / "study.py",
        base_config="configs/digits_cnn.py",
        algorithm="list",
        num_trials=None,
        objective={"metric": "validation/error_rate", "mode": "min"},
        fixed=FIXED,
        nuisance={"hparams.learning_rate": {"values": [0.05, 1e30]}},
        points=[{"hparams.learning_rate": rate} for rate in (0.05, 1e30)],
    )
    workdir = directory / "s"
    result = run("launch_study.py", f"--config={config}", f"--workdir={workdir}", "--workers=1")
    assert result.returncode == 0, result.stderr
    return workdir


def reproduce(directory, workdir):
    result = run("reproduce.py", f"--trial={directory}", f"--workdir={workdir}")
    return result.returncode, result.stdout, result.stderr


@pytest.mark.playbook("trials-are-reproduced")
@pytest.mark.parametrize("number", [0, 1])
def test_a_trial_of_a_study_is_reproduced_bit_for_bit(study, tmp_path, number):
    original = trial.load(study / "trials" / f"{number:03d}")
    assert original.status["state"] == ("COMPLETE", "INFEASIBLE")[number]
    assert original.provenance["threads"] == 1
    code, output, errors = reproduce(original.directory, tmp_path / "again")
    assert (code, errors) == (0, "")
    assert output.startswith("Every bit is the same: ")
    assert "no longer as it was" not in output
    again = trial.load(tmp_path / "again")
    assert again.provenance["threads"] == 1
    assert again.status == original.status
    assert np.array_equal(*(trial.read_steps(t.directory).view("<u4") for t in (original, again)))
    if number == 0:
        assert "12 steps, 3 evaluations, how it ended, the best checkpoint, the latest" in output
    else:
        assert "loss is" in again.status["reason"] or "norm is" in again.status["reason"]

    # It would have noticed a bit; what has been run already is only compared.
    tampered = shutil.copytree(original.directory, tmp_path / "tampered")
    records = bytearray((tampered / "steps.f32").read_bytes())
    row = 4 * len(trial.step_columns(tampered))
    last = len(records) // row - 1
    records[row * last] ^= 1  # the lowest bit of the loss
    (tampered / "steps.f32").write_bytes(records)
    code, output, errors = reproduce(tampered, tmp_path / "again")
    assert (code, errors) == (1, "")
    assert output.startswith(f"NOT the same:\n  step {last}: loss ")
    assert f"(1 of {last + 1} steps differ)" in output


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "trial"
    assert loop.train(small.digits(), directory)["state"] == "COMPLETE"
    return directory


def test_a_trial_that_was_stopped_and_resumed_compares_equal(finished, tmp_path):
    assert interrupted(tmp_path / "t", 2)["state"] == "INTERRUPTED"
    with pytest.raises(UsageError, match=r"t is INTERRUPTED \(stopped before its end"):
        reproduce_lib.read(tmp_path / "t", tmp_path / "new")
    assert loop.train(small.digits(), tmp_path / "t")["state"] == "COMPLETE"
    found = bitwise_diff.compare(tmp_path / "t", finished)
    assert (found.differences, found.missing) == ([], [])


def test_a_packed_trial_is_reproduced_in_a_program_of_the_same_width(tmp_path):
    configs = [small.digits(hparams__learning_rate=rate) for rate in (0.02, 0.05, 1e30)]
    lanes = [packing.Lane(config, tmp_path / str(i)) for i, config in enumerate(configs)]
    statuses = packing.train(lanes)
    assert [status["state"] for status in statuses] == ["COMPLETE", "COMPLETE", "INFEASIBLE"]
    told = []
    for number in (1, 2):
        original = reproduce_lib.read(tmp_path / str(number), tmp_path / "new")
        status = reproduce_lib.run(
            original,
            tmp_path / f"again-{number}",
            progress=lambda done, total, text: told.append((done, total)),
            should_stop=lambda: False,
            command=["x"],
        )
        assert status == statuses[number]
        found = bitwise_diff.compare(original.directory, tmp_path / f"again-{number}")
        assert (found.differences, found.missing) == ([], [])
        again = trial.load(tmp_path / f"again-{number}").provenance
        assert again["packing"] == {"lanes": 3, "lane": number}
        assert reproduce_lib.changes(original.provenance, again) == []
    assert (40, 40) in told


def test_what_differs_is_named_with_where_and_by_how_much(finished, tmp_path):
    other = tmp_path / "t"
    loop.train(small.digits(hparams__weight_decay=0.001), other)
    first, *rest = bitwise_diff.compare(finished, other).differences
    # The decay acts on the gradient of step 0, after its loss and gradient norm are known.
    norms = [float(trial.read_steps(d)[0, 2]) for d in (finished, other)]
    assert first.startswith(f"step 0: update_norm {norms[0]:.9g} then, {norms[1]:.9g} now, by ")
    assert first.endswith("(40 of 40 steps differ)")
    assert rest[0].startswith("evaluation at step 10: train/")
    assert any(line.startswith("the best checkpoint: ") for line in rest)

    shutil.rmtree(other)
    shutil.copytree(finished, other)
    for name in ("metrics.jsonl", "steps.f32"):
        data = (other / name).read_bytes()
        (other / name).write_bytes(data[: len(data) // 2] if name == "steps.f32" else data + b"\n")
    assert bitwise_diff.compare(finished, other).differences == [
        "40 steps then, 20 now",
        "evaluations: other text",
    ]
    shutil.rmtree(other / "checkpoints")  # as `studies.py --prune` leaves it
    found = bitwise_diff.compare(other, finished)
    assert [line.split(" (")[0] for line in found.missing] == [
        "the best checkpoint",
        "the latest checkpoint",
    ]
    assert "the best checkpoint: " in " ".join(bitwise_diff.compare(finished, other).differences)


def test_saved_predictions_and_negative_zero_are_compared(tmp_path):
    for name, zero in (("a", 0.0), ("b", -0.0)):
        writer = trial.Writer(tmp_path / name, {})
        writer.write("steps.json", {"columns": trial.STEP_COLUMNS})
        writer.append_steps(np.full((1, 5), zero, np.float32))
        writer.write("status.json", trial.new_status("INFEASIBLE"))
        (tmp_path / name / "predictions").mkdir()
        (tmp_path / name / "predictions" / "4.npz").write_bytes(name.encode())
    found = bitwise_diff.compare(tmp_path / "a", tmp_path / "b").differences
    assert found == [
        "step 0: loss 0 then, -0 now (1 of 1 steps differ)",
        "predictions/4.npz",
    ]


def test_only_what_came_to_its_end_is_reproduced(finished, tmp_path):
    trials = tmp_path / "s" / "trials"
    shutil.copytree(finished, trials / "000")
    (tmp_path / "s" / "study.json").write_text("{}")

    def refused(path, text, workdir="new"):
        with pytest.raises(UsageError, match=text) as error:
            reproduce_lib.read(path, tmp_path / workdir)
        assert "\n" not in str(error.value)

    refused(tmp_path / "s", "s is no trial; give one of its trials, …/trials/000")
    refused(trials / "001", "001 holds no trial")
    refused(trials / "000", "holds the trial itself", workdir="s/trials/../trials/000")
    status = trial.read_json(trials / "000" / "status.json")
    failed = status | {"state": "FAILED", "reason": "out of memory: no"}
    trial.write_json(trials / "000" / "status.json", failed)
    refused(trials / "000", r"000 is FAILED \(out of memory: no\): only a trial that is COMPLETE")
    trial.write_json(trials / "000" / "status.json", status | {"state": "RUNNING"})
    refused(trials / "000", "000 is RUNNING: only a trial")
    trial.write_json(trials / "000" / "status.json", status)
    provenance = trial.read_json(trials / "000" / "provenance.json")
    trial.write_json(trials / "000" / "provenance.json", provenance | {"hosts": 4})
    refused(trials / "000", "was trained by 4 hosts: on as many, run scripts/train.py --config=")
    (trials / "000" / "provenance.json").unlink()
    refused(trials / "000", "000 has no provenance.json")


def test_a_run_whose_beginning_is_gone_is_refused_and_nothing_written(finished, tmp_path):
    source = shutil.copytree(finished, tmp_path / "source")
    config = small.digits(max_train_steps=10)
    config = loop.validate(config)
    with config.unlocked():
        config.initialize_from.path = str(source)
    loop.train(config, tmp_path / "t")
    shutil.rmtree(source)
    original = reproduce_lib.read(tmp_path / "t", tmp_path / "new")
    with pytest.raises(UsageError, match="source") as error:
        reproduce_lib.run(
            original, tmp_path / "new", progress=print, should_stop=lambda: False, command=["x"]
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()
    assert f"began with, {source}, may have" in reproduce_lib.unexplained(original.provenance)


@mock.patch.dict(os.environ)  # all of it is undone
def test_the_environment_of_then_replaces_that_of_now(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("JAX_", "XLA_", "OMP_", "LIBTPU_"))]:
        del os.environ[name]
    for name in ("XLA_FLAGS", "OMP_NUM_THREADS", "JAX_COMPILATION_CACHE_DIR", "HOME_OF_ALL"):
        os.environ[name] = "now"
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    then = {"XLA_FLAGS": "then", "JAX_ENABLE_X64": "1", "CUDA_VISIBLE_DEVICES": "5"}
    monkeypatch.setattr(os, "sched_setaffinity", lambda *a: cores.append(a), raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    cores = []
    reproduce_lib.set_up({"backend": "cpu", "threads": 2, "environment": then})
    assert cores == [(0, [3, 5])]
    assert os.environ["XLA_FLAGS"] == "then"
    assert os.environ["JAX_ENABLE_X64"] == "1"
    assert os.environ["JAX_PLATFORMS"] == "cpu"  # whatever else this machine has by now
    assert "OMP_NUM_THREADS" not in os.environ
    assert "CUDA_VISIBLE_DEVICES" not in os.environ  # a place
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "now"  # another
    assert os.environ["HOME_OF_ALL"] == "now"

    # As many GPUs as then, of those that are there.
    os.environ["CUDA_VISIBLE_DEVICES"] = "2,4,6"
    reproduce_lib.set_up({"backend": "gpu", "devices": ["H"] * 2, "environment": {}})
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,4"


def test_what_has_changed_is_named():
    then = {
        "commit": "a" * 40,
        "diff": "-x",
        "untracked": [],
        "versions": {"jax": "1", "numpy": "2"},
        "threads": 1,
        "devices": ["cpu"] * 4,
        "packing": {"lanes": 4, "lane": 1},
        "environment": {"XLA_FLAGS": "--a", "TF_X": "1", "JAX_PLATFORMS": "cpu"},
        "earlier_runs": [{"threads": 2}, {"started": "then"}, {"commit": "c" * 40}],
    }
    assert reproduce_lib.changes(then | {"earlier_runs": []}, then) == []
    now = then | {
        "commit": "b" * 40,
        "diff": "",
        "versions": {"jax": "2", "numpy": "2"},
        "threads": 8,
        "devices": ["cpu"],
        "packing": None,
        "environment": {},
    }
    assert reproduce_lib.changes(then, now) == [
        "commit aaaaaaaaaaaa then, bbbbbbbbbbbb now",
        "changes that are not in the commit then, no changes now",
        "threads 1 then, 8 now",
        "packing lanes 4, lane 1 then, none now",
        "devices 4 × cpu then, 1 × cpu now",
        "jax 1 then, 2 now",
        "XLA_FLAGS --a then, none now",
        "within the trial, commit cccccccccccc then, aaaaaaaaaaaa later",
        "within the trial, threads 2 then, 1 later",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=DIR"], "--trial=DIR is missing"),
        (["--trial=DIR"], "--workdir=DIR is missing"),
        (["--trial=DIR", "--workdir=DIR/new"], "holds no trial"),
        (["--trail=DIR"], "unknown flag --trail; did you mean --trial?"),
    ],
)
def test_command_lines_that_cannot_be_run(tmp_path, arguments, message):
    result = run("reproduce.py", *[a.replace("DIR", str(tmp_path)) for a in arguments])
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_comes_before_the_set_up_imports_no_jax():
    result = run("reproduce.py", "--help", python=("-X", "importtime"))
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert "playbook_jax.procedures.reproduce" in imported
    assert not imported & {"jax", "tensorflow", "pandas"}
