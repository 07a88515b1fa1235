"""What is thrown at the commands: bad flags, config values, stored files, streams, locales and rights."""

import ast
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REFUSED = (2,)  # bad input, in one line
TOLD = (0, 1, 2)  # what is damaged may be left out, with a word, or refused
FINE = (0,)
NOBODY = 65534

# Of each command what it takes when nothing is bad, for a case in whose directory `study` is a finished
# study of three trials, `config.py` its training config and `study.py` its own.
COMMANDS = {
    "train": ["--config=config.py", "--workdir=new"],
    "launch_study": ["--config=study.py", "--workdir=new", "--dry_run"],
    "analyze": ["--study=study"],
    "studies": ["--study=study"],
    "evaluate": ["--trial=study/trials/000"],
    "export": ["--trial=study/trials/000", "--format=stablehlo", "--output=new"],
    "replicate": ["--study=study", "--workdir=new", "--replicates=2", "--compare"],
    "reproduce": ["--trial=study/trials/000", "--workdir=new"],
    "new_workload": ["a_workload"],
}
# What reads stored files; those that train are slower and fewer.
READERS = (
    ("analyze", ["--study=study"]),
    ("studies", ["--root=."]),
    ("evaluate", ["--trial=study/trials/001"]),
    ("launch_study", ["--config=study.py", "--workdir=study", "--workers=1"]),
    ("reproduce", ["--trial=study/trials/001", "--workdir=new"]),
    ("train", ["--config=study/trials/001/config.json", "--workdir=study/trials/001"]),
    ("replicate", ["--study=study", "--workdir=new", "--compare"]),
)
# Bad values by the kind of a flag. A flag of another command line has its own word for it.
OF_FLAGS = {
    "integer": ("-7", "two", "1.5", "9" * 30),
    "float": ("-1", "nan", "much"),
    "bool": ("maybe",),
    "enum": ("other",),
    "string": ("/dev/null/at/all", "a\x01b", "x" * 300),
    "list": (",",),
    "multi_string": ("/dev/null/at/all",),
}
WRONG: tuple[Any, ...] = ("text", None, -1, 1.5, (1, "x"), {"a": 1}, float("nan"), True)
# Words and numbers for which any text, or any number, is as good.
_FREE = ("notes", "initialize_from.path")


@dataclasses.dataclass(frozen=True)
class Case:
    """One command with one thing wrong.

    Attributes:
      kind: "flags", "config", …
      name: what is wrong.
      command: a name of COMMANDS.
      arguments: of the command, run in the directory of the case.
      codes: the exit codes that are right.
      prepare: makes things bad in that directory.
      environment: variables in place of those of this process.
      streams: a redirection, as a shell has it.
      nobody: whether a user without rights runs it.
    """

    kind: str
    name: str
    command: str
    arguments: tuple[str, ...]
    codes: tuple[int, ...] = REFUSED
    prepare: Callable[[Path], None] = lambda directory: None
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    streams: str = ""
    nobody: bool = False

    @property
    def title(self) -> str:
        """What names it on a line."""
        return f"{self.kind}: {self.command}: {self.name}"


def every(study: Path) -> list[Case]:
    """Returns all cases; `study` is the finished study that the damaged ones are copies of."""
    return [
        *_flags(),
        *_config_values(),
        *_study_values(),
        *_stored_files(study),
        *_streams(),
        *_locales(),
        *_rights(),
    ]


def _flags() -> Iterator[Case]:
    for command, good in COMMANDS.items():
        for flag, kind in _defined(command):
            for value in OF_FLAGS.get(kind, ()):
                rest = [a for a in good if not a.startswith(f"--{flag}=")]
                # An empty or odd text may be a good one: it must only not end badly.
                codes = REFUSED if kind not in ("string", "list", "float") else TOLD
                name = f"--{flag}={value[:20]!r}"
                yield Case("flags", name, command, (*rest, f"--{flag}={value}"), codes)
        yield Case("flags", "an unknown flag", command, (*good, "--unknwon=1"))
        yield Case("flags", "one argument too many", command, (*good, "more", "and more"))
        for flag in [argument.partition("=")[0] for argument in good if "=" in argument]:
            rest = tuple(a for a in good if not a.startswith(f"{flag}="))
            yield Case("flags", f"{flag} is missing", command, rest, TOLD)
    for name in ("", "class", "A-b", "../x", "workload\n", "é"):
        yield Case("flags", f"the name {name!r}", "new_workload", (name,))


