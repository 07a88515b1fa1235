"""Batches streamed from TFRecord files: their order, what they hold, and where they go."""

import dataclasses
import itertools
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import InputError, UsageError
from playbook_jax.input import streaming, tfrecords as records_lib
from playbook_jax.lazy_tensorflow import import_tensorflow
from playbook_jax.runtime import parallel
from playbook_jax.training import evaluation_batches, loop, program
from tests import small, test_playbook, tiny_records
from tests.runs import new_programs
from tests.streamed import (
    digits,
    files_of,
    ids,
    on_disk,
    rewrite,
    shifted,
    source,
)
from tests.tiny_records import SIZE


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    return tiny_records.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copied(builder, tmp_path):
    """The data set in a place where it may be damaged."""
    place = tmp_path / "tiny_records" / "1.0.0"
    shutil.copytree(builder.data_dir, place)
    return records_lib.find_builder("tiny_records", str(tmp_path))


# The order.


@pytest.mark.playbook("batches-by-seed-and-step")
def test_every_example_once_an_epoch_and_nothing_dropped(builder):
    epochs = ids(builder).reshape(8, SIZE)  # 101 batches of 8
    assert all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert not np.array_equal(ids(builder, seed=1).reshape(8, SIZE)[0], epochs[0])


def test_files_come_in_another_order_each_epoch_and_blocks_are_shuffled(builder):
    places = on_disk(builder)
    # A buffer of one record shuffles nothing but the files.
    plain = ids(builder, shuffle_buffer=1).reshape(8, SIZE)
    orders = []
    for epoch in plain:
        runs = [
            list(run) for _, run in itertools.groupby((places[i] for i in epoch), lambda p: p[0])
        ]
        assert sorted(run[0][0] for run in runs) == list(range(tiny_records.FILES))
        assert all([record for _, record in run] == list(range(len(run))) for run in runs)
        orders.append(tuple(run[0][0] for run in runs))
    assert len(set(orders)) > 4  # of 720
    # 101 records in blocks of at most 16: seven, of 15 and the last of 11.
    shuffled = ids(builder, shuffle_buffer=16).reshape(8, SIZE)
    permutations = []
    for epoch, unshuffled in zip(shuffled, plain, strict=True):
        for begin in range(0, SIZE, 15):
            block, expected = epoch[begin : begin + 15], unshuffled[begin : begin + 15]
            assert set(block) == set(expected)
            permutations.append(tuple(list(expected).index(i) for i in block))
    assert len(set(permutations)) == len(permutations) == 8 * 7


