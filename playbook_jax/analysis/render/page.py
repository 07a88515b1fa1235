"""The frame of a page: style, script and title around what it shows. Nothing is loaded from elsewhere."""

import datetime
from collections.abc import Iterable, Sequence
from pathlib import Path

from etils import epath

from playbook_jax import __version__, playbook, trial as trial_lib
from playbook_jax.analysis.render.html import escape, items, tag
from playbook_jax.errors import UnwritableError

_HERE = Path(__file__).parent


def write(path: epath.PathLike, text: str) -> epath.Path:
    """Writes a page and returns its path.

    Raises:
      UnwritableError: it can't be written.
    """
    path = epath.Path(path)
    try:
        trial_lib.write_text(path, text)
    except OSError as error:
        raise UnwritableError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def html(title: str, body: Sequence[str], *scripts: str) -> str:
    """Returns a whole page.

    Args:
      title: as plain text.
      body: its sections, as markup.
      *scripts: the names of scripts beside the one of all pages, "choose.js".
    """
    style, *parts = ((_HERE / name).read_text() for name in ("page.css", "page.js", *scripts))
    script = "".join(parts)
    page = "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            tag("title", escape(title)),
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            *body,
            f"<script>\n{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )
    # Half a surrogate pair, which JSON can hold, cannot be written as UTF-8.
    return page.encode("utf-8", "replace").decode()


def command(purpose: str, words: Sequence[str], details: Sequence[str] = ()) -> str:
    """Returns a command line in a box, below what it is for.

    Args:
      purpose: in a sentence.
      words: quoted for the shell.
      details: what more there is to say, a line each.
    """
    # A word a span: narrow screens break the line between them, and copies are not affected.
    box = tag("pre", " ".join(tag("span", escape(word)) for word in words))
    told = items("ul", map(escape, details), class_="changes")
    return "\n".join([tag("p", escape(purpose), class_="command"), told, box])


def what_next(todo: Sequence[str], otherwise: str = "") -> str:
    """Returns the box of what to do next, markup each; `otherwise` where that is nothing."""
    inside = items("ol", todo) if len(todo) > 1 else "".join(tag("div", one) for one in todo)
    return tag("div", tag("h3", "What to do next") + (inside or otherwise), class_="next")


def source(section: str) -> str:
    """Returns a link to a section of the playbook."""
    url = f"{playbook.load().source}#{playbook.anchor(section)}"
    return f'Playbook: <a href="{escape(url)}">{escape(section)}</a>'


def footer(made: str, *more: str) -> str:
    """Returns the last line of a page.

    Args:
      made: what has been done just now, "read from /tmp/study", as plain text.
      *more: what else there is to say, likewise.
    """
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    parts = [f"playbook_jax {__version__}", f"{made} at {now}", *more]
    return tag("footer", escape(" · ".join(parts)))


def row(cells: Iterable[str]) -> str:
    """Returns a row of a table from the markup of its cells."""
    return tag("tr", "".join(tag("td", cell) for cell in cells))


def table(
    heads: Iterable[str | tuple[str, str]],
    rows: Iterable[str],
    class_: str = "scroll",
    sortable: bool = False,
) -> str:
    """Returns a table that scrolls where it is too wide.

    Args:
      heads: the titles of its columns as plain text, each by itself or with the class of its cell.
      rows: the other rows, as markup.
      class_: of the element around it.
      sortable: whether a click on the head of a column sorts the rows.
    """
    pairs = [(head, "") if isinstance(head, str) else head for head in heads]
    head = "".join(tag("th", escape(text), scope="col", class_=of) for text, of in pairs)
    body = "\n".join(rows)
    inside = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    inside = tag("table", inside, class_="sortable" if sortable else "")
    return tag("div", inside, class_=class_, tabindex=0)