def _defined(command: str) -> list[tuple[str, str]]:
    """Returns the flags that a script defines, and their kinds."""
    tree = ast.parse((ROOT / "scripts" / f"{command}.py").read_text())
    return [
        (node.args[0].value, node.func.attr.removeprefix("DEFINE_"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "").startswith("DEFINE_")
    ]


def _config_values() -> Iterator[Case]:
    from playbook_jax import config as config_lib

    good = config_lib.complete(config_lib.load(ROOT / "configs" / "digits_mlp.py"))
    flat = config_lib.flatten(good) | {name: good[name] for name in ("hparams", "checkpoint")}
    for number, (path, value) in enumerate(flat.items()):
        bad = [wrong for wrong in WRONG if not _fits(path, wrong, value)]
        # Each key meets two of the wrong values, and each wrong value a quarter of the keys.
        for wrong in (bad[number % len(bad)], bad[(number + 3) % len(bad)]):
            yield Case(
                "config",
                f"{path} = {wrong!r}",
                "train",
                tuple(COMMANDS["train"]),
                prepare=_appended("config.py", path, wrong),
            )


def _fits(path: str, wrong: Any, value: Any) -> bool:
    """Says whether a value may be as good as the one that it replaces."""
    number = isinstance(wrong, int | float) and not isinstance(wrong, bool)
    if path in _FREE:
        return isinstance(wrong, str)
    if isinstance(value, bool):
        return isinstance(wrong, bool)
    if isinstance(value, int | float):
        signed = wrong == -1 and path.startswith("seeds.")
        real = path.startswith("hparams.") and wrong == 1.5
        return number and (signed or real)
    return isinstance(value, tuple) and wrong == ()


def _appended(file: str, path: str, value: Any) -> Callable[[Path], None]:
    """Returns what makes `get_config()` of a file give another value at a path."""
    text = (
        "\n\n_good = get_config\n\n\ndef get_config():\n    nan = float('nan')\n"
        "    config = _good()\n    part = config.unlock()\n"
        f"    *path, last = {path.split('.')!r}\n"
        "    with config.ignore_type():\n"
        "        for name in path:\n            part = part.setdefault(name, {})\n"
        f"        part[last] = {value!r}\n    return config\n"
    ).replace("    part = config.unlock()\n", "    config.unlock()\n    part = config\n")

    def prepare(directory: Path) -> None:
        with (directory / file).open("a") as stream:
            stream.write(text)

    return prepare


def _study_values() -> Iterator[Case]:
    from playbook_jax.studies import specification

    for key in (*specification.REQUIRED, *specification.OPTIONAL):
        for wrong in WRONG:
            if key in ("name", "goal") and wrong == "text":
                continue
            # None is the default of some, and True, -1 and a text are right for others.
            codes = TOLD if wrong is None or isinstance(wrong, bool) else REFUSED
            yield Case(
                "study config",
                f"{key} = {wrong!r}",
                "launch_study",
                tuple(COMMANDS["launch_study"]),
                codes,
                _appended("study.py", key, wrong),
            )


def _stored_files(study: Path) -> Iterator[Case]:
    files = [
        study / "study.json",
        study / "findings.json",
        *sorted((study / "trials" / "001").iterdir()),
    ]
    number = 0
    for file in files:
        if not file.is_file():
            continue
        path = Path("study") / file.relative_to(study)
        for name, damage in _damages(file):
            command, arguments = READERS[number % len(READERS)]
            number += 1
            yield Case(
                "stored",
                f"{file.name}: {name}",
                command,
                tuple(arguments),
                (*TOLD, 3),
                lambda directory, path=path, damage=damage: damage(directory / path),
            )


def _damages(file: Path) -> Iterator[tuple[str, Callable[[Path], None]]]:
    yield "empty", lambda path: path.write_bytes(b"")
    yield "its last 17 bytes are gone", lambda path: path.write_bytes(path.read_bytes()[:-17])
    yield "zeroed", lambda path: path.write_bytes(bytes(path.stat().st_size))
    yield "not UTF-8", lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes())
    yield "a directory", _as_directory
    if file.suffix == ".json":
        yield "a list", lambda path: path.write_text("[1]")
        stored = json.loads(file.read_text())
        for number, key in enumerate(stored if isinstance(stored, dict) else ()):
            yield f"without {key!r}", _field(key, None, gone=True)
            wrong = ("text", None, -1, [1], {"a": 1}, True)[number % 6]
            yield f"{key!r} is {wrong!r}", _field(key, wrong)
    if file.suffix == ".jsonl":
        yield "a line of another kind", lambda path: path.write_text(path.read_text() + "[1]\n")
        yield (
            "a text for a number",
            lambda path: path.write_text(
                path.read_text().replace('"step": ', '"step": "x", "old": ')
            ),
        )


