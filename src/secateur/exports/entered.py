"""Networks entered for runtimes: written for each of them, or the reason why that did not work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from secateur.core.batches import resize
from secateur.core.errors import ExportError, InputError
from secateur.core.types import ExampleInputs
from secateur.cost.memory import size_on_disk
from secateur.exports.exports import export
from secateur.runtimes import RUNTIMES, Runtime
from secateur.runtimes.formats import source_of
from secateur.timing import Entrant

__all__ = ["entered"]

_FLOAT, _INT8 = "float32", "int8"


def entered(
    networks: Mapping[str, nn.Module],
    inputs: ExampleInputs,
    folder: Path,
    *,
    runtimes: Sequence[str],
    batches: Sequence[int] = (1,),
    calibration: ExampleInputs | None = None,
) -> Iterator[Entrant]:
    """Writes every network for every runtime; one that cannot be written is an entrant with a problem.

    Args:
        networks: By name.
        inputs: Example inputs, also what the files are checked on; best real images.
        folder: Where the files go; it should be a temporary one.
        runtimes: Names in :data:`~secateur.runtimes.RUNTIMES`; all must be installed.
        batches: Batch sizes that will be timed; formats of a fixed batch size get a file for each.
        calibration: Images, to write int8 files too in runtimes that have them.
    """
    for index, (name, model) in enumerate(networks.items()):
        for runtime in (RUNTIMES[one] for one in runtimes):
            if runtime.modules:
                yield Entrant(name, model, runtime.name, bytes=size_on_disk(model))
                continue
            place = folder / f"{index}-{runtime.name}"
            place.mkdir(parents=True)
            wanted = _Wanted(name, model, runtime, place)
            yield from _written(wanted, inputs, batches, None)
            source = source_of(runtime)
            if calibration is not None and source is not None and source.int8:
                yield from _written(wanted, inputs, batches, calibration)


@dataclass(frozen=True)
class _Wanted:
    name: str
    model: nn.Module
    runtime: Runtime
    place: Path


def _written(
    wanted: _Wanted, inputs: ExampleInputs, batches: Sequence[int], calibration: ExampleInputs | None
) -> list[Entrant]:
    """One entrant for any batch, or one per batch size; or the one that has a problem."""
    runtime, source = wanted.runtime, source_of(wanted.runtime)
    precision = _FLOAT if calibration is None else _INT8
    found: list[Entrant] = []
    try:
        if source is None:
            raise ExportError(f"It opens files ({', '.join(runtime.suffixes)}) that nothing here writes.")
        for batch in sorted(set(batches)):
            path = wanted.place / f"{precision}-{batch}{source.suffix}"
            check = export(
                wanted.model,
                resize(inputs, batch),
                path,
                to=source.format,
                calibration=calibration,
                check_inputs=inputs,
                dynamic="batch",  # what is timed has the sizes that it is timed at
            )
            fixed = None if check.dynamic_batch else batch
            size, difference = check.bytes, check.max_difference
            # Trusted: the file was written here, so that nothing in it is a stranger's.
            found.append(Entrant(wanted.name, path, runtime.name, fixed, True, precision, size, difference))
            if fixed is None:
                break
    except (ExportError, InputError) as error:
        return [Entrant(wanted.name, wanted.model, runtime.name, precision=precision, problem=str(error))]
    return found
