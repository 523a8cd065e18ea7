"""Who takes part in a measurement of time: a network, and the runtime that runs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from torch import nn

from secateur.core.errors import InputError
from secateur.runtimes import RUNTIMES

__all__ = ["Entrant", "as_entrants", "file_bytes", "runtimes_of", "stem"]


@dataclass(frozen=True)
class Entrant:
    """One network in one runtime.

    Attributes:
        name: What results call it, for instance ``dense``; entrants of the same name in several runtimes are the
            same network.
        network: A module, or a file that the runtime reads.
        runtime: A name in :data:`~secateur.runtimes.RUNTIMES`.
        batch: The only batch size that it takes; ``None`` for any.
        trust: Whether the file may run code when it is opened (a ``.pt2`` archive can).
    """

    name: str
    network: nn.Module | Path
    runtime: str
    batch: int | None = None
    trust: bool = False


def as_entrants(
    models: Mapping[str, nn.Module | str | PathLike[str]] | Iterable[Entrant], runtimes: Sequence[str]
) -> tuple[Entrant, ...]:
    """Makes entrants of networks by name: modules in ``runtimes``, files in the runtime of their suffix.

    Raises:
        InputError: A file of an unknown suffix, a runtime that takes no modules, or the same name twice in one
            runtime.

    >>> net = nn.ReLU()
    >>> [(e.name, e.runtime) for e in as_entrants({"a": net, "a.onnx": "a.onnx"}, ["pytorch", "compiled"])]
    [('a', 'pytorch'), ('a', 'compiled'), ('a', 'onnxruntime')]
    """
    if isinstance(models, Mapping):
        found = [entrant for name, network in models.items() for entrant in _of(name, network, runtimes)]
    else:
        found = list(models)
    seen = [(e.runtime, e.name, e.batch) for e in found]
    for key in seen:
        if seen.count(key) > 1:
            raise InputError(f"latency() got two networks called {key[1]!r} in the runtime {key[0]!r}; rename one.")
    return tuple(found)


def runtimes_of(path: str | PathLike[str]) -> tuple[str, ...]:
    """Names of the runtimes that read files with the suffix of ``path``; empty for an unknown suffix.

    >>> runtimes_of("small.onnx")[0]
    'onnxruntime'
    """
    return _readers().get(Path(path).suffix, ())


def file_bytes(path: str | PathLike[str]) -> int:
    """Bytes of a network file, with the one that holds its weights where the format keeps them apart."""
    path = Path(path)
    beside = {".xml": path.with_suffix(".bin"), ".onnx": path.with_name(f"{path.name}.data")}.get(path.suffix)
    return sum(file.stat().st_size for file in (path, beside) if file is not None and file.is_file())


def stem(name: str) -> str:
    """``name`` without the suffix of a network file: what results call it.

    >>> stem("dense.onnx"), stem("resnet18.a1")
    ('dense', 'resnet18.a1')
    """
    path = Path(name)
    return name.removesuffix(path.suffix) if path.suffix in _readers() else name


def _readers() -> dict[str, tuple[str, ...]]:
    from secateur.export.formats import FORMATS  # it needs this package

    by_format = {name: FORMATS[name].suffix for name in FORMATS}
    found: dict[str, tuple[str, ...]] = {}
    for name, suffix in by_format.items():
        first = FORMATS[name].runtime
        others = [r for r in RUNTIMES if RUNTIMES[r].format == name and r != first]
        found[suffix] = (*found.get(suffix, ()), first, *others)
    return found


def _of(name: str, network: nn.Module | str | PathLike[str], runtimes: Sequence[str]) -> list[Entrant]:
    if isinstance(network, nn.Module):
        for runtime in runtimes:
            if not RUNTIMES[runtime].modules:
                raise InputError(
                    f"{runtime!r} runs files, {name!r} is a module; write one with secateur.export.export(), or "
                    f"leave it to `secateur measure --runtimes {runtime}`."
                )
        return [Entrant(name, network, runtime) for runtime in runtimes]
    readers = runtimes_of(network)
    if not readers:
        known = ", ".join(sorted(_readers()))
        raise InputError(f"{str(network)!r} has no suffix of a known network file ({known}).")
    return [Entrant(stem(name), Path(network), readers[0])]
