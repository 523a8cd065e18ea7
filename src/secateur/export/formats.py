"""The file formats that a traced network can be written to: each one's module adds itself to :data:`FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from secateur.core.errors import ExportError, InputError
from secateur.core.registry import Registry
from secateur.core.types import ExampleInputs
from secateur.graph.trace import Exported
from secateur.runtimes import RUNTIMES
from secateur.runtimes.base import need

__all__ = ["FORMATS", "Format", "Quantise", "Runner", "format_of"]

Runner = Callable[[ExampleInputs], list[Tensor]]
"""Runs an exported file on inputs and returns its output tensors in order."""

Quantise = Callable[[Path, ExampleInputs, int | None, Path], None]
"""Quantises a float32 file of the format (first path) on calibration samples, in batches of the one size that it
takes (``None`` for any), and writes an int8 file of the same inputs and outputs (second path)."""


@dataclass(frozen=True)
class Format:
    """How a format is written and run.

    Attributes:
        suffix: Usual ending of the file name.
        summary: One line for listings.
        write: Writes a traced network to a path.
        runtime: What runs the file, a name in :data:`~secateur.runtimes.RUNTIMES`.
        fixed_batch: Whether a file takes batches of the size of the example inputs only.
        quantise: Makes an int8 file of a float32 file; ``None`` where int8 is not offered.
        quantise_needs: What must be importable for that besides the runtime's packages.
    """

    suffix: str
    summary: str
    write: Callable[[Exported, Path], None]
    runtime: str
    fixed_batch: bool = False
    quantise: Quantise | None = None
    quantise_needs: tuple[str, ...] = ()

    def need(self, what: str, *, int8: bool = False) -> None:
        """Checks that everything is installed that writes (and if ``int8`` quantises) and runs files of this format.

        Raises:
            InputError: A package is missing; the message holds the install command.
        """
        runtime = RUNTIMES[self.runtime]
        need((*runtime.packages, *(self.quantise_needs if int8 else ())), runtime.extra, what)

    def load(self, path: Path) -> Runner:
        """Opens a file that was just written in its runtime.

        Raises:
            ExportError: The runtime cannot open it, or (when it is called) cannot run it.
        """
        try:
            program = RUNTIMES[self.runtime].open(path, torch.get_num_threads(), trust=True)
        except InputError as error:
            raise ExportError(f"The exported file cannot be opened: {error}") from error

        def run(inputs: ExampleInputs) -> list[Tensor]:
            try:
                return program(inputs)
            except InputError as error:
                raise ExportError(f"The exported file does not run: {error}") from error

        return run


FORMATS: Registry[Format] = Registry("export format")


def format_of(path: Path, to: str | None = None) -> str:
    """The format that a file's name stands for: a name in :data:`FORMATS`.

    Args:
        path: The file to be written.
        to: The format that was asked for; the name must not say another one. A name without an ending says nothing.

    Raises:
        UnknownNameError: There is no format ``to``.
        ExportError: The name has no ending, an unknown one, or that of another format.
    """
    endings = {FORMATS[name].suffix: name for name in FORMATS}
    known = ", ".join(f"{suffix} ({name})" for suffix, name in sorted(endings.items()))
    ending = path.suffix.lower()
    if to is not None:
        own = FORMATS[to].suffix
        if ending not in ("", own):
            raise ExportError(
                f"A file of the format {to!r} ends in {own}; got the name {path.name!r}. Leave the format "
                f"out, or give the ending that belongs to it: {known}."
            )
        return to
    if ending not in endings:
        what = f"ends in {path.suffix!r}, which is none of a format" if ending else "has no ending that says its format"
        raise ExportError(f"The name {path.name!r} {what}; there are {known}.")
    return endings[ending]
