"""Bad input in a config file, in flags and in paths ends in one line, and nothing is made."""

import os
import subprocess
import sys

import pytest

from playbook_jax import config as config_lib, trial
from playbook_jax.errors import UsageError
from playbook_jax.input import tfrecords
from playbook_jax.runtime import command_line, paths
from playbook_jax.training import loop
from tests import small


def changed(path, value):
    """The digits with one key of another type."""
    values = small.digits().to_dict()
    *parts, name = path.split(".")
    inside = values
    for part in parts:
        inside = inside[part]
    inside[name] = value
    return config_lib.ConfigDict(values)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("eval_train_examples", "300", "a whole number, at least 0; it is '300'"),
        ("hparams", None, "a dictionary; it is None"),
        ("checkpoint", 5, "a dictionary; it is 5"),
        ("dataset", (), r"a dictionary; it is \\(\\)".replace("\\\\", "\\")),
        ("model", "mlp", "a dictionary; it is 'mlp'"),
        ("dataset.num_shards", "two", "a whole number, at least 0; it is 'two'"),
        ("dataset.source", 3, "the name of a source; it is 3"),
        ("batch_size", True, "a whole number, at least 1; it is True"),
        ("max_train_steps", 10**12, "at most 2,147,483,647; it is 1000000000000"),
        ("log_every_steps", 10**10, "at most 1,000,000; it is 10000000000"),
        ("steps_per_call", 10**9, "at most 1,000,000; it is 1000000000"),
        ("workload", None, "the name of a file in workloads/; it is None"),
        ("optimizer", ("adam",), "the name of an optimizer; it is"),
        ("notes", "a\udcff", "text that UTF-8 can write"),
        ("notes", 3, "text; it is 3"),
        ("save_predictions", "all", "a number of examples or a tuple of their numbers"),
        ("model.dropout", float("nan"), "finite; it is nan"),
        ("model.layer", object, "a number, text, True, False, None, or a tuple"),
        ("hparams.momentum", True, "a number .*; it is True"),
        ("hparams.momentum", "0.9", "a number .*; it is '0.9'"),
        ("hparams.learning_rate", 10**50, "at most 3.4e.38 in size"),
        ("hparams.learning_rate", 1e300, "at most 3.4e.38 in size"),
        ("hparams.warmup_steps", 1e12, "a whole number of steps"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_the_type_it_must_have(path, value, message):
    with pytest.raises(UsageError, match=rf"^{path} must (be )?{message}") as error:
        config_lib.complete(changed(path, value))
    assert "\n" not in str(error.value)


def test_a_number_that_python_refuses_to_write_is_refused():
    with pytest.raises(UsageError, match="it is a number of more than 100 digits"):
        config_lib.complete(changed("hparams.learning_rate", 10**5000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "defines no function get_config"),
        ("def get_config():\n    pass\n", "returns a NoneType, not a ConfigDict"),
        ("import sys\nsys.exit(0)\n", r"fails \(line 2 of config.py\): SystemExit: 0"),
        ("def get_config():\n    raise SystemExit\n", r"fails \(line 2 of config.py\): SystemExit"),
        ("def get_config(:\n", "fails: SyntaxError"),
    ],
)
def test_a_config_file_that_gives_no_config_is_refused(text, message, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        config_lib.load(path)


def test_a_directory_is_no_config(tmp_path):
    with pytest.raises(UsageError, match="is a directory; a config is a Python file in it"):
        config_lib.load(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UsageError, match=r"it holds \[1\]"):
        config_lib.load(tmp_path / "config.json")


def test_paths_are_what_users_mean_by_them(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert paths.plain("~/run") == "/home/me/run"
    assert paths.plain("file:///tmp/run") == "/tmp/run"
    assert paths.plain("gs://bucket/run") == "gs://bucket/run"
    assert paths.plain("a ~ b") == "a ~ b"
    assert paths.plain("ray://head:10001") == "ray://head:10001"
    for text, message in (
        ("gs://", "lacks the bucket"),
        ("gs:///run", "lacks the bucket"),
        ("file://run", "after file:// it begins with /"),
        ("http://host/run", "nothing can be read or written there"),
        ("~no_such_user/run", "no such user"),
    ):
        with pytest.raises(UsageError, match=message):
            paths.plain(text)


def run_train(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, str(small.ROOT / "scripts" / "train.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_a_tilde_in_a_flag_is_the_home_directory_and_examples_can_be_chosen(tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    (home / "configs").mkdir(parents=True)
    here.mkdir()
    text = "from tests import small\n\n\ndef get_config():\n    return small.digits(max_train_steps=10)\n"
    (home / "configs" / "c.py").write_text(text)
    result = run_train(
        "--config=~/configs/c.py",
        "--workdir=~/run",
        "--config.save_predictions=(0,5)",
        cwd=here,
        HOME=str(home),
        PYTHONPATH=str(small.ROOT),
    )
    assert result.returncode == 0, result.stderr
    assert list(here.iterdir()) == []
    assert trial.load(home / "run").config["save_predictions"] == [0, 5]


def test_a_machine_without_the_device_that_was_asked_for_is_told_so_in_a_line(tmp_path):
    config = f"--config={small.ROOT}/configs/digits_mlp.py"
    result = run_train(config, "--workdir=run", cwd=tmp_path, JAX_PLATFORMS="cuda")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: JAX_PLATFORMS=cuda: ")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_an_argument_that_is_no_text_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--workdir=a\udcff"])
    with pytest.raises(SystemExit) as ended:
        command_line.run(lambda rest: 0)
    assert ended.value.code == 2
    assert "is not text in UTF-8" in capsys.readouterr().err


def test_what_cannot_be_written_leaves_no_part_behind(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        trial.write_text(tmp_path / "a.json", "a\udcff")
    assert list(tmp_path.iterdir()) == []


def test_notes_can_be_changed_when_a_run_goes_on(tmp_path):
    config = small.digits(max_train_steps=10)
    loop.train(config, tmp_path / "run")
    noted = config_lib.override(config_lib.complete(config), {"notes": "a baseline"})
    status = loop.train(noted, tmp_path / "run")
    assert status["state"] == trial.COMPLETE
    assert trial.load(tmp_path / "run").config["notes"] == "a baseline"


def test_the_command_that_prepares_a_data_set_works(tmp_path):
    pytest.importorskip("importlib_resources")  # what tfds.load needs
    from workloads import digits_tfds  # noqa: F401, registers a builder that downloads nothing

    with pytest.raises(UsageError, match="prepares a public one") as error:
        tfrecords.find_builder("playbook_digits", str(tmp_path))
    command = str(error.value).split("`")[1]
    assert command.startswith('python -c "')
    exec(command.split('"')[1])
    assert tfrecords.find_builder("playbook_digits", str(tmp_path)).name == "playbook_digits"
