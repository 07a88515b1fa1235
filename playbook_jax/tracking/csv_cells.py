"""Text in the cells of CSV files, which a spreadsheet must not take for a formula.

A text that begins with = + - @, a tab or a carriage return is written with an apostrophe before it, and read
without. Numbers are not text: -0.5 stays -0.5.
"""

from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def guarded(value: Any) -> Any:
    """Returns a value as a cell holds it."""
    return f"'{value}" if isinstance(value, str) and _is_meant(value) else value


def read(cell: str) -> str:
    """Returns the text that `guarded` was given."""
    return cell[1:] if cell.startswith("'") and _is_meant(cell) else cell


def _is_meant(text: str) -> bool:
    """Returns whether a text, or what stands behind its apostrophes, looks like a formula."""
    return text.lstrip("'").startswith(_FORMULA)
