"""The one kind of error that a user causes and can mend."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input. Its text is one line: what is wrong, and the way out.

    Command lines print it and exit with 2; nothing has been written by then.
    """


class InputError(UsageError):
    """Data that cannot be read, or makes no sense. A run that meets it ends as FAILED for this reason."""


class UnwritableError(UsageError):
    """A file that cannot be written, where all that it would hold is known."""


def closest(name: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the nearest of ``known``, or an empty string."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Returns the error for a name that is not among the known ones, listing them all."""
    known = sorted(str(k) for k in known)
    return UsageError(f"unknown {kind} {name!r}{closest(name, known)} (known: {', '.join(known)})")
