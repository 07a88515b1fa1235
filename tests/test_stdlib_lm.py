"""The language model on Python's standard library: its data, its model against NumPy, its errors."""

import functools
import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from playbook_jax import config as config_lib, workload
from playbook_jax.errors import UsageError
from playbook_jax.training import loop
from tests import small
from workloads import stdlib_lm

CONFIG = config_lib.load(small.ROOT / "configs" / "stdlib_lm.py")
LENGTH = 12
HPARAMS = {"label_smoothing": 0.1, "dropout_rate": 0.0}
TINY = {
    "dataset.sequence_length": LENGTH,
    "dataset.train_bytes": 20_000,
    "dataset.evaluation_bytes": 2_000,
    "model.embedding_size": 16,
    "model.num_heads": 2,
    "model.feed_forward_size": 24,
}


def make(**overrides):
    values = TINY | {key.replace("__", "."): value for key, value in overrides.items()}
    return workload.find("stdlib_lm")(config_lib.override(CONFIG, values))


def random_batch(size=3, padding=0):
    """Bytes, the first example of which ends with so many that only fill it up."""
    data = np.random.default_rng(0).integers(1, 256, (size, LENGTH + 1), np.uint8)
    data[0, LENGTH + 1 - padding :] = stdlib_lm.NO_BYTE
    return {"bytes": data}


@functools.cache
def compiled(lm):
    return jax.jit(lambda variables, batch: lm.apply(variables, batch, {}, {}, train=False)[0])


def drawn(lm):
    return jax.jit(lm.init)(jax.random.key(0))["params"]


def logits(lm, variables, batch):
    return np.asarray(compiled(lm)(variables, batch))


# The data.


