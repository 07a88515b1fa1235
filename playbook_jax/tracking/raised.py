"""What was raised, in one line: first the error, and last the user's line of code that it came from."""

import re
import sysconfig
import traceback
from pathlib import Path

_LONG = 500  # characters
_PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib"))
_PLACE = re.compile(r"^(\w+): .* \((\S.*:\d+), in [^)]+\)$")


def describe(error: BaseException) -> str:
    """Returns "TypeError: … (workloads/mine.py:33, in apply)"; without a place where there is none."""
    text = " ".join(str(error).split())
    if len(text) > _LONG:  # the cause is often said last
        text = f"{text[: _LONG // 2]} … {text[-_LONG // 2 :]}"
    frame = _frame(error)
    where = "" if frame is None else f" ({_shown(frame.filename)}:{frame.lineno}, in {frame.name})"
    return f"{type(error).__name__}: {text}{where}"


def cause(reason: str) -> str:
    """Returns by what two reasons are alike: the error and the user's line of code, or the error's text.

    Texts differ where nothing else does: JAX says in them what it was about to do when it met the line.
    """
    match = _PLACE.match(reason)
    if match and not match[2].startswith(f"{_PACKAGE.name}/"):
        return f"{match[1]} at {match[2]}"
    return re.sub(r"\d+", "#", reason)


def _frame(error: BaseException) -> traceback.FrameSummary | None:
    """Returns the innermost frame of the user's code, or else of this package."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_library(f.filename)]
    own = [f for f in frames if not Path(f.filename).resolve().is_relative_to(_PACKAGE)]
    return next(reversed(own or frames), None)


def _is_library(path: str) -> bool:
    return path.startswith(("<", *_LIBRARIES)) or "-packages/" in path


def _shown(path: str) -> str:
    """Returns a path, relative where it lies in the checkout."""
    full = Path(path).resolve()
    checkout = _PACKAGE.parent
    return str(full.relative_to(checkout) if full.is_relative_to(checkout) else full)
