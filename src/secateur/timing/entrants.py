"""Who takes part in a measurement of time: a network, and the runtime that runs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from torch import nn

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.runtimes import RUNTIMES
from secateur.runtimes.formats import readers, writers

__all__ = ["Entrant", "as_entrants", "compared_with", "labelled", "stem"]


@arguments.checked
@dataclass(frozen=True)
class Entrant:
    """One network in one runtime, at one precision: what is timed, scored and compared.

    Attributes:
        name: What results call the network, for instance ``dense``; entrants of the same name in several runtimes are
            the same network.
        network: A module, or a file that the runtime reads.
        runtime: A name in :data:`~secateur.runtimes.RUNTIMES`.
        batch: The only batch size that it takes; ``None`` for any. A network in files of fixed batch sizes enters
            once per size.
        trust: Whether the file may run code when it is opened (a ``.pt2`` archive can).
        precision: ``float32`` or ``int8``.
        bytes: Size on disk of what the runtime loads: the file, or the weights of a module; ``None`` where it is not
            known.
        difference: Largest difference to PyTorch that the export's check found; ``None`` where nothing was written.
        problem: Why it does not run there, in the converter's words; ``network`` is then the module that was to.
        again: Whether a second copy takes part in every round: of the network that the others are compared with, it
            tells what the machine does to a ratio that should be 1 (``Timing.again_ms``).
    """

    name: str
    network: nn.Module | Path
    runtime: str
    batch: int | None = None
    trust: bool = False
    precision: str = "float32"
    bytes: int | None = None
    difference: float | None = None
    problem: str = ""
    again: bool = False

    @property
    def label(self) -> str:
        """What timings call it: the network, and the precision where it is not float32."""
        return labelled(self.name, self.precision)


def compared_with(reference: str, entrants: Iterable[Entrant]) -> list[Entrant]:
    """The entrants, of which the one that the others are compared with takes part twice."""
    return [replace(entrant, again=entrant.label == reference) for entrant in entrants]


def labelled(name: str, precision: str) -> str:
    """What timings call a network at a precision.

    >>> labelled("pruned", "int8"), labelled("pruned", "float32")
    ('pruned int8', 'pruned')
    """
    return name if precision == "float32" else f"{name} {precision}"


def as_entrants(
    models: Mapping[str, nn.Module | str | PathLike[str]] | Iterable[Entrant], runtimes: Sequence[str]
) -> tuple[Entrant, ...]:
    """Makes entrants of networks by name: modules in ``runtimes``, files in the runtime of their suffix.

    Raises:
        InputError: A file of an unknown suffix, a runtime that takes no modules, the same name twice in one runtime,
            or an entrant that does not run.

    >>> net = nn.ReLU()
    >>> [(e.name, e.runtime) for e in as_entrants({"a": net, "a.onnx": "a.onnx"}, ["pytorch", "compiled"])]
    [('a', 'pytorch'), ('a', 'compiled'), ('a', 'onnxruntime')]
    """
    if isinstance(models, Mapping):
        found = [entrant for name, network in models.items() for entrant in _of(name, network, runtimes)]
    else:
        found = list(models)
    seen = [(e.runtime, e.label, e.batch) for e in found]
    for key in seen:
        if seen.count(key) > 1:
            raise InputError(f"latency() got two networks called {key[1]!r} in the runtime {key[0]!r}; rename one.")
    for entrant in found:
        if entrant.problem:
            raise InputError(
                f"latency() got {entrant.label!r}, which does not run in {entrant.runtime!r}: {entrant.problem}"
            )
    return tuple(found)


def stem(name: str) -> str:
    """``name`` without the suffix of a network file: what results call it.

    >>> stem("dense.onnx"), stem("resnet18.a1")
    ('dense', 'resnet18.a1')
    """
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if readers(suffix) else name


def _of(name: str, network: nn.Module | str | PathLike[str], runtimes: Sequence[str]) -> list[Entrant]:
    if isinstance(network, nn.Module):
        for runtime in runtimes:
            if not RUNTIMES[runtime].modules:
                raise InputError(
                    f"{runtime!r} runs files, {name!r} is a module; write one with secateur.export(), or "
                    f"leave it to `secateur measure --runtimes {runtime}`."
                )
        return [Entrant(name, network, runtime) for runtime in runtimes]
    reader = next(iter(readers(Path(network).suffix)), None)
    if reader is None:
        known = ", ".join(sorted(one.suffix for one in writers().values()))
        raise InputError(f"{str(network)!r} has no suffix of a known network file ({known}).")
    return [Entrant(stem(name), Path(network), reader.name)]
