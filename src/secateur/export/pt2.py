"""``.pt2`` files: PyTorch's own archive of an exported program.

``torch.export.load`` unpickles, evaluates expressions and imports what the archive names, so a crafted file runs
code. Looking through it first cannot make that safe; such a file is read only if the caller trusts it.
"""

from __future__ import annotations

from pathlib import Path

import torch

from secateur.core.errors import InputError, WeightsError, first_line
from secateur.export.formats import FORMATS, Format
from secateur.graph.trace import Exported

__all__ = ["read_program", "write_program"]


def write_program(traced: Exported, path: Path) -> None:
    """Writes the traced network; the inputs that come with it are zeros (:mod:`secateur.export.private`)."""
    torch.export.save(traced.program, path)


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


FORMATS.add(
    "pt2", Format(".pt2", "PyTorch's ExportedProgram: runs without the network's own code", write_program, "pytorch")
)
