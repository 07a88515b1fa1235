import jax
import numpy as np
import pytest

from playbook_jax import config as config_lib, workload
from tests import small


@pytest.fixture(scope="module")
def cnn():
    return workload.find("digits")(config_lib.load(small.ROOT / "configs" / "digits_cnn.py"))


@pytest.mark.playbook("zero-residual-branches")
def test_residual_branches_of_the_cnn_begin_at_zero(cnn):
    variables = cnn.init(jax.random.key(0))
    batch = {k: x[:8] for k, x in cnn.splits()["train"].items()}

    def logits(params):
        return np.asarray(cnn.apply({"params": params}, batch, {}, {}, train=False)[0])

    params = variables["params"]
    plain = logits(params)
    names = sorted(name for name in params if name.startswith("Conv"))
    # Each stage has the convolution on the trunk, and two in the branch.
    branches = [name for i, name in enumerate(names) if i % 3]
    noise = {name: jax.tree.map(lambda x: x + 1, params[name]) for name in branches[::2]}
    np.testing.assert_array_equal(logits(params | noise), plain)
    # What ends a branch does reach the output once it is not zero any more.
    noise = {branches[1]: jax.tree.map(lambda x: x + 1, params[branches[1]])}
    assert np.abs(logits(params | noise) - plain).max() > 0.1


def test_splits_are_disjoint_whole_and_like_each_other(cnn):
    splits = cnn.splits()
    assert sum(len(split["label"]) for split in splits.values()) == 1_797
    for split in splits.values():
        shares = np.bincount(split["label"], minlength=10) / len(split["label"])
        # A tenth each, within three standard deviations of a random draw of 300.
        np.testing.assert_allclose(shares, 0.1, atol=3 * np.sqrt(0.1 * 0.9 / 300))
