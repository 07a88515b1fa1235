import os

import pytest

from playbook_jax.studies import places


@pytest.fixture
def gpu_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(places, "_GPU_FOLDER", tmp_path / "gpus")
    return tmp_path / "gpus"


def test_without_a_gpu_each_worker_has_a_core(gpu_folder):
    cores = sorted(os.sched_getaffinity(0))
    assert places.default_num_workers() == len(cores)
    for index in range(2 * len(cores)):
        assert places.place(index, 2 * len(cores)) == places.Place(cores[index % len(cores)], {})


def test_each_worker_has_a_gpu(gpu_folder):
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (gpu_folder / name).mkdir(parents=True)
    assert places.default_num_workers() == 2
    found = [places.place(index, 2) for index in range(2)]
    assert [p.environment for p in found] == [{"CUDA_VISIBLE_DEVICES": g} for g in "01"]
    assert {p.core for p in found} == {None}


def test_workers_that_share_a_gpu_share_its_memory(gpu_folder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-77")
    shares = {"3": [], "GPU-77": []}
    for index in range(3):
        environment = places.place(index, 3).environment
        fraction = float(environment.get("XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75))
        shares[environment["CUDA_VISIBLE_DEVICES"]].append(fraction)
    assert shares == {"3": [0.45, 0.45], "GPU-77": [0.75]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUDA_VISIBLE_DEVICES", ""),
        ("CUDA_VISIBLE_DEVICES", "-1"),
        ("JAX_PLATFORMS", "cpu"),
    ],
)
def test_gpus_that_may_not_be_used(gpu_folder, monkeypatch, name, value):
    (gpu_folder / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setenv(name, value)
    assert places.gpus() == []
