"""Networks made ready for runtimes: written for each of them, or the reason why that did not work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateur.core.batches import resize
from secateur.core.errors import ExportError, InputError
from secateur.core.types import ExampleInputs
from secateur.cost.memory import size_on_disk
from secateur.runtimes import RUNTIMES
from secateur.timing.entrants import Entrant

__all__ = ["Candidate", "candidates", "named"]

QUANTISED = "int8"


@dataclass(frozen=True)
class Candidate:
    """One network in one runtime, at one precision.

    Attributes:
        network: What it is called.
        runtime: A name in :data:`~secateur.runtimes.RUNTIMES`.
        precision: ``float32`` or ``int8``.
        entrants: What can be timed: one that takes any batch, or one per batch size; none where writing failed.
        bytes: Size on disk of the smallest form that this runtime loads: its file, or the weights of a module.
        difference: Largest difference to PyTorch that the export's check found; ``None`` where nothing was written.
        problem: Why there is nothing to time, in the converter's words.
    """

    network: str
    runtime: str
    precision: str = "float32"
    entrants: tuple[Entrant, ...] = ()
    bytes: int | None = None
    difference: float | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """What timings call it: the network, and the precision where it is not float32."""
        return named(self.network, self.precision)

    def entrant(self, batch: int) -> Entrant | None:
        """What runs batches of that size."""
        return next((e for e in self.entrants if e.batch in (None, batch)), None)


def named(network: str, precision: str) -> str:
    """What timings call a network at a precision.

    >>> named("pruned", "int8"), named("pruned", "float32")
    ('pruned int8', 'pruned')
    """
    return network if precision == "float32" else f"{network} {precision}"


def candidates(
    networks: Mapping[str, nn.Module],
    inputs: ExampleInputs,
    folder: Path,
    *,
    runtimes: Sequence[str],
    batches: Sequence[int] = (1,),
    calibration: Tensor | None = None,
) -> Iterator[Candidate]:
    """Writes every network for every runtime; one that cannot be written is a candidate with a problem.

    Args:
        networks: By name.
        inputs: Example inputs, also what the files are checked on; best real images.
        folder: Where the files go; it should be a temporary one.
        runtimes: Names in :data:`~secateur.runtimes.RUNTIMES`; all must be installed.
        batches: Batch sizes that will be timed; formats of a fixed batch size get a file for each.
        calibration: Images, to write int8 files too in runtimes that have them.
    """
    for index, (name, model) in enumerate(networks.items()):
        for runtime in runtimes:
            if RUNTIMES[runtime].modules:
                yield Candidate(name, runtime, entrants=(Entrant(name, model, runtime),), bytes=size_on_disk(model))
                continue
            place = folder / f"{index}-{runtime}"
            place.mkdir(parents=True)
            yield _written(Candidate(name, runtime), model, inputs, place, batches, None)
            if calibration is not None and _quantises(runtime):
                yield _written(Candidate(name, runtime, QUANTISED), model, inputs, place, batches, calibration)


def _quantises(runtime: str) -> bool:
    from secateur.export.formats import FORMATS  # it needs this package

    return FORMATS[str(RUNTIMES[runtime].format)].quantise is not None


def _written(
    candidate: Candidate,
    model: nn.Module,
    inputs: ExampleInputs,
    place: Path,
    batches: Sequence[int],
    calibration: Tensor | None,
) -> Candidate:
    from secateur.export import export

    to = str(RUNTIMES[candidate.runtime].format)
    entrants: list[Entrant] = []
    size, worst = 0, 0.0
    extra: dict[str, Any] = {} if calibration is None else {"calibration": calibration}
    try:
        for batch in sorted(set(batches)):
            path = place / f"{candidate.precision}-{batch}{_suffix(to)}"
            check = export(model, resize(inputs, batch), path, to=to, check_inputs=inputs, **extra)
            size, worst = size or check.bytes, max(worst, check.max_difference)
            fixed = None if check.dynamic_batch else batch
            entrants.append(Entrant(candidate.name, path, candidate.runtime, fixed))
            if fixed is None:
                break
    except (ExportError, InputError) as error:
        return replace(candidate, problem=str(error))
    return replace(candidate, entrants=tuple(entrants), bytes=size, difference=worst)


def _suffix(to: str) -> str:
    from secateur.export.formats import FORMATS

    return FORMATS[to].suffix
