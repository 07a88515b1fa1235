#!/usr/bin/env python3
"""Writes the two files of a new model, workloads/NAME.py and configs/NAME.py, which train at once.

    scripts/new_workload.py my_data
    scripts/train.py --config=configs/my_data.py --workdir=/tmp/my_data

They hold a small classifier with batch norm on made-up data; then replace, one after the other, the data,
the model, the loss and the metrics. Run it where the files are to be: in this repository, or in a
directory of your own, from which the training commands then find them.
"""

import keyword
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from playbook_jax.errors import UsageError
from playbook_jax.runtime import command_line

TEMPLATE = ROOT / "scripts" / "template"


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UsageError("give one name, e.g. scripts/new_workload.py my_data")
    name = argv[1]
    _check(name)
    written = write(name, Path())
    print(f"Wrote {' and '.join(map(str, written))}. Train it with:")
    train = command_line.command()[0].replace("new_workload.py", "train.py")
    print(f"  {train} --config={written[1]} --workdir=/tmp/{name}")


def write(name: str, directory: Path) -> list[Path]:
    """Writes the two files below `directory` and returns their paths.

    Raises:
      UsageError: one of them exists, or cannot be written; then neither has been.
    """
    texts = {}
    for kind in ("workload", "config"):
        text = (TEMPLATE / f"{kind}.py").read_text()
        text = text.replace("new_workload", name).replace("NewWorkload", _class_name(name))
        texts[directory / f"{kind}s" / f"{name}.py"] = text
    for path in texts:
        for taken in (path, ROOT / path.relative_to(directory)):
            if taken.exists():
                raise UsageError(f"{taken} exists already; choose another name")
    written = []
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x") as file:
                written.append(path)
                file.write(text)
    except OSError as error:
        for done in written:
            done.unlink()
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    return written


def _check(name: str) -> None:
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) and not keyword.iskeyword(name):
        return
    raise UsageError(
        f"{name!r} cannot be a workload's name: take lower-case letters, digits and underscores, "
        "a letter first, and no word of Python's own"
    )


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


if __name__ == "__main__":
    command_line.run(main)
