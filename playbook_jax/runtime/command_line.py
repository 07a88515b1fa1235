"""What the scripts share: flags, the config flag with its overrides, one-line errors, exit codes."""

import ast
import contextlib
import copy
import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from playbook_jax import config as config_lib, config_keys
from playbook_jax.errors import UsageError, closest
from playbook_jax.runtime import paths

FLAGS = flags.FLAGS
BAD_INPUT = 2


def run(
    main: Callable[[Sequence[str]], int | None],
    *,
    config_flag: bool = False,
    split: Callable[[Sequence[str]], tuple[list[str], list[str]]] | None = None,
) -> None:
    """Parses the flags, runs `main` with what is left of the arguments, and exits with its code.

    Bad input (a `UsageError`, an unknown flag, a config key that does not exist, a device or a remote
    directory that is not there) is printed as one line on standard error and exits with 2.

    Args:
      main: gets the program's name and its positional arguments.
      config_flag: whether the script takes `--config=FILE` with overrides
        (`--config.hparams.learning_rate=0.1`); `main` then finds the config in `FLAGS.config`.
      split: takes from the arguments what is no flag, and returns that and the flags.
    """
    _open_closed_streams()
    sys.stdout, sys.stderr = map(_Stream.around, (sys.stdout, sys.stderr))
    try:
        _check_text(sys.argv)
        arguments = sys.argv if not config_flag else _define_config(sys.argv)
        rest = _parse(split(arguments)[1] if split else arguments)
        code = main(rest)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        code = BAD_INPUT
    except Exception as error:
        text = _of_the_environment(error)
        if not text:
            raise
        print(f"error: {text}", file=sys.stderr)
        code = BAD_INPUT
    print(end="", flush=True)
    print(end="", file=sys.stderr, flush=True)
    sys.exit(code or 0)


class _Stream:
    """Standard output or error whose reader may leave (`| head`): the work goes on, and says no more."""

    @classmethod
    def around(cls, stream: Any) -> Any:
        """Returns the stream, which takes what is written also without a reader; None where there is none."""
        return stream and cls(stream)

    def __init__(self, stream: Any) -> None:
        """Takes the stream."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes text."""
        with self._forsaken():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Sends what was written."""
        with self._forsaken():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        """Returns what else a stream has."""
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _forsaken(self) -> Iterator[None]:
        """Lets what comes go nowhere once nobody reads, what the stream still holds at its end too."""
        try:
            yield
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _open_closed_streams() -> None:
    """Gives a process that was started with closed standard streams (`2>&-`) ones that lead nowhere.

    Python has None in their place. Their numbers would go to the next files that are opened, into which
    whatever prints to standard error would then write.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def command() -> list[str]:
    """Returns the command that started this process, to be shown and repeated."""
    path = sys.argv[0]
    relative = os.path.relpath(path)
    return [path if relative.startswith("..") else relative, *sys.argv[1:]]


