"""What is wrong with streamed files is said in one line that says where."""

import shutil
from pathlib import Path

import pytest

from playbook_jax import trial
from playbook_jax.errors import InputError, UsageError
from playbook_jax.input import splits, tfrecords as records_lib
from playbook_jax.lazy_tensorflow import import_tensorflow
from playbook_jax.training import evaluation_batches, loop, program
from tests import tiny_records
from tests.streamed import (
    digits,
    files_of,
    ids,
    offsets,
    rewrite,
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


def test_a_damaged_record_is_found(copied):
    path = files_of(copied)[2]
    at = offsets(path)[5]
    damaged = bytearray(path.read_bytes())
    damaged[at + 40] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="corrupted") as caught:
        ids(copied)
    assert f"{path} is damaged: record 5, at byte {at}" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=f"record 5, at byte {at}"):
        tiny_records.records(copied).split("train").arrays()


def test_a_truncated_a_short_and_a_missing_file_are_found(copied):
    path = files_of(copied)[1]
    data, begins = path.read_bytes(), offsets(path)
    path.write_bytes(data[: begins[-1] + 30])
    with pytest.raises(
        InputError, match=rf"record {len(begins) - 1}, at byte {begins[-1]} \(truncated"
    ):
        ids(copied)
    path.write_bytes(data[: begins[-1]])
    with pytest.raises(InputError, match=f"{path} ends after {len(begins) - 1} records"):
        ids(copied)
    path.unlink()
    with pytest.raises(InputError, match=f"{path} does not exist"):
        ids(copied)


def test_a_record_without_a_feature_is_found(copied):
    def rename(number, example):
        if number == 3:
            example.features.feature["labels"].CopyFrom(example.features.feature["label"])
            del example.features.feature["label"]

    path = files_of(copied)[4]
    rewrite(path, rename)
    with pytest.raises(InputError) as caught:
        source(tiny_records.records(copied)).feed(0, 13)
    assert str(caught.value) == (
        f"{path}, record 3: it has no feature 'label'; did you mean 'labels'? "
        "(it has: id, image, labels, unused)"
    )


def test_a_label_out_of_range_is_found_in_every_source(copied):
    def spoil(number, example):
        if number == 2:
            example.features.feature["label"].int64_list.value[0] = 10

    path = files_of(copied)[0]
    rewrite(path, spoil)
    records, ranges = tiny_records.records(copied), {"label": 10}
    text = f"{path}, record 2: label is 10; it must be from 0 to 9"
    for num_shards in (1, 2):
        with pytest.raises(InputError, match=text):
            source(records, ranges=ranges, num_shards=num_shards).feed(0, 13)
    with pytest.raises(InputError, match=text):
        list(evaluation_batches.make(records.split("validation"), 8, ranges))
    arrays = records.split("train").arrays()
    with pytest.raises(InputError, match="example 2 of train: label is 10"):
        splits.check_ranges(arrays, ranges, lambda i: f"example {i} of train")
    arrays["label"][2] = -1
    with pytest.raises(InputError, match="label is -1"):
        splits.check_ranges(arrays, ranges, str)


def test_what_cannot_be_streamed_is_said_before_a_run(builder, tmp_path):
    for changes, text in [
        (
            {"features": ("image", "lable")},
            "unknown feature of tiny_records 'lable'; did you mean 'label'?",
        ),
        ({"splits": {"train": "trian"}}, "tiny_records has no 'trian'"),
        ({"features": ("image",), "encoded": ("image",)}, "'image' is a string"),
    ]:
        with pytest.raises(UsageError, match=text):
            tiny_records.records(builder, **changes).split("train").spec  # noqa: B018
    tf = import_tensorflow()
    ragged = tiny_records.records(
        builder,
        preprocess=lambda example: {"x": tf.zeros([tf.cast(example["id"], tf.int32)])},
    )
    with pytest.raises(UsageError, match="examples of different shapes make no batch"):
        ragged.split("train").spec  # noqa: B018
    with pytest.raises(UsageError, match=r"dataset\.shuffle_buffer must be at least 1"):
        ids(builder, shuffle_buffer=0)


def test_a_data_set_that_is_not_there(builder):
    place = Path(builder.data_dir).parent.parent
    with pytest.raises(
        UsageError, match=r"no data set 'tiny_recrods'.*did you mean 'tiny_records'"
    ):
        records_lib.find_builder("tiny_recrods", str(place))
    with pytest.raises(UsageError, match="there: nothing"):
        records_lib.find_builder("mnist", str(place / "nowhere"))
    assert records_lib.find_builder("tiny_records/1.0.0", str(place)).version == "1.0.0"


def test_another_process_may_be_faster_at_preparing(builder, monkeypatch):
    def too_late(**_):
        raise FileExistsError("Destination already exists")

    ours = tiny_records.TinyRecords(data_dir=str(Path(builder.data_dir).parent.parent))
    monkeypatch.setattr(ours, "is_prepared", lambda: False)
    monkeypatch.setattr(ours, "download_and_prepare", too_late)
    assert records_lib.prepare(ours).info.splits["train"].num_examples == SIZE


@pytest.fixture
def digits_dir(tmp_path):
    """The digits' files in a place where they may be damaged."""
    run_config = digits()
    program.workload_lib.find(run_config.workload)(run_config).records()  # prepares them
    shutil.copytree(records_lib.data_dir() / "playbook_digits", tmp_path / "playbook_digits")
    return tmp_path


def test_a_run_ends_as_failed_and_says_where(digits_dir, tmp_path, capfd):
    path = sorted(digits_dir.glob("*/*/*train*"))[3]
    at = offsets(path)[120]
    damaged = bytearray(path.read_bytes())
    damaged[at + 40] ^= 1
    path.write_bytes(damaged)
    status = loop.train(digits(dataset__data_dir=str(digits_dir)), tmp_path / "trial")
    assert status["state"] == trial.FAILED
    assert status["reason"].startswith(f"{path} is damaged: record 120, at byte {at}")
    assert "Traceback" not in capfd.readouterr().err


def test_bad_validation_data_is_said_before_a_run(digits_dir, tmp_path):
    path = sorted(digits_dir.glob("*/*/*validation*"))[0]
    path.unlink()
    with pytest.raises(UsageError, match=f"{path} does not exist"):
        loop.train(digits(dataset__data_dir=str(digits_dir)), tmp_path / "trial")
    assert not (tmp_path / "trial").exists()
