"""HTML from text: what comes from files is escaped here, and trials that are named become links."""

import html
import os
import re
import urllib.parse
from collections.abc import Iterable

from etils import epath

_TRIALS = re.compile(r"\b([Tt]rials? )(\d+(?:(?:, | and )\d+)*)")


def escape(text: object) -> str:
    """Returns plain text as markup."""
    return html.escape(str(text))


def prose(text: str, offset: int = 0) -> str:
    """Returns plain text as markup in which the numbers of "trials 3, 8 and 14" light those trials up.

    Args:
      text: the text.
      offset: what is added to a number in the text to get the trial's number in the page.
    """

    def link(match: re.Match) -> str:
        rest = match.string[match.end() :]
        numbers, others = match[2], ""
        if rest.startswith(" other"):  # "trials 3, 8 and 5 others"
            numbers, _, others = match[2].rpartition(" and ")
            others = f" and {others}"
        return match[1] + re.sub(r"\d+", lambda n: trial(int(n[0]), offset), numbers) + others

    return _TRIALS.sub(link, html.escape(text))


def trial(number: int, offset: int = 0) -> str:
    """Returns a trial's number as markup that lights up the trial of this number and the offset."""
    return f'<b class="t" data-t="{offset + number}">{number}</b>'


def link(text: str, target: epath.PathLike, start: epath.PathLike) -> str:
    """Returns plain text as a link to a file, as text alone where there is no such file.

    Args:
      text: the text.
      target: the file.
      start: the directory of the page.
    """
    if not epath.Path(target).exists():
        return escape(text)
    return tag("a", escape(text), href=urllib.parse.quote(os.path.relpath(target, start)))


def tag(name: str, content: str, **attributes: object) -> str:
    """Returns an element around markup; a last `_` of an attribute's name is dropped."""
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value not in (None, "")
    )
    return f"<{name}{text}>{content}</{name}>"


def items(kind: str, contents: Iterable[str], **attributes: object) -> str:
    """Returns a list, "ul" or "ol", of markup; nothing where there are no items."""
    inside = "".join(f"<li>{content}</li>" for content in contents)
    return tag(kind, inside, **attributes) if inside else ""
