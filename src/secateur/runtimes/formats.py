"""Which runtime writes a file and which ones read it: by its ending, or by the name of its format."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from secateur.core.errors import ExportError, UnknownNameError
from secateur.runtimes.base import RUNTIMES, Runtime

__all__ = ["file_bytes", "readers", "source_of", "writer", "writer_for", "writers"]


def writers() -> dict[str, Runtime]:
    """The runtimes that write files, by the name of the format."""
    found = (RUNTIMES[name] for name in RUNTIMES)
    return {one.format: one for one in sorted(found, key=lambda one: one.format) if one.writes}


def writer(to: str) -> Runtime:
    """The runtime that writes a format.

    Raises:
        UnknownNameError: There is no such format.

    >>> writer("onnx").name
    'onnxruntime'
    """
    known = writers()
    if to not in known:
        raise UnknownNameError("export format", to, known)
    return known[to]


def writer_for(path: Path, to: str | None = None) -> Runtime:
    """The runtime that writes the file that a name stands for.

    Args:
        path: The file to be written.
        to: The format that was asked for; the name must not say another one. A name without an ending says nothing.

    Raises:
        UnknownNameError: There is no format ``to``.
        ExportError: The name has no ending, an unknown one, or that of another format.
    """
    endings = {one.suffix: one for one in writers().values()}
    known = ", ".join(f"{suffix} ({one.format})" for suffix, one in sorted(endings.items()))
    ending = path.suffix.lower()
    if to is not None:
        found = writer(to)
        if ending not in ("", found.suffix):
            raise ExportError(
                f"A file of the format {to!r} ends in {found.suffix}; got the name {path.name!r}. Leave the format "
                f"out, or give the ending that belongs to it: {known}."
            )
        return found
    if ending not in endings:
        what = f"ends in {path.suffix!r}, which is none of a format" if ending else "has no ending that says its format"
        raise ExportError(f"The name {path.name!r} {what}; there are {known}.")
    return endings[ending]


def readers(suffix: str) -> tuple[Runtime, ...]:
    """The runtimes that open files with an ending, the one that writes them first; none for an unknown ending.

    >>> [one.name for one in readers(".onnx")], readers(".txt")
    (['onnxruntime', 'openvino'], ())
    """
    found = [one for one in (RUNTIMES[name] for name in RUNTIMES) if suffix in one.suffixes]
    return tuple(sorted(found, key=lambda one: not (one.writes and one.suffix == suffix)))


def source_of(runtime: Runtime) -> Runtime | None:
    """What writes the files that a runtime opens: the runtime itself, or the one whose files it reads.

    >>> [source.name for name in ("openvino", "compiled") if (source := source_of(RUNTIMES[name]))]
    ['openvino', 'pytorch']
    """
    found = (readers(suffix)[0] for suffix in runtime.suffixes)
    return runtime if runtime.writes else next((one for one in found if one.writes), None)


def file_bytes(path: str | PathLike[str]) -> int:
    """Bytes of a network file, with the one that holds its weights where the format keeps them apart."""
    path = Path(path)
    parts = next((one.parts(path) for one in readers(path.suffix)), (path,))
    return sum(part.stat().st_size for part in parts if part.is_file())
