"""Paths as users write them, in flags and in configs, in the form that all modules take."""

import os
import re

from playbook_jax.errors import UsageError

# Where there are buckets; see etils.epath.
_REMOTE = ("gs", "s3", "az")
_NO_PLACE = ("http", "https", "ftp")


def plain(text: str) -> str:
    """Returns a path with `~` expanded and without `file://`; any other text as it is.

    A shell expands `~` only where a word begins with it, which `--workdir=~/run` does not.

    Raises:
      UsageError: there is no such user, no bucket, or nothing can be written there.
    """
    kind, rest = re.fullmatch(r"(?:(\w+)://)?(.*)", text, re.DOTALL).groups()
    if kind == "file":
        if not rest.startswith("/"):
            raise UsageError(f"{text!r} is not a path: after file:// it begins with /")
        return rest
    if kind in _REMOTE and not rest.split("/")[0]:
        raise UsageError(f"{text!r} lacks the bucket: {kind}://BUCKET/DIRECTORY")
    if kind in _NO_PLACE:
        raise UsageError(f"{text!r}: nothing can be read or written there; give a directory")
    if "\0" in text:
        raise UsageError(f"{text!r} is not a path: it has a null character")
    if not re.match(r"~[\w.-]*(/|$)", text):
        return text
    expanded = os.path.expanduser(text)
    if expanded == text:
        raise UsageError(f"{text!r}: there is no such user; ./{text} is a directory of that name")
    return expanded
