"""The playbook as data: what it prescribes, where that lives here, and the command that does it.

`playbook.toml` holds one row for each prescription, or for a few that belong together, under the
sections of the text. `docs/playbook.md` and the table in the README are generated from it, findings
cite its ids, and tests name the rows that they show: `@pytest.mark.playbook("adam-rule")`.
"""

import dataclasses
import functools
import re
import tomllib
from pathlib import Path

from playbook_jax.errors import unknown

DONE, DECLINED = STATUSES = ("done", "declined")
PATH = Path(__file__).with_suffix(".toml")


@dataclasses.dataclass(frozen=True)
class Row:
    """Something that the playbook prescribes.

    Attributes:
      id: kebab-case and unique.
      section: the title of the playbook's section.
      lines: where the prescriptions that this row answers begin, in the playbook's text.
      prescription: what the playbook says, in our words.
      symbol: where it lives: "package.module:name", "scripts/file", or "config.key" for a key of the
        training config; empty where the row is declined.
      command: what a user types, or empty.
      status: DONE or DECLINED.
      reason: why it is declined, or empty.
      speculative: whether the playbook calls it open research or speculation.
    """

    id: str
    section: str
    lines: tuple[int, ...]
    prescription: str
    status: str
    symbol: str = ""
    command: str = ""
    reason: str = ""
    speculative: bool = False

    @property
    def url(self) -> str:
        """Where the section can be read."""
        return f"{load().source}#{anchor(self.section)}"


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the playbook: its title, what it says in one sentence, and its rows."""

    title: str
    summary: str
    rows: tuple[Row, ...]

    @property
    def url(self) -> str:
        """Where the section can be read."""
        return f"{load().source}#{anchor(self.title)}"


@dataclasses.dataclass(frozen=True)
class Playbook:
    """All of it.

    Attributes:
      source: where the text is published.
      prescriptions: how many prescriptions we count in the text.
      sections: those with rows, in the text's order.
    """

    source: str
    prescriptions: int
    sections: tuple[Section, ...]

    @property
    def rows(self) -> list[Row]:
        """The rows of all sections."""
        return [row for section in self.sections for row in section.rows]


@functools.cache
def load() -> Playbook:
    """Returns the contents of `playbook.toml`."""
    with PATH.open("rb") as file:
        values = tomllib.load(file)
    sections = tuple(_section(section) for section in values["section"])
    return Playbook(values["source"], values["prescriptions"], sections)


def _section(values: dict) -> Section:
    rows = [
        Row(**row | {"section": values["title"], "lines": tuple(row["lines"])})
        for row in values["row"]
    ]
    return Section(values["title"], values["summary"], tuple(rows))


def row(row_id: str) -> Row:
    """Returns the row of this id.

    Raises:
      UsageError: there is none; names the nearest.
    """
    rows = {row.id: row for row in load().rows}
    if row_id not in rows:
        raise unknown("playbook row", row_id, rows)
    return rows[row_id]


def anchor(title: str) -> str:
    """Returns the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
