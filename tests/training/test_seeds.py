import numpy as np
import pytest

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.input import pipeline
from playbook_jax.runtime import parallel
from playbook_jax.training import loop, program as program_lib
from tests import small


def complete(**overrides):
    config = config_lib.complete(small.digits(hparams__dropout_rate=0.3))
    return config_lib.override(config, {k.replace("__", "."): v for k, v in overrides.items()})


def drawn(config):
    """What each seed decides, as bytes: the initial parameters, the first batches, the step's key."""
    program = program_lib.get(config)
    seeds = config_lib.seeds(config)
    state = parallel.first(program.init(seeds["initialization"], seeds["dropout"]))
    (order,) = pipeline.shard_orders(config, 1000)
    return {
        "initialization": b"".join(
            np.asarray(x).tobytes() for _, x in sorted(leaves(state.params))
        ),
        "data": order.indices(0, 5).tobytes(),
        "dropout": np.asarray(state.key).tobytes(),
    }


def leaves(tree, path=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}/{key}")
        else:
            yield f"{path}/{key}", value


@pytest.mark.playbook("trial-variance")
@pytest.mark.parametrize("name", ["initialization", "data", "dropout"])
def test_a_seed_of_its_own_changes_what_is_its_own_and_nothing_else(name):
    both, own = drawn(complete(seed=3)), drawn(complete(seed=3, **{f"seeds__{name}": 4}))
    assert {key for key in both if both[key] != own[key]} == {name}
    # As if all were 4, in what is its own; and the seed named alone is the same as the one that follows.
    assert own[name] == drawn(complete(seed=4))[name]
    assert drawn(complete(seed=4, **{f"seeds__{name}": 3})).items() >= {(name, both[name])}


def test_seeds_share_one_compiled_program():
    assert program_lib.get(complete()) is program_lib.get(complete(seeds__data=5, seeds__dropout=7))


def test_each_seed_alone_changes_a_run_and_their_provenance_tells(tmp_path):
    runs = {}
    for name in ("seed", "initialization", "data", "dropout"):
        config = complete(**({} if name == "seed" else {f"seeds__{name}": 1}))
        loop.train(config, tmp_path / name)
        runs[name] = trial.read_steps(tmp_path / name)
        seeds = trial.load(tmp_path / name).provenance["seeds"]
        assert seeds == {n: int(n == name) for n in ("initialization", "data", "dropout")}
    assert len({run.tobytes() for run in runs.values()}) == 4
    # The first loss is that of the parameters drawn, on the batch drawn: only the dropout masks differ.
    assert runs["dropout"][0, 0] == pytest.approx(runs["seed"][0, 0], rel=0.2)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ({"dat": 1}, r"unknown config key 'seeds.dat'; did you mean 'seeds.data'"),
        ({"data": -2}, r"seeds.data must be a whole number up to 2³² − 1, or -1"),
        ({"data": 2**32}, r"seeds.data must be"),
        ({"data": True}, r"seeds.data must be"),
        (1, r"seeds must be a dictionary like \{'data': 1\}, not 1"),
    ],
)
def test_bad_seeds_are_refused(seeds, message):
    config = small.digits().copy_and_resolve_references()
    with config.unlocked():
        config.seeds = seeds
    with pytest.raises(UsageError, match=message):
        config_lib.complete(config)
