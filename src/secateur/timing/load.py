"""How busy the machine was with something else while times were taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

__all__ = ["Load"]

_STAT = Path("/proc/stat")


@dataclass
class Load:
    """How many processors were busy on average while :meth:`watch` looked, ours among them.

    Attributes:
        seconds: How long it looked.
        worked: Seconds that all processors together worked meanwhile; ``None`` where the system does not say (only
            Linux does).
        processors: How many there are.
    """

    seconds: float = 0.0
    worked: float | None = 0.0
    processors: int = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Looks meanwhile; may be entered several times, one after the other."""
        before, start = _busy_seconds(), perf_counter()
        yield
        after = _busy_seconds()
        self.seconds += perf_counter() - start
        if before is None or after is None:
            self.worked = None
        elif self.worked is not None:
            self.worked, self.processors = self.worked + after[0] - before[0], after[1]

    @property
    def busy(self) -> float | None:
        """Processors that did something, on average; ``None`` where nobody says."""
        return None if self.worked is None or not self.seconds else self.worked / self.seconds

    def others(self, threads: int) -> float | None:
        """Processors that other programs kept busy, if ``threads`` are ours.

        >>> Load(seconds=4.0, worked=7.0, processors=2).others(threads=1)
        0.75
        """
        return None if self.busy is None else round(max(0.0, self.busy - threads), 3)

    def crowded(self, threads: int) -> bool:
        """Whether others kept half a processor or more busy, and left less than half a one idle.

        >>> Load(1.0, 1.75, processors=2).crowded(1), Load(1.0, 3.0, processors=8).crowded(1)
        (True, False)
        """
        others = self.others(threads)
        return others is not None and others >= 0.5 and self.processors - (self.busy or 0) < 0.5


def _busy_seconds() -> tuple[float, int] | None:
    """Seconds that all processors together worked since the start of the machine, and how many they are."""
    try:
        lines = [line.split() for line in _STAT.read_text().splitlines() if line.startswith("cpu")]
        ticks = [int(value) for value in lines[0][1:9]]
    except (OSError, ValueError, IndexError):
        return None
    idle = ticks[3] + ticks[4]  # waiting for a disk keeps no processor from others
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), len(lines) - 1