@pytest.mark.playbook("batches-by-seed-and-step")
@pytest.mark.parametrize("num_shards", [1, 2])
def test_a_run_goes_on_anywhere(builder, num_shards):
    whole = ids(builder, 0, 40, num_shards=num_shards)
    for step, num_steps in [(3, 4), (13, 1), (25, 15)]:
        part = ids(builder, step, num_steps, num_shards=num_shards)
        np.testing.assert_array_equal(part, whole[step : step + num_steps])
    one_source = source(tiny_records.records(builder, features=("id",)), num_shards=num_shards)
    fed = [one_source.feed(step, n)["id"] for step, n in [(0, 3), (3, 1), (4, 5), (20, 2)]]
    expected = [whole[0:3], whole[3:4], whole[4:9], whole[20:22]]
    for got, want in zip(fed, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_going_on_reads_nothing_of_the_blocks_before(copied):
    whole = ids(copied, 0, 13)  # an epoch has 12.6 batches
    places, files = on_disk(copied), files_of(copied)
    later = {places[i][0] for i in whole[8:12].ravel()} | {places[i][0] for i in whole[12][:5]}
    before = {places[i][0] for i in whole[:3].ravel()} - later
    assert before
    for file in before:
        files[file].unlink()
    np.testing.assert_array_equal(ids(copied, 8, 3), whole[8:11])


@pytest.mark.playbook("shard-the-files", "seeds-on-several-hosts")
def test_shards_have_their_own_records_and_hosts_make_their_own_shards(builder, monkeypatch):
    whole = ids(builder, 0, 30, num_shards=4).reshape(30, 4, 2)
    places = on_disk(builder)
    in_order = sorted(range(SIZE), key=places.get)
    for shard in range(4):
        seen = set(whole[:, shard].ravel())
        assert seen == set(in_order[SIZE * shard // 4 : SIZE * (shard + 1) // 4])
    monkeypatch.setattr(parallel, "host_count", lambda: 2)
    for host in range(2):
        monkeypatch.setattr(parallel, "host_index", lambda host=host: host)
        mine = ids(builder, 0, 30, num_shards=4).reshape(30, 2, 2)
        np.testing.assert_array_equal(mine, whole[:, 2 * host : 2 * host + 2])


@pytest.mark.playbook("shard-the-files")
def test_shards_of_the_same_files_would_be_shuffled_differently(builder):
    split = tiny_records.records(builder).split("train")
    shards = [streaming.make_shard(split, 0, index, 2, 8, 16) for index in (0, 1)]
    assert not np.array_equal(shards[0].seed, shards[1].seed)
    other = streaming.make_shard(split, 1, 0, 2, 8, 16)
    assert not np.array_equal(shards[0].seed, other.seed)


# What the examples hold.


def test_examples_are_decoded(builder):
    batch = source(tiny_records.records(builder)).feed(5, 1)
    assert set(batch) == {"image", "label", "id"}
    for image, label, number in zip(*(batch[n][0] for n in ("image", "label", "id")), strict=True):
        np.testing.assert_array_equal(image, tiny_records.image(number))
        assert label == number % 10


@pytest.mark.playbook("drop-unused-features")
def test_unused_features_are_not_even_parsed(copied):
    def spoil(number, example):
        example.features.feature["unused"].bytes_list.value[0] = b"no image"

    for path in files_of(copied):
        rewrite(path, spoil)
    assert len(source(tiny_records.records(copied)).feed(0, 13)["id"]) == 13
    with pytest.raises(InputError, match="Unknown image file format"):
        source(tiny_records.records(copied, features=("id", "unused"))).feed(0, 1)


@pytest.mark.playbook("tf-data-prefetch")
def test_batches_are_made_ahead(builder):
    tf, made = import_tensorflow(), []

    def count(example):
        counted = tf.numpy_function(lambda i: made.append(i) or i, [example["id"]], tf.int64)
        return {"id": tf.ensure_shape(counted, [])}

    records = tiny_records.records(builder, features=("id",), preprocess=count)
    one_source = source(records)
    one_source.feed(0, 1)
    deadline = time.monotonic() + 10
    while len(made) < 3 * 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) >= 3 * 8  # nobody asked for the second and the third batch


@pytest.mark.playbook("batches-by-seed-and-step")
def test_augmentation_is_a_function_of_seed_and_position(builder):
    records = tiny_records.records(builder, features=("id",), augment=shifted)
    whole = source(records).feed(0, 26)
    noise = whole["noise"].reshape(-1, 2)
    assert len(np.unique(noise, axis=0)) == len(noise)  # also of the same example in two epochs
    np.testing.assert_array_equal(source(records).feed(9, 4)["noise"], whole["noise"][9:13])
    assert not np.array_equal(source(records, seed=1).feed(0, 1)["noise"][0], whole["noise"][0])
    assert "noise" not in records.split("validation").arrays()


def test_evaluations_see_what_is_not_random(builder):
    tf = import_tensorflow()
    records = tiny_records.records(
        builder,
        preprocess=lambda example: {"image": example["image"]},
        augment=lambda example, seed: {
            "image": tf.image.stateless_random_crop(example["image"], (2, 2, 1), seed)
        },
        evaluate=lambda example: {"image": example["image"][1:3, 1:3]},
    )
    expected = [tiny_records.image(i)[1:3, 1:3].tobytes() for i in range(SIZE)]
    # The training set too, where it is evaluated.
    images = records.split("train").arrays()["image"]
    assert sorted(image.tobytes() for image in images) == sorted(expected)
    for cache in (False, True):
        fed = source(records, cache=cache).feed(0, 13)["image"].reshape(-1, 2, 2, 1)
        assert sum(image.tobytes() in expected for image in fed) < len(fed) / 2  # 1 of 9 crops


@pytest.mark.playbook("encoded-on-disk")
def test_preprocessing_may_decode_by_itself(builder):
    tf = import_tensorflow()

    def decode(example):
        return {"mean": tf.reduce_mean(tf.cast(tf.io.decode_png(example["image"]), tf.float32))}

    records = tiny_records.records(
        builder, features=("image",), encoded=("image",), preprocess=decode
    )
    means = records.split("train").arrays()["mean"]
    expected = [tiny_records.image(i).mean() for i in range(SIZE)]
    np.testing.assert_allclose(np.sort(means), np.sort(expected), rtol=1e-6)


@pytest.mark.playbook("preprocess-once", "data-far-away")
@pytest.mark.parametrize("augment", [None, shifted])
def test_cached_examples_are_the_same_and_files_are_read_once(copied, augment):
    records = tiny_records.records(copied, augment=augment)
    expected = source(records, num_shards=2).feed(7, 20)
    cached = source(records, num_shards=2, cache=True)
    for path in files_of(copied):
        path.unlink()
    batch = cached.feed(7, 20)
    for name, x in expected.items():
        np.testing.assert_array_equal(batch[name], x)


@pytest.fixture
def service():
    """The address of a tf.data service with two workers."""
    command = [sys.executable, small.ROOT / "scripts" / "input_service.py", "--workers=2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    yield line.split()[0].removeprefix("--config.dataset.service=")
    process.terminate()
    assert process.wait(20) == 0


@pytest.mark.playbook("tf-data-service")
def test_a_service_with_two_workers_gives_the_same_batches(builder, service):
    records = tiny_records.records(builder, augment=shifted)
    for step, num_shards in [(0, 1), (21, 2)]:
        local = source(records, num_shards=num_shards).feed(step, 20)
        served = source(records, num_shards=num_shards, service=service)
        remote = served.feed(step, 20)
        served._batches.close()  # it would look for the service for ever
        for name, x in local.items():
            np.testing.assert_array_equal(remote[name], x)
    with pytest.raises(UsageError, match="choose one"):
        source(records, service=service, cache=True)


def test_a_service_that_is_not_there(builder):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    for address, text in [
        (f"grpc://localhost:{port}", "no tf.data service answers"),
        ("localhost:5050", 'like "grpc://host:5050"'),
    ]:
        with pytest.raises(UsageError, match=text):
            source(tiny_records.records(builder), service=address)


@pytest.mark.playbook("tf-data-service")
def test_parts_of_a_service_are_put_back_in_order(builder, monkeypatch):
    split = tiny_records.records(builder).split("train")
    shard = streaming.make_shard(
        split, 0, 0, 1, 8, 16
    )  # blocks of 15, the last of 11: two parts each
    parts = [
        (block, part, {"x": np.full(1, 2 * block + part)})
        for block in range(5, 12)
        for part in (0, 1)
    ]
    mixed = np.random.default_rng(0).permutation(len(parts))
    ordered = streaming.in_order((parts[i] for i in mixed), 5, shard)
    assert [int(part["x"][0]) for part in ordered] == list(range(10, 24))
    monkeypatch.setattr(streaming, "_BLOCKS_AHEAD", 3)
    with pytest.raises(InputError, match="lost part of block 5"):
        list(streaming.in_order(iter(parts[1:]), 5, shard))


# Evaluation.


def test_a_split_that_does_not_fit_is_streamed_and_gives_the_same(builder, monkeypatch):
    split = tiny_records.records(builder).split("validation")
    resident = evaluation_batches.make(split, 8, {})
    monkeypatch.setattr(evaluation_batches, "RESIDENT_BYTES", 100)
    streamed = evaluation_batches.make(split, 8, {})
    assert isinstance(streamed, evaluation_batches.StreamedBatches)
    for _ in range(2):
        for (x, i), (y, j) in zip(resident, streamed, strict=True):
            for name in y:
                np.testing.assert_array_equal(np.asarray(x[name])[:, i], y[name][:, j])


def test_hosts_evaluate_each_example_once_in_as_many_batches(builder, monkeypatch):
    split = tiny_records.records(builder).split("validation")  # 23: 11 and 12
    monkeypatch.setattr(evaluation_batches, "RESIDENT_BYTES", 100)
    monkeypatch.setattr(parallel, "host_count", lambda: 2)
    monkeypatch.setattr(parallel, "all_devices_count", lambda: 8)
    seen, counts = [], []
    for host in range(2):
        monkeypatch.setattr(parallel, "host_index", lambda host=host: host)
        batches = list(evaluation_batches.make(split, 8, {}))
        counts.append(len(batches))
        seen += [int(i) for b, _ in batches for i in b["id"][b["weight"] > 0]]
    assert counts == [3, 3]  # of four examples, one on each device
    assert sorted(seen) == sorted(split.arrays()["id"])


def test_the_sample_of_the_training_set_takes_from_every_file(builder):
    split = tiny_records.records(builder).split("train")
    places = on_disk(builder)
    sample = [places[i] for i in split.only(split.sample_numbers(20)).arrays()["id"]]
    assert len(sample) == 20
    assert sample == sorted(sample)
    counts = np.bincount([file for file, _ in sample], minlength=tiny_records.FILES)
    assert set(counts) == {3, 4}
    assert all(record < 4 for _, record in sample)
    assert len(split.sample_numbers(1000)) == SIZE
    chosen = split.only([7, 3, 4, 100]).arrays()["id"]
    np.testing.assert_array_equal(chosen, split.arrays()["id"][[7, 3, 4, 100]])


# Runs.


def test_streamed_evaluations_give_the_same_metrics(tmp_path, monkeypatch):
    loop.train(digits(), tmp_path / "resident")
    monkeypatch.setattr(evaluation_batches, "RESIDENT_BYTES", 1)
    with new_programs():
        loop.train(digits(), tmp_path / "streamed")
    tables = [trial.load(tmp_path / name).evaluations for name in ("resident", "streamed")]
    # The same sums, though compiled for other shapes: float32 roundings.
    np.testing.assert_allclose(*tables, rtol=1e-6)


def test_the_same_records_can_lie_in_memory(tmp_path):
    config = digits(dataset__source="memory", dataset__shift=0)
    arrays = program.get(loop.validate(config)).arrays
    expected = program.workload_lib.find("digits")(config).splits()
    for name, split in expected.items():
        rows = [
            np.concatenate([x["image"].reshape(-1, 64), x["label"][:, None]], 1)
            for x in (arrays[name], split)
        ]
        np.testing.assert_array_equal(*(r[np.lexsort(r.T)] for r in rows))
    with pytest.raises(UsageError, match="augments its examples as they are streamed"):
        loop.validate(digits(dataset__source="memory"))
    with pytest.raises(UsageError, match="'digits' has no method records"):
        loop.validate(small.digits(dataset__source="tfds"))


def test_tensorflow_sees_no_accelerator():
    visible = import_tensorflow().config.get_visible_devices()
    assert {device.device_type for device in visible} == {"CPU"}


# docs/input.md


PAGE = (small.ROOT / "docs" / "input.md").read_text()


def test_the_workload_in_the_page_streams(builder, monkeypatch):
    monkeypatch.setattr(records_lib, "find_builder", lambda name, directory: builder)
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], names)
    workload = names["Flowers"](config_lib.from_dict({"dataset": {"data_dir": ""}}))
    splits = dict.fromkeys(("train", "validation"), "train")
    records = dataclasses.replace(workload.records(), splits=splits)
    batch = source(records, ranges=workload.ranges()).feed(0, 1)
    assert batch["image"].shape == (1, 8, 224, 224, 3)
    assert batch["image"].dtype == np.uint8


def test_the_page_names_scripts_and_flags_that_exist():
    commands = re.findall(r"^(scripts/\S+\.py .*?)(?:  +#.*)?$", PAGE, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        name, *arguments = shlex.split(command)
        if "…" in command:  # any config will do
            arguments = [a.replace("config=…", "config=configs/digits_tfds.py") for a in arguments]
        test_playbook.assert_flags_exist(name, arguments)
    # The keys that the page explains are in the config that shows them.
    keys = set(re.findall(r"`dataset\.(\w+)", PAGE))
    config = config_lib.load(small.ROOT / "configs" / "digits_tfds.py")
    assert keys == set(config.dataset) - {"shift"}


@pytest.mark.playbook("preprocess-once")
def test_each_example_is_preprocessed_once_however_many_epochs_are_trained(builder):
    tf = import_tensorflow()
    preprocessed, augmented = [], []

    def counting(calls):
        def count(label):
            calls.append(1)
            return label

        return lambda label: tf.ensure_shape(tf.numpy_function(count, [label], tf.int64), [])

    def preprocess(example):
        return {**example, "label": counting(preprocessed)(example["label"])}

    def augment(example, seed):
        return {**shifted(example, seed), "label": counting(augmented)(example["label"])}

    records = tiny_records.records(builder, preprocess=preprocess, augment=augment)
    source(records, cache=True).feed(0, 3 * SIZE // 8)
    assert len(preprocessed) == SIZE
    assert len(augmented) >= 3 * SIZE // 8 * 8
