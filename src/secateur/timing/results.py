"""One network in one runtime, as one line of a table: what it costs there and how well it does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from secateur.timing.entrants import Entrant, labelled
from secateur.timing.records import Record
from secateur.timing.timings import Spread, Timing, speedups
from secateur.train.history import plain

if TYPE_CHECKING:
    from secateur.train import Evaluation

__all__ = ["EntrantResult", "results"]


@dataclass(frozen=True)
class EntrantResult(Record):
    """What is known of an :class:`~secateur.timing.Entrant`, at any batch size; what was not measured is ``None``.

    Attributes:
        network: What it is called, for instance ``pruned``.
        runtime: A name in :data:`~secateur.runtimes.RUNTIMES`.
        precision: ``float32`` or ``int8``.
        params: Number of parameters (of the network that was written).
        bytes: Size of the file that the runtime loads, or of a module's weights as safetensors.
        difference: Largest difference to PyTorch that the export's check found, relative to the largest output.
        ms: Milliseconds for one image (batch 1), forward.
        speedup: Times as fast as the reference in the same runtime at float32, from the same rounds; ``None`` too
            where the machine was too busy to tell (:func:`~secateur.timing.timings.doubt`).
        quality: The metrics of the task in this runtime, by name, and the mean test loss.
        samples: Number of test samples behind them.
        problem: Why it does not run there, in the converter's words.
    """

    network: str
    runtime: str
    precision: str = "float32"
    params: int | None = None
    bytes: int | None = None
    difference: float | None = None
    ms: Spread | None = None
    speedup: Spread | None = None
    quality: dict[str, float | None] = field(default_factory=dict)
    samples: int | None = None
    problem: str = ""

    @property
    def label(self) -> str:
        """What timings call it: the network, and the precision where it is not float32."""
        return labelled(self.network, self.precision)


def results(
    entrants: Iterable[Entrant],
    timings: Iterable[Timing],
    *,
    reference: str,
    params: Mapping[str, int],
    evaluations: Mapping[tuple[str, str], Evaluation],
) -> tuple[EntrantResult, ...]:
    """Joins entrants with what was measured of them: one line per network, runtime and precision.

    Args:
        entrants: Every network in every runtime, in files of fixed batch sizes once per size.
        timings: Those of the entrants.
        reference: Name of the network that the others are compared with.
        params: Parameters by network.
        evaluations: By the entrant's label and runtime.
    """
    single = [t for t in timings if t.batch == 1 and t.direction == "forward"]
    times = {(t.model, t.runtime): t.spread_ms for t in single}
    known = any(t.model == reference for t in single)
    found = speedups(single, reference) if known else ()
    ratios = {(s.model, s.runtime): s.ratio for s in found if not s.doubt}

    def line(key: tuple[str, str], sizes: list[Entrant]) -> EntrantResult:
        first, quality = sizes[0], evaluations.get(key)
        return EntrantResult(
            network=first.name,
            runtime=first.runtime,
            precision=first.precision,
            params=params.get(first.name),
            bytes=first.bytes,
            difference=max((e.difference for e in sizes if e.difference is not None), default=None),
            ms=times.get(key),
            speedup=ratios.get(key),
            quality=plain(quality.metrics) if quality else {},
            samples=quality.samples if quality else None,
            problem=first.problem,
        )

    lines: dict[tuple[str, str], list[Entrant]] = {}
    for entrant in entrants:
        lines.setdefault((entrant.label, entrant.runtime), []).append(entrant)
    return tuple(line(key, sizes) for key, sizes in lines.items())
