"""How busy the machine was with something else while times were taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

__all__ = ["Load", "watched_load"]

_STAT = Path("/proc/stat")


@dataclass
class Load:
    """Processors that were busy on average, ours among them; ``None`` where the system does not say (only Linux does).

    Attributes:
        busy: Processors that did something.
        processors: How many there are.
    """

    busy: float | None = None
    processors: int = 0

    def others(self, threads: int) -> float | None:
        """Processors that other programs kept busy, if ``threads`` are ours.

        >>> Load(busy=1.75, processors=2).others(threads=1)
        0.75
        """
        return None if self.busy is None else round(max(0.0, self.busy - threads), 3)

    def crowded(self, threads: int) -> bool:
        """Whether others kept half a processor or more busy, and left less than half a one idle.

        >>> Load(busy=1.75, processors=2).crowded(1), Load(busy=3.0, processors=8).crowded(1)
        (True, False)
        """
        others = self.others(threads)
        return others is not None and others >= 0.5 and self.processors - (self.busy or 0) < 0.5


@contextmanager
def watched_load() -> Iterator[Load]:
    """Notes what the processors do meanwhile; what it gives is filled in at the end."""
    found, before, start = Load(), _busy_seconds(), perf_counter()
    try:
        yield found
    finally:
        after, seconds = _busy_seconds(), perf_counter() - start
        if before is not None and after is not None and seconds > 0:
            found.busy, found.processors = (after[0] - before[0]) / seconds, after[1]


def _busy_seconds() -> tuple[float, int] | None:
    """Seconds that all processors together worked since the start of the machine, and how many they are."""
    try:
        lines = [line.split() for line in _STAT.read_text().splitlines() if line.startswith("cpu")]
        ticks = [int(value) for value in lines[0][1:9]]
    except (OSError, ValueError, IndexError):
        return None
    idle = ticks[3] + ticks[4]  # waiting for a disk keeps no processor from others
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), len(lines) - 1
