"""The frame of a page: style, script and title around what it shows. Nothing is loaded from elsewhere."""

from collections.abc import Sequence
from pathlib import Path

from playbook_jax.analysis.markup import escape, items, tag

_HERE = Path(__file__).parent


def html(title: str, body: Sequence[str]) -> str:
    """Returns a whole page.

    Args:
      title: as plain text.
      body: its sections, as markup.
    """
    style, *scripts = ((_HERE / name).read_text() for name in ("page.css", "page.js", "choose.js"))
    script = "".join(scripts)
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


def table(head: str, body: str, class_: str = "scroll", sortable: bool = False) -> str:
    """Returns a table that scrolls where it is too wide.

    Args:
      head: the cells of its first row.
      body: the other rows.
      class_: of the element around it.
      sortable: whether a click on the head of a column sorts the rows.
    """
    class_of = "sortable" if sortable else ""
    inside = tag(
        "table", f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>", class_=class_of
    )
    return tag("div", inside, class_=class_, tabindex=0)
