"""Long calls say how far they are: a bar where stderr is a terminal, lines in Python's log everywhere."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import Any, ClassVar, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

__all__ = ["LOG", "drawn", "silent", "watched", "working"]

LOG = logging.getLogger("secateur")
"""INFO when a long piece of work begins and ends (one that cannot be counted: ends), DEBUG for every part of it."""

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


@contextmanager
def working(what: str, *, after_s: float = _AFTER_S) -> Iterator[Callable[[str], None]]:
    """Says what takes so long, where nobody can tell how much of it is done: a line with a clock.

    The log has it at INFO if it took a second, else at DEBUG.

    Args:
        what: What is done.
        after_s: As for :func:`watched`; a bar or line that is drawn within takes this one's place meanwhile.

    Yields:
        What changes its words.

    >>> with working("Adding"):
    ...     1 + 1
    2
    """
    start, line = perf_counter(), _Clock(what)
    LOG.debug("%s", what)
    timer = threading.Timer(after_s, line.draw) if drawn() else None
    if timer is not None:
        timer.daemon = True
        timer.start() if after_s > 0 else line.draw()
    try:
        yield line.say
    finally:
        if timer is not None:
            timer.cancel()
        line.close()
    took = perf_counter() - start
    LOG.log(logging.INFO if took >= _AFTER_S else logging.DEBUG, "%s: done after %.1f s", what, took)


class _Shown:
    """What is drawn below the text of a terminal; one at a time."""

    _stack: ClassVar[list[_Shown]] = []
    _lock: ClassVar[threading.RLock] = threading.RLock()  # a clock begins in a thread of its own

    gives_way: ClassVar[bool]

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._closed = False

    def _show(self, *columns: ProgressColumn, **task: Any) -> None:
        """Begins to draw, unless a bar is there already."""
        with self._lock:
            outer = self._stack[-1] if self._stack else None
            if self._closed or self._progress is not None or not (outer is None or outer.gives_way):
                return
            if outer is not None and outer._progress is not None:
                outer._progress.stop()
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(**task)
            self._progress.start()
            self._stack.append(self)

    def close(self) -> None:
        """Takes it away; what gave way to it comes back."""
        with self._lock:
            self._closed = True
            if self._progress is None:
                return
            self._progress.stop()
            last = self._stack[-1] is self
            self._stack.remove(self)
            if last and self._stack and (below := self._stack[-1]._progress) is not None:
                below.start()


class _Bar(_Shown):
    """A bar that vanishes when the work ends; the inner one of two is not drawn."""

    gives_way = False

    def __init__(self, what: str, total: int) -> None:
        super().__init__()
        self._what, self._total = what, total

    def draw(self, done: int, item: str) -> None:
        """Shows how much is done and what is worked on."""
        if self._progress is None:
            if not drawn():
                return
            self._show(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[item]}", table_column=Column(no_wrap=True, ratio=1)),
                TimeRemainingColumn(),
                description=self._what, total=self._total, item=escape(item),
            )  # fmt: skip
        if self._progress is not None:
            self._progress.update(self._task, completed=done, item=escape(item))


class _Clock(_Shown):
    """A line with the time that has passed; the outer one of two gives way."""

    gives_way = True

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def draw(self) -> None:
        """Shows it."""
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        self._show(*columns, description=escape(self._what), total=None)

    def say(self, what: str) -> None:
        """Changes its words."""
        self._what = what
        if self._progress is not None:
            self._progress.update(self._task, description=escape(what))