def _as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _field(key: str, wrong: Any, gone: bool = False) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        stored = json.loads(path.read_text())
        stored[key] = wrong
        if gone:
            del stored[key]
        path.write_text(json.dumps(stored))

    return damage


# What ends well in a moment, for what is wrong around a command.
_QUICK = {
    name: COMMANDS[name] for name in ("train", "launch_study", "analyze", "studies", "evaluate")
}


def _streams() -> Iterator[Case]:
    for command, good in _QUICK.items():
        for redirection in (">&-", "2>&-", ">&- 2>&-", "<&-", "| head -c 1 >/dev/null"):
            # With a pipe the shell's code is that of the last command; what is on stderr counts.
            yield Case("streams", redirection, command, tuple(good), FINE, streams=redirection)
        yield Case(
            "streams", "a full disk behind them", command, tuple(good), TOLD, streams=">/dev/full"
        )


def _locales() -> Iterator[Case]:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ascii_only = plain | {"PYTHONIOENCODING": "ascii"}
    for command, good in _QUICK.items():
        for name, environment in (("LC_ALL=C", plain), ("ASCII streams", ascii_only)):
            yield Case("locales", name, command, tuple(good), FINE, environment=environment)
            other = tuple(a.replace("=new", "=né w").replace("=study", "=stüdie") for a in good)
            yield Case(
                "locales",
                f"{name} and a name that is not ASCII",
                command,
                tuple(a.replace("stüdie.py", "study.py") for a in other),
                FINE,
                _copied("study", "stüdie"),
                environment,
            )
        surrogate = tuple(a.replace("=new", "=n\udcff").replace("=study", "=s\udcff") for a in good)
        surrogate = tuple(a.replace("s\udcff.py", "study.py") for a in surrogate)
        yield Case("locales", "a name that is not UTF-8", command, surrogate, TOLD)


def _copied(name: str, other: str) -> Callable[[Path], None]:
    return lambda directory: shutil.copytree(directory / name, directory / other) and None


def _rights() -> Iterator[Case]:
    def closed(directory: Path) -> None:
        for path in (directory, *directory.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)

    def unreadable(directory: Path) -> None:
        for path in (directory / "study").rglob("*.json"):
            path.chmod(0)

    for command, good in COMMANDS.items():
        # What only shows something may do so, and say what it could not write.
        codes = TOLD if command in ("analyze", "studies", "evaluate", "new_workload") else REFUSED
        yield Case("rights", "all is read-only", command, tuple(good), codes, closed, nobody=True)
    for command, arguments in READERS:
        name = "stored files that others may not read"
        yield Case("rights", name, command, tuple(arguments), TOLD, unreadable, nobody=True)
