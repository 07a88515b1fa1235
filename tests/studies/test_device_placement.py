import os

import pytest

from playbook_jax.errors import UsageError
from playbook_jax.studies.execution import device_placement


@pytest.fixture
def gpu_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(device_placement, "_GPU_FOLDER", tmp_path / "gpus")
    for name in ("_PCI_FOLDER", "_DEVICE_FOLDER"):
        monkeypatch.setattr(device_placement, name, tmp_path / name)
    for name in ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES", "TPU_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "gpus"


def test_without_a_gpu_each_worker_has_a_core(gpu_folder):
    cores = sorted(os.sched_getaffinity(0))
    assert device_placement.default_num_workers() == len(cores)
    for index in range(2 * len(cores)):
        assert device_placement.place(index, 2 * len(cores)) == device_placement.Place(
            cores[index % len(cores)], {}
        )


def test_each_worker_has_a_gpu(gpu_folder):
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (gpu_folder / name).mkdir(parents=True)
    assert device_placement.default_num_workers() == 2
    found = [device_placement.place(index, 2) for index in range(2)]
    assert [p.environment for p in found] == [{"CUDA_VISIBLE_DEVICES": g} for g in "01"]
    assert {p.core for p in found} == {None}


def test_workers_that_share_a_gpu_share_its_memory(gpu_folder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-77")
    shares = {"3": [], "GPU-77": []}
    for index in range(3):
        environment = device_placement.place(index, 3).environment
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
    assert device_placement.gpus() == []


@pytest.fixture
def four_chips(gpu_folder, tmp_path, monkeypatch):
    """A TPU host as its kernel shows it: four chips of v5e, a network card and a disk of Google's."""
    for number, device in enumerate(["0x0063"] * 4 + ["0x0042", "0x001f"]):
        folder = tmp_path / "_PCI_FOLDER" / f"0000:00:{number:02x}.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text("0x1ae0\n")
        (folder / "device").write_text(f"{device}\n")
    (tmp_path / "_PCI_FOLDER" / "0000:01:00.0").mkdir()
    (tmp_path / "_PCI_FOLDER" / "0000:01:00.0" / "vendor").write_text("0x10de\n")
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/usr/lib/libtpu.so")


def test_each_worker_has_a_tpu_chip(four_chips):
    assert device_placement.default_num_workers() == 4
    found = [device_placement.place(index, 4) for index in range(4)]
    assert {place.core for place in found} == {None}
    assert [place.environment["TPU_VISIBLE_CHIPS"] for place in found] == ["0", "1", "2", "3"]
    for name in ("TPU_MESH_CONTROLLER_ADDRESS", "TPU_MESH_CONTROLLER_PORT"):
        assert len({place.environment[name] for place in found}) == 4
    for place in found:
        assert place.environment["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "1,1,1"
        assert place.environment["TPU_PROCESS_BOUNDS"] == "1,1,1"


def test_no_two_workers_share_a_chip(four_chips):
    # A study of which one trial is left computes it as it did the others.
    assert device_placement.place(0, 1) == device_placement.place(0, 4)
    with pytest.raises(UsageError, match="--workers=5: this machine has 4 TPU chips"):
        device_placement.place(0, 5)


@pytest.mark.parametrize(
    ("name", "value", "chips"),
    [
        ("TPU_VISIBLE_CHIPS", "2, 3", ["2", "3"]),
        ("TPU_VISIBLE_DEVICES", "1", ["1"]),
        ("JAX_PLATFORMS", "tpu,cpu", ["0", "1", "2", "3"]),
        ("JAX_PLATFORMS", "cpu", []),
        ("TPU_LIBRARY_PATH", "", []),
    ],
)
def test_the_chips_that_may_be_used(four_chips, monkeypatch, name, value, chips):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(device_placement.importlib.util, "find_spec", lambda name: None)
    assert device_placement.tpu_chips() == chips


def test_chips_of_a_kind_that_came_later(gpu_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/usr/lib/libtpu.so")
    (tmp_path / "_DEVICE_FOLDER").mkdir()
    for name in ("accel0", "accel1", "null"):
        (tmp_path / "_DEVICE_FOLDER" / name).touch()
    assert device_placement.tpu_chips() == ["0", "1"]