def write_library(root):
    """A library of 40 files, and files beside it that do not belong to it."""
    for number in reversed(range(40)):
        path = root / f"package{number % 4}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"x = {number}\r\n".encode() * (number + 1))
    for name in (
        "site-packages/a.py",
        "package1/test/b.py",
        "config-3-x86/c.py",
        "_sysconfigdata_x.py",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("not the library's")
    (root / "empty.py").touch()
    return root


def test_a_files_split_follows_from_its_path_alone(tmp_path):
    first = stdlib_lm.texts(write_library(tmp_path / "here"))
    second = stdlib_lm.texts(write_library(tmp_path / "there" / "python"))
    assert first == second
    assert [list(split) for split in first.values()] == [sorted(x) for x in first.values()]
    paths = [path for split in first.values() for path in split]
    assert len(paths) == len(set(paths)) == 40
    assert all(b"\r" not in text for split in first.values() for text in split.values())
    # Written down, so that no other version of this code can deal the files out anew: a checkpoint
    # would then be evaluated on what it was trained on.
    names = ("os.py", "json/decoder.py", "ast.py", "bisect.py")
    expected = ["train", "train", "test", "validation"]
    assert [stdlib_lm.split_of(name) for name in names] == expected


def test_the_interpreters_own_library_is_found_and_whole():
    splits = stdlib_lm.texts(Path(sysconfig.get_path("stdlib")))
    sizes = {name: sum(map(len, files.values())) for name, files in splits.items()}
    total = sum(sizes.values())
    assert total > 5e6
    # By whole files of very different sizes, so a tenth each is only nearly so.
    assert 0.05 < sizes["validation"] / total < 0.2
    assert 0.05 < sizes["test"] / total < 0.2
    assert "os.py" in splits[stdlib_lm.split_of("os.py")]
    assert not [p for files in splits.values() for p in files if "/test/" in p or "packages" in p]


def test_every_byte_is_predicted_once_after_those_before_it(tmp_path, monkeypatch):
    root = write_library(tmp_path)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(root))
    lm = make(dataset__train_bytes=0, dataset__evaluation_bytes=0)
    for name, split in lm.splits().items():
        data, files = split["bytes"], stdlib_lm.texts(root)[name]
        assert (data.dtype, data.shape[1]) == (np.uint8, LENGTH + 1)
        targets = data[:, 1:].ravel()
        assert targets[targets != 0].tobytes() == b"".join(files.values())
        # Each input begins with the byte before, or with none where a file begins.
        starts = np.cumsum([0, *(-(-len(text) // LENGTH) for text in files.values())])[:-1]
        begins = np.isin(np.arange(len(data)), starts)
        assert np.all(data[begins, 0] == stdlib_lm.NO_BYTE)
        np.testing.assert_array_equal(data[1:, 0][~begins[1:]], data[:-1, -1][~begins[1:]])


def test_the_sample_is_spread_over_all_files():
    whole = make(dataset__evaluation_bytes=0).splits()["validation"]["bytes"]
    part = make().splits()["validation"]["bytes"]
    assert len(part) == -(-2_000 // LENGTH)
    rows = [np.flatnonzero((whole == example).all(1)) for example in part]
    assert all(len(row) for row in rows)
    # The examples are not all different, so each is looked for near where it should be.
    gap = len(whole) / len(part)
    for number, row in enumerate(rows):
        assert np.abs(row - number * gap).min() <= 1


def test_without_sources_one_line_says_so(tmp_path, monkeypatch):
    (tmp_path / "os.py").write_text("import this")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UsageError, match=f"{tmp_path} holds 1 of them; use a Python that") as error:
        loop.validate(config_lib.override(CONFIG, TINY | {"seed": 7, "batch_size": 4}))
    assert "\n" not in str(error.value)


# The model.


def oracle(params, text, rotary, placement):
    """The transformer in float64; returns logits [batch, length, 256]."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    embedding = params["Embed_0"]["embedding"]
    x = embedding[text]
    length, size = text.shape[1], 8
    if not rotary:
        x = x + params["positions"]

    def norm(x, p):
        centered = x - x.mean(-1, keepdims=True)
        return p["bias"] + p["scale"] * centered / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    def turn(x):
        pairs = x[..., : size // 2] + 1j * x[..., size // 2 :]
        speed = 10_000.0 ** (-2 * np.arange(size // 2) / size)
        pairs = pairs * np.exp(1j * np.arange(length)[:, None, None] * speed)
        return np.concatenate([pairs.real, pairs.imag], -1)

    def attention(x, first, second):
        q, k, v = np.moveaxis(np.einsum("btd,dshe->btshe", x, first), 2, 0)
        if rotary:
            q, k = turn(q), turn(k)
        scores = np.einsum("bihe,bjhe->bhij", q, k) / np.sqrt(size)
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        y = np.einsum("bhij,bjhe->bihe", weights, v)
        return np.einsum("bthe,hed->btd", y, second)

    def feed_forward(x, first, second):
        x = x @ first
        x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return x @ second

    for number in range(4):
        block = params[f"Residual_{number}"]
        kernels = (block[f"DenseGeneral_{i}"]["kernel"] for i in range(2))
        branch, p = (attention, feed_forward)[number % 2], block["LayerNorm_0"]
        x = (
            x + branch(norm(x, p), *kernels)
            if placement == "pre"
            else norm(x + branch(x, *kernels), p)
        )
    if placement == "pre":
        x = norm(x, params["LayerNorm_0"])
    return x @ embedding.T


def shaken(lm):
    """Parameters of which none is at its initial zero or one."""
    params = drawn(lm)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(x.dtype), params)


@pytest.mark.parametrize(("positions", "placement"), [("rotary", "pre"), ("learned", "post")])
def test_outputs_and_loss_are_those_of_a_float64_oracle(positions, placement):
    lm = make(model__positions=positions, model__norm_placement=placement)
    params, batch = shaken(lm), random_batch(padding=5)
    expected = oracle(params, batch["bytes"][:, :-1], positions == "rotary", placement)
    actual = logits(lm, {"params": params}, batch)
    # float32 against float64 through four blocks, for values of about 5.
    np.testing.assert_allclose(actual, expected, atol=2e-5)

    log_p = expected - np.log(np.exp(expected).sum(-1, keepdims=True))
    targets = batch["bytes"][:, 1:].astype(int)
    true = np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    counts = targets != 0
    for smoothing, pair in (
        (0.1, lm.loss(actual, batch, HPARAMS)),
        (0.0, lm.metrics(actual, batch)["loss"]),
    ):
        loss = -(1 - smoothing) * true - smoothing * log_p.mean(-1)
        np.testing.assert_allclose(pair[0], np.sum(loss * counts, 1), rtol=1e-5)
        np.testing.assert_array_equal(pair[1], [LENGTH - 5, LENGTH, LENGTH])
    metrics = lm.metrics(actual, batch)
    np.testing.assert_allclose(
        metrics["bits_per_byte"][0], metrics["loss"][0] / np.log(2), rtol=1e-6
    )
    wrong = (expected.argmax(-1) != targets) & counts
    np.testing.assert_array_equal(metrics["error_rate"][0], wrong.sum(1))
    predicted = lm.predictions(actual, batch)["next_bytes"]
    np.testing.assert_array_equal(predicted, expected.argmax(-1))


@pytest.mark.parametrize("positions", stdlib_lm.POSITIONS)
def test_no_output_depends_on_a_later_byte(positions):
    lm, batch = make(model__positions=positions), random_batch()
    variables = {"params": shaken(lm)}
    before = logits(lm, variables, batch)
    for place in (0, 5, LENGTH - 1):
        changed = batch["bytes"].copy()
        changed[:, place] ^= 1
        after = logits(lm, variables, {"bytes": changed})
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        # All from there on see it.
        assert np.all(np.abs(after - before)[:, place:].max(-1) > 1e-6)
    changed = batch["bytes"].copy()
    changed[:, -1] ^= 1  # what the last output is to predict
    np.testing.assert_array_equal(logits(lm, variables, {"bytes": changed}), before)


def test_rotated_products_depend_on_the_distance_alone():
    query, key = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    repeated = [np.broadcast_to(x, (1, 50, 1, 8)) for x in (query, key)]
    q, k = (np.asarray(stdlib_lm.rotate(jnp.asarray(x)))[0, :, 0] for x in repeated)
    products = q @ k.T
    for distance in (0, 1, 7, 30):
        diagonal = np.diagonal(products, distance)
        # Angles up to 50 are rounded to 2e-6 in float32.
        np.testing.assert_allclose(diagonal, diagonal[0], atol=3e-5)
    assert np.ptp(products[0]) > 1  # distances do matter
    np.testing.assert_allclose(products[3, 3], query @ key, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(q, axis=1), np.linalg.norm(query), rtol=1e-5)


def test_tied_embeddings_are_the_output_layer():
    def size(tied):
        params = jax.eval_shape(make(model__tied_embeddings=tied).init, jax.random.key(0))
        return sum(x.size for x in jax.tree.leaves(params))

    assert size(False) - size(True) == 16 * 256


@pytest.mark.playbook("zero-residual-branches")
@pytest.mark.parametrize("placement", ["pre", "res_post", "post"])
def test_residual_branches_of_the_transformer_begin_at_zero(placement):
    overrides = {"model__norm_placement": placement, "model__zero_init_residual": True}
    lm, batch = make(**overrides), random_batch()
    params = drawn(lm)
    plain = logits(lm, {"params": params}, batch)

    def with_noise(**changes):
        blocks = {name: x for name, x in params.items() if name.startswith("Residual")}
        assert len(blocks) == 4
        for name, x in blocks.items():
            noise = {n: jax.tree.map(lambda y: y + 0.1, x[n]) for n in x if n.startswith("Dense")}
            blocks[name] = x | noise | changes
        return logits(lm, {"params": params | blocks}, batch)

    np.testing.assert_array_equal(with_noise(), plain)
    # The branches do reach the output once their scales are not zero any more.
    assert np.abs(with_noise(residual_scale=np.float32(1)) - plain).max() > 0.1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model__norm", "batch", "'batch' would tell each byte about those after it"),
        ("model__norm_placement", "past", "unknown norm_placement 'past'; did you mean 'post'"),
        ("model__positions", "rotory", "unknown model.positions 'rotory'; did you mean 'rotary'"),
        ("model__num_heads", 3, "model.embedding_size must be a multiple of twice model.num_heads"),
        ("dataset__sequence_length", 0, "dataset.sequence_length must be at least 1"),
        ("model__dtype", "float16", r"unknown model.dtype 'float16'"),
    ],
)
def test_a_model_that_cannot_be_is_told(key, value, message):
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(make(**{key: value}).init, jax.random.key(0))
