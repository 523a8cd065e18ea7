"""Gradient steps with a held-out part that decides what is kept, and a time at which they end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import cos, isfinite, pi
from time import monotonic

import torch
from torch import Tensor

from secateur.recovery.tuning.weights import Weights

__all__ = ["Clock", "Outcome", "descend"]


@dataclass(frozen=True)
class Clock:
    """When to stop.

    Attributes:
        end: Of the clock that :func:`time.monotonic` reads; ``None`` for never.
        start: When it began.
    """

    end: float | None
    start: float = field(default_factory=monotonic)

    @classmethod
    def of(cls, seconds: float | None) -> Clock:
        """So many seconds from now."""
        now = monotonic()
        return cls(None if seconds is None else now + seconds, now)

    def part(self, share: float) -> Clock:
        """A share of what is left, from now."""
        return self if self.end is None else Clock.of(max(0.0, self.end - monotonic()) * share)

    @property
    def gone(self) -> float:
        """The share of the time that is over."""
        if self.end is None:
            return 0.0
        return min(1.0, (monotonic() - self.start) / max(self.end - self.start, 1e-9))


@dataclass(frozen=True)
class Outcome:
    """What came of a descent.

    Attributes:
        before: Held-out error at the beginning.
        after: Held-out error of what was kept, never more.
        late: Whether the time was up before the last epoch.
    """

    before: float
    after: float
    late: bool


def descend(
    weights: Weights,
    batches: Sequence[int],
    error: Callable[[int], Tensor],
    held_out: Callable[[], float],
    *,
    epochs: Iterable[int],
    count: int,
    clock: Clock,
    generator: torch.Generator,
    before: float,
) -> Outcome:
    """Goes down the gradient, and ends with the state that did best on held-out samples, the first one included.

    The rate falls to zero as half a cosine, over the epochs or the time, whichever ends first.

    Args:
        weights: What moves.
        batches: Numbers of the batches to learn from; every epoch takes them in another order.
        error: What is to fall, of a batch.
        held_out: The error on the samples that are held out.
        epochs: Passes over the batches, one by one.
        count: How many these are.
        clock: When to stop.
        generator: Draws the orders.
        before: The held-out error now.
    """
    best, done, total = before, 0, count * len(batches)
    for _ in epochs:
        for index in torch.randperm(len(batches), generator=generator).tolist():
            share = max(done / total, clock.gone)
            if share >= 1:
                break
            with torch.enable_grad():
                found = error(batches[index])
            weights.step(found, (1 + cos(pi * share)) / 2)
            done += 1
        now = held_out()
        if now < best:
            best = now
            weights.keep()
        if not isfinite(now) or clock.gone >= 1:
            break
    weights.back()
    return Outcome(before, best, done < total and clock.gone >= 1)
