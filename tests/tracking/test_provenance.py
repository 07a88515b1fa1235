import json
import re

import jax
import pytest

from playbook_jax import trial
from playbook_jax.tracking import provenance
from playbook_jax.training import loop
from tests import small
from tests.runs import stop_after

SEEDS = {"initialization": 0, "data": 0, "dropout": 0}


@pytest.mark.playbook("every-number-can-be-traced")
def test_what_is_needed_to_make_a_result_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    loop.train(small.digits(seed=3), tmp_path / "trial", command=["scripts/train.py", "--x"])
    found = trial.load(tmp_path / "trial").provenance
    assert found["command"] == ["scripts/train.py", "--x"]
    assert found["versions"]["jax"] == jax.__version__
    assert {"python", "flax", "optax", "numpy", "orbax-checkpoint"} <= set(found["versions"])
    assert found["devices"] == ["cpu"] * 4
    assert found["hosts"] == 1
    assert found["backend"] == "cpu"
    assert found["processor"]
    assert set(found["seeds"].values()) == {3}
    assert found["environment"]["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"
    assert "xla_force_host_platform_device_count=4" in found["environment"]["XLA_FLAGS"]
    assert "hunter2" not in json.dumps(found)
    assert found["earlier_runs"] == []
    if (small.ROOT / ".git").exists():  # not in an installed package
        assert re.fullmatch("[0-9a-f]{40}", found["commit"])
        assert found["dirty"] == bool(found["diff"] or found["untracked"])


@pytest.mark.playbook("every-number-can-be-traced")
def test_a_run_that_goes_on_with_other_code_says_how_it_began(monkeypatch):
    monkeypatch.setattr(provenance, "_code", lambda: {"commit": "a", "dirty": True, "diff": "-x"})
    first = provenance.collect(["train"], SEEDS, {"initialized_from": "there"})
    assert first["initialized_from"] == "there"
    assert first["earlier_runs"] == []
    monkeypatch.setattr(provenance, "_code", lambda: {"commit": "b", "dirty": False, "diff": ""})
    looked = first | {"test_evaluations": [1], "started": "2020-01-01T00:00:00+00:00"}
    second = provenance.collect(["train"], SEEDS, json.loads(json.dumps(looked)))
    assert second["commit"] == "b"
    assert second["test_evaluations"] == [1]
    assert second["earlier_runs"] == [
        {"started": looked["started"], "commit": "a", "dirty": True, "diff": "-x"}
    ]
    third = provenance.collect(["train", "--again"], SEEDS, second | {"started": "2021"})
    # What is the same is not told again.
    assert third["earlier_runs"][0] == second["earlier_runs"][0]
    assert third["earlier_runs"][1] == {"command": ["train"], "started": "2021"}


def test_a_resumed_run_keeps_where_it_came_from(tmp_path):
    first = {"should_stop": stop_after(1), "command": ["first"]}
    loop.train(small.digits(), tmp_path / "trial", **first)
    loop.train(small.digits(), tmp_path / "trial", command=["second"])
    found = trial.load(tmp_path / "trial").provenance
    assert found["command"] == ["second"]
    assert [run["command"] for run in found["earlier_runs"]] == [["first"]]
