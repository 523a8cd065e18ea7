"""Long calls say how far they are: a bar where stderr is a terminal, lines in Python's log everywhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import ClassVar, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

__all__ = ["LOG", "drawn", "silent", "watched"]

LOG = logging.getLogger("secateur")
"""INFO when a long piece of work begins and ends, DEBUG for every part of it."""

Item = TypeVar("Item")

_AFTER_S = 1.0  # work that is done by then draws nothing
_HIDDEN: ContextVar[bool] = ContextVar("hidden", default=False)


@contextmanager
def silent(hidden: bool = True) -> Iterator[None]:
    """No bars are drawn meanwhile; the log goes on.

    Args:
        hidden: Whether they are hidden; ``False`` changes nothing.

    >>> import secateur
    >>> with secateur.silent():
    ...     pass  # secateur.recover(small, images)
    """
    token = _HIDDEN.set(hidden or _HIDDEN.get())
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def drawn() -> bool:
    """Whether bars are drawn where nobody said: on a terminal and in a notebook, unless :func:`silent` hides them."""
    return not _HIDDEN.get() and (sys.stderr.isatty() or Console().is_jupyter)


@contextmanager
def watched(
    items: Collection[Item], what: str, unit: str, name: Callable[[Item], str] = str, *, after_s: float = _AFTER_S
) -> Iterator[Iterator[Item]]:
    """Gives the items one by one, and says how far the work on them is.

    Args:
        items: What is worked on.
        what: What is done, for instance ``Refitting``.
        unit: What the items are, in the plural.
        name: How an item is called.
        after_s: Seconds after which a bar is drawn, if there is a terminal and no bar around this work already.

    >>> with watched([1, 2, 3], "Adding", "numbers") as numbers:
    ...     sum(numbers)
    6
    """
    start, bar = perf_counter(), _Bar(what, len(items))

    def told() -> Iterator[Item]:
        for done, item in enumerate(items):
            LOG.debug("%s: %s (%d of %d)", what, name(item), done + 1, len(items))
            if perf_counter() - start >= after_s:
                bar.draw(done, name(item))
            yield item

    LOG.info("%s: %d %s", what, len(items), unit)
    try:
        yield told()
    finally:
        bar.close()
    LOG.info("%s: done after %.1f s", what, perf_counter() - start)


class _Bar:
    """A bar that vanishes when the work ends; the inner one of two is not drawn."""

    _drawn: ClassVar[_Bar | None] = None

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._progress: Progress | None = None

    def draw(self, done: int, item: str) -> None:
        """Shows how much is done and what is worked on."""
        if self._progress is None:
            if _Bar._drawn is not None or not drawn():
                return
            _Bar._drawn = self
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[item]}", table_column=Column(no_wrap=True, ratio=1)),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._progress.add_task(self._what, total=self._total, item=escape(item))
            self._progress.start()
        self._progress.update(self._task, completed=done, item=escape(item))

    def close(self) -> None:
        """Takes the bar away."""
        if self._progress is not None:
            self._progress.stop()
            _Bar._drawn = None
