"""A loop of Python's over the samples would be millions of steps long in a run at the odd size: it is stopped.

That is looked for in train mode alone, where samples are masked by chance: counting takes half as long as recording.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from secateur.graph.batch import Unfollowed

__all__ = ["Patience"]

MOST_CALLS = 2_000_000
"""Calls of functions between one operator and the next, at most; networks make some hundred."""


def _importing(frame: FrameType | None) -> bool:
    """Whether modules are being loaded, which calls a great many functions and ends."""
    while frame is not None and "importlib._bootstrap" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


class Patience:
    """Counts the calls that Python makes between two operators."""

    def __init__(self) -> None:
        """Nothing was called yet."""
        self.left = MOST_CALLS

    def again(self) -> None:
        """An operator came."""
        self.left = MOST_CALLS

    def _called(self, frame: FrameType, event: str, arg: Any) -> None:
        self.left -= 1
        if self.left < 0 and _importing(frame):
            self.again()
        elif self.left < 0:
            raise Unfollowed("its Python goes through the samples of a batch one by one")

    @contextmanager
    def kept(self, wanted: bool) -> Iterator[None]:
        """Stops what is inside when it makes too many calls; not beside a profiler of the user's.

        Raises:
            Unfollowed: It made too many.
        """
        if not wanted or sys.getprofile() is not None:
            yield
            return
        sys.setprofile(self._called)
        try:
            yield
        finally:
            sys.setprofile(None)
