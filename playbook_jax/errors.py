"""The one kind of error that a user causes and can mend."""

import contextlib
import difflib
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

_HERE = Path(__file__).parent
_LONG = 300


class UsageError(ValueError):
    """Bad input. Its text is one line: what is wrong, and the way out.

    Command lines print it and exit with 2; nothing has been written by then.
    """


class InputError(UsageError):
    """Data that cannot be read, or makes no sense. A run that meets it ends as FAILED for this reason."""


class UnwritableError(UsageError):
    """A file that cannot be written, where all that it would hold is known."""


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turns whatever the user's code raises within into a UsageError of one line.

    Args:
      what: the code, in words: a file, or a class and a method.
    """
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        text = text if len(text) <= _LONG else f"{text[:_LONG]} …"
        where = _place(error)
        raise UsageError(
            f"{what} fails{where}: {type(error).__name__}{f': {text}' if text else ''}"
        ) from error


def _place(error: BaseException) -> str:
    """Returns where the user's own code was when it failed: not in a library."""
    if isinstance(error, SyntaxError):
        return ""  # which says so itself
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not Path(frame.filename).is_relative_to(_HERE)
    ]
    return f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""


def shown(value: object) -> str:
    """Returns a value as a message of one line shows it."""
    if isinstance(value, int) and abs(value) > 10**100:  # Python refuses to write the largest
        return "a number of more than 100 digits"
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]} …"


def closest(name: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the nearest of ``known``, or an empty string."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Returns the error for a name that is not among the known ones, listing them all."""
    known = sorted(str(k) for k in known)
    return UsageError(f"unknown {kind} {name!r}{closest(name, known)} (known: {', '.join(known)})")
