"""PyTorch itself: modules as they are, and ``.pt2`` files, its own archives of exported programs.

``torch.export.load`` unpickles, evaluates expressions and imports what the archive names, so a crafted file runs
code. Looking through it first cannot make that safe; such a file is read only if the caller trusts it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import tensors
from secateur.core.errors import InputError, WeightsError, first_line
from secateur.core.types import ExampleInputs, call
from secateur.graph.export import Exported
from secateur.runtimes.base import Program, Runtime, runtime
from secateur.runtimes.files import head

__all__ = ["Compiled", "PyTorch", "read_program"]

_TAIL = 65_536  # of an archive: the list of its members, or the end of that
_MEMBERS = (b"/archive_format", b"serialized_exported_program.json")


def read_program(path: Path, *, trust: bool) -> torch.export.ExportedProgram:
    """Loads an exported program, which can run any code.

    Raises:
        InputError: It is not trusted.
        WeightsError: It cannot be read.
    """
    if not trust:
        raise InputError(
            f"{str(path)!r} is a .pt2 archive, which can run any code when it is opened; it needs trust=True."
        )
    try:
        return torch.export.load(path)
    except Exception as error:  # the archive's reader raises what it likes
        raise WeightsError(f"{path} cannot be read as a .pt2 archive: {first_line(error)}.") from error


class _Archives(Runtime):
    """What PyTorch has in common, however it runs: where it is from, and the files that it opens."""

    extra = "train"
    step = 16
    format = "pt2"
    suffixes = (".pt2",)
    code = True

    def from_file(self, file: Path, threads: int) -> Program:
        """Loads an archive, which can run any code: :meth:`Runtime.open` has asked whether it is trusted."""
        return self.from_module(read_program(file, trust=True).module(), threads)

    def recognises(self, file: Path) -> bool:
        """A zip archive whose list of members has the one that says what it is."""
        if head(file, 4) != b"PK\x03\x04":
            return False
        with file.open("rb") as opened:
            opened.seek(-min(_TAIL, file.stat().st_size), os.SEEK_END)
            tail = opened.read()
        return any(member in tail for member in _MEMBERS)


@runtime("pytorch")
class PyTorch(_Archives):
    """Runs a module operator by operator, in the mode it is in.

    The number of threads is the process's own setting in PyTorch (``torch.set_num_threads``); it is not changed here.
    """

    title = "PyTorch"
    summary = "PyTorch, operator by operator"

    def from_module(self, module: nn.Module, threads: int) -> Program:
        """Makes a program of a module; inputs are taken as they are."""
        return _program(module)

    def convert(self, traced: Exported, file: Path) -> None:
        """Writes the traced network; the inputs that come with it are zeros (:mod:`secateur.runtimes.private`)."""
        torch.export.save(traced.program, file)


@runtime("compiled")
class Compiled(_Archives):
    """Runs a module through ``torch.compile``, which compiles it at the first call, for the sizes of that call."""

    title = "PyTorch compiled"
    summary = "PyTorch through torch.compile"
    slow_to_start = True

    def from_module(self, module: nn.Module, threads: int) -> Program:
        """Makes a program of a module; inputs are taken as they are."""
        return _program(torch.compile(module, dynamic=False))


def _program(model: Any) -> Program:
    def run(inputs: ExampleInputs) -> Any:
        with torch.inference_mode():
            return call(model, inputs)

    def prepare(inputs: ExampleInputs) -> ExampleInputs:
        return inputs

    def outputs(found: Any) -> list[Tensor]:
        result = tensors(found)
        if not result:
            raise InputError("The network returns no tensor.")
        return result

    return Program(prepare, run, outputs)
