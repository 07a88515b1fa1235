import itertools

import numpy as np
import pytest

from playbook_jax import workload as workload_lib
from playbook_jax.errors import UsageError
from playbook_jax.input import pipeline
from tests import small


def indices_of(config, size, step, num_steps):
    orders = pipeline.shard_orders(config, size)
    return np.concatenate([order.indices(step, num_steps) for order in orders], axis=1)


def batches(source, arrays, step, num_steps):
    fed = source.feed(step, num_steps)
    rows = fed if isinstance(fed, np.ndarray) else None
    if rows is not None:
        return {name: x[rows] for name, x in arrays.items()}
    return fed


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 255, (101, 3, 2), np.uint8),
        "label": np.arange(101, dtype=np.int32),
    }


@pytest.mark.playbook("batches-by-seed-and-step")
def test_every_example_once_an_epoch_and_nothing_dropped():
    config = small.digits(batch_size=32)
    flat = indices_of(config, 101, 0, 101).ravel()  # 32 epochs of 101 examples exactly
    epochs = flat.reshape(32, 101)
    assert all(sorted(epoch) == list(range(101)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.playbook("batches-by-seed-and-step")
@pytest.mark.parametrize("num_shards", [1, 4])
def test_batches_are_a_function_of_seed_and_step(num_shards):
    config = small.digits(batch_size=32, dataset__num_shards=num_shards)
    whole = indices_of(config, 101, 0, 50)
    # However the steps are cut into calls, and wherever a run goes on.
    np.testing.assert_array_equal(indices_of(config, 101, 17, 9), whole[17:26])
    one_by_one = np.concatenate([indices_of(config, 101, t, 1) for t in range(50)])
    np.testing.assert_array_equal(one_by_one, whole)
    other = small.digits(batch_size=32, dataset__num_shards=num_shards, seed=1)
    assert not np.array_equal(indices_of(other, 101, 0, 50), whole)


def test_shards_keep_to_their_examples_and_their_own_order():
    config = small.digits(batch_size=32, dataset__num_shards=4)
    rows = indices_of(config, 101, 0, 10).reshape(10, 4, 8)
    for shard in range(4):
        assert set(rows[:, shard].ravel() % 4) == {shard}
    # Shards of a size must not be shuffled alike ("seeds that are different across hosts").
    assert not np.array_equal(rows[:, 0] - 0, rows[:, 1] - 1)


@pytest.mark.playbook("tf-data-prefetch")
@pytest.mark.parametrize("num_shards", [1, 4])
def test_tf_data_gives_the_same_batches_as_memory(arrays, num_shards):
    config = small.digits(batch_size=32, dataset__num_shards=num_shards)
    sources = {}
    workload = workload_lib.find("digits")(config)
    for name in ("memory", "tf_data"):
        config = small.digits(batch_size=32, dataset__num_shards=num_shards, dataset__source=name)
        sources[name] = pipeline.make_source(config, workload, arrays)
    # Goes over epochs; step 11 after step 5 is where a resumed run begins.
    for step, num_steps in [(0, 3), (3, 2), (11, 7)]:
        expected = batches(sources["memory"], arrays, step, num_steps)
        got = batches(sources["tf_data"], arrays, step, num_steps)
        for name in arrays:
            assert got[name].dtype == arrays[name].dtype
            np.testing.assert_array_equal(got[name], expected[name])


def test_shards_must_divide_the_batch():
    with pytest.raises(UsageError, match=r"num_shards 3 does not divide batch_size 32"):
        pipeline.num_shards_of(small.digits(dataset__num_shards=3))


@pytest.mark.playbook("seeds-on-several-hosts")
def test_shards_of_a_size_have_orders_of_their_own():
    config = small.digits(batch_size=32, dataset__num_shards=4)
    rows = indices_of(config, 100, 0, 3).reshape(3, 4, 8)  # 25 examples in each shard
    orders = [rows[:, shard] // 4 for shard in range(4)]
    for one, two in itertools.combinations(orders, 2):
        assert not np.array_equal(one, two)
