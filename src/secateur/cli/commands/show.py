"""Tables and lines for people: coloured on a terminal, plain elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secateur.core.errors import InputError
from secateur.core.files import refuse_existing

if TYPE_CHECKING:
    from secateur.exports import ExportCheck

__all__ = ["change", "check_file", "console", "error", "integer", "ratio", "say", "size", "table", "tell"]

_WIDE = 400  # what is piped into a file or another program is not to be cut off


def check_file(option: str, path: Path | None, suffix: str) -> None:
    """Refuses a name that nothing can be written to, before anything takes time."""
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise InputError(f"{option} is a {suffix} file; got {path}.")
    refuse_existing(path, option)
    if not path.absolute().parent.is_dir():
        raise InputError(f"There is no folder {path.absolute().parent} to write {path.name} to. Make it first.")


def console() -> Console:
    """Where results go: standard output."""
    wide = None if sys.stdout.isatty() else _WIDE
    return Console(highlight=False, width=wide, markup=False)


def error(message: str, *, label: str = "Error") -> None:
    """One message on standard error; a long one is broken between words on a terminal only."""
    words = Text.assemble((f"{label}:", "bold red"), " ", message)
    Console(stderr=True, highlight=False).print(words, soft_wrap=not sys.stderr.isatty())


def say(text: str, *, style: str | None = None) -> None:
    """One line or paragraph on standard output: broken between words on a terminal, in one piece elsewhere."""
    console().print(text, style=style, soft_wrap=not sys.stdout.isatty())


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: Iterable[int] = (0,), fold: Iterable[int] = ()
) -> Table:
    """A table of words (to the left) and numbers (to the right).

    Args:
        columns: Headings.
        rows: Cells; markup in them is not interpreted.
        words: Columns that hold words.
        fold: Columns whose text may run over several lines; the others keep theirs whole.
    """
    terminal = sys.stdout.isatty()
    made = Table(
        box=box.SIMPLE_HEAD if terminal else None,
        show_edge=False,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold" if terminal else "",
    )
    fold = set(fold)
    left = {*words, *fold}
    for position, column in enumerate(columns):
        made.add_column(
            column,
            justify="left" if position in left else "right",
            no_wrap=position not in fold,
            overflow="fold" if position in fold else "ellipsis",
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


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


def tell(check: ExportCheck, kind: str) -> None:
    """Says what a written file is, and how well it agrees with the network."""
    batch = "any batch size" if check.dynamic_batch else f"batch size {check.batches[0]} only"
    agreement = f"{100 * check.same_labels:.0f} % same labels, largest difference {check.max_difference:.1e}"
    precision = ""
    if check.masked_difference is not None:
        agreement += f", {check.masked_difference:.1e} from the dense file whose removed entries are zero"
    if check.int8:
        precision = f" {'full-integer ' * check.integer}int8 (calibrated on {check.calibration} images)"
        agreement += "" if check.snr_db is None else f", signal-to-noise ratio {check.snr_db:.1f} dB"
    if check.mean_steps is not None:
        agreement += f", {check.mean_steps:.2f} quantisation steps apart on average"
    if check.activations is not None:
        agreement += f". At least {check.activations:,} bytes of activations are alive at once"
    say(
        f"{check.path}: {size(check.bytes)}, {check.format}{precision} for {batch}. "
        f"Checked with {check.runtime} on {check.images} {kind}: {agreement}."
    )