def _check_text(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if not config_keys.is_text(argument):
            raise UsageError(f"the argument {argument!r} is not text in UTF-8")


def _of_the_environment(error: Exception) -> str:
    """Returns in a line what is not there on this machine, or "" where the error is of another kind."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    asked = os.environ.get("JAX_PLATFORMS")
    # jax fails there with a RuntimeError, or with an assertion where it lacks the device's plugin.
    if asked and frames and Path(frames[-1].filename).name == "xla_bridge.py":
        return (
            f"JAX_PLATFORMS={asked}: jax finds no such device on this machine{text and f' ({text})'}; "
            "leave the variable out, or install jax for the device (scripts/setup.sh cuda)"
        )
    # TensorFlow reads and writes what is remote; its errors can't be named without importing it.
    remote = [word for word in sys.argv if re.search(r"\b(gs|s3|az)://", word)]
    if remote and type(error).__module__.startswith("tensorflow"):
        return f"{remote[0]} cannot be read or written: {text}"
    return ""


def _define_config(arguments: Sequence[str]) -> list[str]:
    """Loads the file that `--config` names and defines a flag for each of its keys."""
    path, rest = None, []
    iterator = iter(arguments)
    for argument in iterator:
        if argument in ("--config", "-config"):
            path = next(iterator, None)
        elif re.match(r"--?config=", argument):
            path = argument.split("=", 1)[1]
        else:
            rest.append(argument)
    if _wants_help(rest):
        flags.DEFINE_string("config", None, "The config file; --config.KEY=VALUE overrides a key.")
        return rest
    if not path:
        raise UsageError("--config=FILE is missing, e.g. --config=configs/digits_mlp.py")
    config = config_lib.load(paths.plain(path))
    # Optional keys that a command line may set although the file does not.
    with config.unlocked():
        for name, default in config_lib.OPTIONAL.items():
            if name not in config:
                config[name] = copy.deepcopy(default)
        if isinstance(config.get("hparams"), ConfigDict):
            for name, default in config_lib.HPARAM_DEFAULTS.items():
                if name not in config.hparams:
                    config.hparams[name] = default
    _check_overrides(config, rest)
    _take_other_types(config, rest)
    # The flag looks for its overrides by itself, and must not see the file's name, which it can't read.
    config_flags.DEFINE_config_dict("config", config, lock_config=True, sys_argv=rest)
    return rest


def _wants_help(arguments: Sequence[str]) -> bool:
    return any(a in ("--help", "-h", "-help", "--helpfull", "-?") for a in arguments)


def _check_overrides(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Names the nearest key where an override is misspelt: ml_collections says less."""
    known = config_lib.flatten(config)
    for argument in arguments:
        match = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        if match and match[1] not in known and not isinstance(_find(config, match[1]), tuple):
            raise UsageError(f"the config has no {match[1]!r}{closest(match[1], known)}")


def _take_other_types(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Lets those keys that may be of several types have the type that the command line gives them."""
    for argument in arguments:
        name, _, text = argument.partition("=")
        key = re.sub(r"^--?config\.", "", name)
        if key not in config_keys.SEVERAL_TYPES:
            continue
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            continue  # as it stands
        with config.unlocked(), config.ignore_type():
            config.update_from_flattened_dict({key: value})


def _find(config: ConfigDict, path: str) -> object:
    """Returns the tuple behind "model.hidden_sizes[0]", if that is what `path` is."""
    name = path.split("[", 1)[0]
    return config_lib.flatten(config).get(name) if "[" in path else None


def _parse(arguments: Sequence[str]) -> list[str]:
    if _wants_help(arguments):
        doc = getattr(sys.modules["__main__"], "__doc__", None) or ""
        print(doc.strip(), "\n\nFlags:", sep="")
        print(FLAGS.main_module_help())
        sys.exit(0)
    try:
        rest = FLAGS(list(arguments))
        _expand_paths()
        return [rest[0], *map(paths.plain, rest[1:])]
    except flags.Error as error:
        text = " ".join(str(error).split())
        unknown_flag = re.match(r"Unknown command line flag '([^']+)'", text)
        if unknown_flag:
            near = difflib.get_close_matches(unknown_flag[1], list(FLAGS), n=1)
            text = f"unknown flag --{unknown_flag[1]}"
            text += f"; did you mean --{near[0]}?" if near else "; see --help"
        raise UsageError(text) from error
    except UsageError:
        raise
    except (TypeError, ValueError, SyntaxError) as error:
        raise UsageError(" ".join(str(error).split())) from error


def _expand_paths() -> None:
    """Expands `~` and the like in all flags: no other text looks like such a path."""
    for name in FLAGS:
        flag = FLAGS[name]
        if flag.present and isinstance(flag.value, str):
            flag.value = paths.plain(flag.value)
        elif flag.present and isinstance(flag.value, list):
            flag.value = [paths.plain(x) if isinstance(x, str) else x for x in flag.value]
