"""What the scripts share: flags, the config flag with its overrides, one-line errors, exit codes."""

import copy
import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from playbook_jax import config as config_lib
from playbook_jax.errors import UsageError, closest

FLAGS = flags.FLAGS
BAD_INPUT = 2


def run(main: Callable[[Sequence[str]], int | None], *, config_flag: bool = False) -> None:
    """Parses the flags, runs `main` with what is left of the arguments, and exits with its code.

    Bad input (a `UsageError`, an unknown flag, a config key that does not exist) is printed as one
    line on standard error and exits with 2.

    Args:
      main: gets the program's name and its positional arguments.
      config_flag: whether the script takes `--config=FILE` with overrides
        (`--config.hparams.learning_rate=0.1`); `main` then finds the config in `FLAGS.config`.
    """
    try:
        arguments = sys.argv if not config_flag else _define_config(sys.argv)
        rest = _parse(arguments)
        code = main(rest)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        code = BAD_INPUT
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code or 0)


def command() -> list[str]:
    """Returns the command that started this process, to be shown and repeated."""
    path = sys.argv[0]
    relative = os.path.relpath(path)
    return [path if relative.startswith("..") else relative, *sys.argv[1:]]


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
    config = config_lib.load(path)
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
        return FLAGS(list(arguments))
    except flags.Error as error:
        text = " ".join(str(error).split())
        unknown_flag = re.match(r"Unknown command line flag '([^']+)'", text)
        if unknown_flag:
            near = difflib.get_close_matches(unknown_flag[1], list(FLAGS), n=1)
            text = f"unknown flag --{unknown_flag[1]}"
            text += f"; did you mean --{near[0]}?" if near else "; see --help"
        raise UsageError(text) from error
    except (TypeError, ValueError, SyntaxError) as error:
        raise UsageError(" ".join(str(error).split())) from error
