"""Measured times with their spread, and speed-ups made from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.timing.records import Record

__all__ = ["Speedup", "Spread", "Timing", "speedups", "spread"]


@dataclass(frozen=True)
class Spread(Record):
    """Median and quantiles of repeated measurements, all in the unit of what was measured.

    Attributes:
        median: Half of the measurements lie below it.
        q05: 5 % quantile.
        q25: 25 % quantile.
        q75: 75 % quantile.
        q95: 95 % quantile.
        count: Number of measurements.
    """

    median: float
    q05: float
    q25: float
    q75: float
    q95: float
    count: int


@dataclass(frozen=True)
class Timing(Record):
    """How long one network took in one runtime, once per round.

    Attributes:
        model: The name given to :func:`~secateur.timing.latency`, for instance ``dense``.
        runtime: A name in :data:`~secateur.runtimes.RUNTIMES`.
        direction: ``forward`` or ``backward`` (the backward pass alone, gradients of all parameters).
        batch: Samples per call.
        threads: Threads inside an operator.
        mode: ``eval`` or ``train``: the mode of the network while it was measured.
        calls: Calls per round; a round's sample is their mean.
        samples_ms: Milliseconds per call of the whole batch, one entry per round, in order.
        processes: How many fresh processes of its own the samples come from, one after the other; 0 where it was
            measured inside the calling process.
    """

    model: str
    runtime: str
    direction: str
    batch: int
    threads: int
    mode: str
    calls: int
    samples_ms: tuple[float, ...]
    processes: int = 0

    @property
    def spread_ms(self) -> Spread:
        """Median and quantiles of the samples in milliseconds."""
        return spread(self.samples_ms)

    @property
    def median_ms(self) -> float:
        """Median of the samples in milliseconds."""
        return self.spread_ms.median

    @property
    def setting(self) -> tuple[str, str, int, int]:
        """What has to agree for two timings to be compared: runtime, direction, batch, threads."""
        return self.runtime, self.direction, self.batch, self.threads


@dataclass(frozen=True)
class Speedup(Record):
    """How many times faster ``model`` is than ``reference``, measured in the same rounds.

    Attributes:
        model: The faster (or slower) network.
        reference: What it is compared with.
        runtime: A name in :data:`~secateur.runtimes.RUNTIMES`.
        direction: ``forward`` or ``backward``.
        batch: Samples per call.
        ratio: Spread over the rounds of reference time / model time; above 1 is faster.
    """

    model: str
    reference: str
    runtime: str
    direction: str
    batch: int
    ratio: Spread


@arguments.checked
def spread(samples: Sequence[float]) -> Spread:
    """Returns the median and the quantiles (linear interpolation) of ``samples``.

    Raises:
        InputError: When there is no sample.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    Spread(median=3.0, q05=1.2, q25=2.0, q75=4.0, q95=4.8, count=5)
    """
    if not len(samples):
        raise InputError("spread(samples=…) needs at least one sample; got none.")
    values = np.quantile(np.asarray(samples, dtype=np.float64), [0.5, 0.05, 0.25, 0.75, 0.95])
    median, q05, q25, q75, q95 = (round(float(value), 9) for value in values)
    return Spread(median, q05, q25, q75, q95, len(samples))


@arguments.checked
def speedups(timings: Iterable[Timing], reference: str = "dense") -> tuple[Speedup, ...]:
    """Compares every network with ``reference``: per round the ratio of times, then its median and spread.

    Rounds are paired because the two networks ran one after the other in each of them; what slowed the
    machine down for a while slowed both, and cancels.

    Raises:
        InputError: When ``reference`` was not measured, or the rounds of two timings differ in number.

    >>> forward = dict(runtime="pytorch", direction="forward", batch=1, threads=1, mode="eval", calls=1)
    >>> dense = Timing(model="dense", samples_ms=(4.0, 8.0), **forward)
    >>> pruned = Timing(model="pruned", samples_ms=(2.0, 4.0), **forward)
    >>> speedups([dense, pruned])[0].ratio.median
    2.0
    """
    timings = tuple(timings)
    references = {timing.setting: timing for timing in timings if timing.model == reference}
    if not references:
        names = ", ".join(sorted({timing.model for timing in timings})) or "nothing"
        raise InputError(f"There is no timing of the reference {reference!r} in timings; measured were: {names}.")
    return tuple(
        _speedup(references[timing.setting], timing)
        for timing in timings
        if timing.model != reference and timing.setting in references
    )


def _speedup(reference: Timing, other: Timing) -> Speedup:
    if len(reference.samples_ms) != len(other.samples_ms):
        raise InputError(
            f"{reference.model!r} has {len(reference.samples_ms)} rounds and {other.model!r} "
            f"{len(other.samples_ms)}; a speed-up compares times of the same rounds."
        )
    ratios = [a / b for a, b in zip(reference.samples_ms, other.samples_ms, strict=True)]
    return Speedup(other.model, reference.model, other.runtime, other.direction, other.batch, ratio=spread(ratios))
