"""Results that show themselves: one line in lists and errors, a short table when printed, and one in notebooks."""

from __future__ import annotations

import html
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Shown", "Table", "plain"]

_MOST = 30
"""Rows; whoever wants all of them looks at the fields."""


@dataclass(frozen=True)
class Table:
    """What is shown of a result.

    Attributes:
        headline: One line that says the most.
        columns: Headings.
        rows: Cells.
        words: Columns that hold words; the others hold numbers.
        notes: Lines below.
    """

    headline: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    words: Sequence[int] = (0,)
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        """Plain text; names from a file cannot move the cursor.

        >>> print(Table("two layers", ("Layer", "Units"), [("a", "12"), ("conv", "3")]))
        two layers
        Layer  Units
        a         12
        conv       3
        """
        shown = [[plain(cell) for cell in row] for row in (self.columns, *self.rows[:_MOST]) if row]
        widths = [max(map(len, cells)) for cells in zip(*shown, strict=True)]
        lines = [plain(self.headline)]
        for row in shown:
            cells = (
                cell.ljust(width) if number in self.words else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, *self._left_out, *map(plain, self.notes)])

    @property
    def html(self) -> str:
        """A table for notebooks; every name is escaped."""

        def row(cells: Sequence[str], tag: str) -> str:
            sides = ("left" if number in self.words else "right" for number in range(len(cells)))
            inner = (
                f'<{tag} style="text-align:{side}">{html.escape(plain(cell))}</{tag}>'
                for cell, side in zip(cells, sides, strict=True)
            )
            return f"<tr>{''.join(inner)}</tr>"

        body = "".join(row(cells, "td") for cells in self.rows[:_MOST])
        table = f"<table><thead>{row(self.columns, 'th')}</thead><tbody>{body}</tbody></table>" if self.rows else ""
        notes = "".join(f"<p>{html.escape(plain(note))}</p>" for note in (*self._left_out, *self.notes))
        return f"<p><b>{html.escape(plain(self.headline))}</b></p>{table}{notes}"

    @property
    def _left_out(self) -> list[str]:
        more = len(self.rows) - _MOST
        return [f"… and {more:,} more"] if more > 0 else []


class Shown:
    """Base of a result (a dataclass with ``repr=False``) that says in :meth:`table` what is shown of it."""

    @abstractmethod
    def table(self) -> Table:
        """What is shown of it."""

    def __repr__(self) -> str:
        """One line."""
        return f"{type(self).__name__}({plain(self.table().headline)})"

    def __str__(self) -> str:
        """A short table."""
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table().html


def plain(text: str) -> str:
    """Text in which what is no printable character is written out.

    >>> plain("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
