"""Tables and lines for people: coloured on a terminal, plain elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["change", "console", "error", "integer", "ratio", "share", "size", "table"]

_WIDE = 400  # what is piped into a file or another program is not to be cut off


def console() -> Console:
    """Where results go: standard output."""
    wide = None if sys.stdout.isatty() else _WIDE
    return Console(highlight=False, width=wide, soft_wrap=False, markup=False)


def error(message: str, *, label: str = "Error") -> None:
    """One message on standard error."""
    out = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    out.print(f"{label}:", style="bold red", end=" ")
    out.print(message)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    left: int = 1,
    fold: int | None = None,
) -> Table:
    """A table whose first ``left`` columns are words and whose others are numbers.

    Args:
        columns: Headings.
        rows: Cells; markup in them is not interpreted.
        title: Line above the table.
        left: How many columns are aligned to the left.
        fold: Column whose text may run over several lines; the others keep their words whole.
    """
    terminal = sys.stdout.isatty()
    made = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if terminal else None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
    )
    for position, column in enumerate(columns):
        overflow = "fold" if position == fold else "ellipsis"
        made.add_column(
            column,
            justify="left" if position < left else "right",
            no_wrap=position != fold,
            overflow=overflow,  # type: ignore[arg-type]
        )
    for row in rows:
        made.add_row(*(_plain(cell) for cell in row))
    return made


def _plain(cell: str) -> str:
    from rich.markup import escape

    return escape(cell)


def integer(value: float | None) -> str:
    """A count with separators, or a dash.

    >>> integer(853018), integer(None)
    ('853,018', '–')
    """
    return "–" if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes in a handy unit.

    >>> size(3_500_000), size(812)
    ('3.50 MB', '812 B')
    """
    if value is None:
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.2f} {unit}"
    return f"{value:.0f} B"


def share(value: float | None, digits: int = 2) -> str:
    """A percentage that is in percent already.

    >>> share(97.777)
    '97.78 %'
    """
    return "–" if value is None else f"{value:.{digits}f} %"


def change(before: float | None, after: float | None) -> str:
    """By how much something has grown or shrunk.

    >>> change(200, 150), change(None, 3)
    ('−25.0 %', '–')
    """
    if not before or after is None:
        return "–"
    percent = 100 * (after / before - 1)
    return f"{percent:+.1f} %".replace("-", "−")


def ratio(value: float | None) -> str:
    """A factor.

    >>> ratio(1.2345)
    '1.23×'
    """
    return "–" if value is None else f"{value:.2f}×"
