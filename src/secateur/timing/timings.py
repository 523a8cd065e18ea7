"""Measured times with their spread, and speed-ups made from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.timing.records import Record

__all__ = ["Speedup", "Spread", "Timing", "busy", "doubt", "speedups", "spread"]


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
        again_ms: Of the network that the others are compared with: the same, of a second copy that took part in the
            same rounds. Their ratio should be 1; what it is else, the machine did.
        others: Processors that other programs kept busy meanwhile, on average; ``None`` where nobody says.
        crowded: Whether these left no processor idle, so that the network had to share.
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
    again_ms: tuple[float, ...] = ()
    others: float | None = None
    crowded: bool = False

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
        doubt: Why the ratio is not to be believed, a clause; empty where nothing speaks against it.
    """

    model: str
    reference: str
    runtime: str
    direction: str
    batch: int
    ratio: Spread
    doubt: str = ""


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
    found = spread(_ratios(reference.samples_ms, other.samples_ms))
    return Speedup(
        other.model, reference.model, other.runtime, other.direction, other.batch, ratio=found, doubt=doubt(reference)
    )


def _ratios(reference: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(reference, other, strict=True)]


def busy(timings: Iterable[Timing], reference: str = "dense") -> list[str]:
    """One sentence where the machine was busy while something was timed, with the settings that it concerns."""
    reasons: dict[str, list[str]] = {}
    for timing in timings:
        if timing.model == reference and (why := doubt(timing)):
            reasons.setdefault(why, []).append(f"{timing.runtime} {timing.direction}, batch {timing.batch}")
    if not reasons:
        return []
    found = "; ".join(f"{', '.join(where)}: {why}" for why, where in reasons.items())
    return [f"The machine was busy while times were taken ({found}), so no speed-up is claimed there. Measure again."]


STRAYS = 1.1
"""How far from 1 a network may come out against itself, either way, before nothing is claimed of the others."""


def doubt(reference: Timing) -> str:
    """Why ratios over this timing are not to be believed, a clause; empty where nothing speaks against them.

    The network was timed against itself in the same rounds; where that ratio strays from 1, or other programs left no
    processor idle, the machine was busy.

    >>> forward = dict(runtime="pytorch", direction="forward", batch=1, threads=1, mode="eval", calls=1)
    >>> doubt(Timing(model="dense", samples_ms=(4.0, 4.0), again_ms=(5.0, 5.0), **forward))
    'dense against itself came out 0.80 times as fast'
    """
    if reference.again_ms:
        itself = spread(_ratios(reference.samples_ms, reference.again_ms)).median
        if not 1 / STRAYS <= itself <= STRAYS:
            return f"{reference.model} against itself came out {itself:.2f} times as fast"
    if reference.crowded:
        return f"other programs kept {reference.others:.1f} processors busy and left none idle"
    return ""
