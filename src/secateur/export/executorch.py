"""Writing ExecuTorch's format (``.pte``), with everything that XNNPACK can compute handed to it."""

from __future__ import annotations

from pathlib import Path

from secateur.core.errors import ExportError
from secateur.export.formats import FORMATS, Format
from secateur.export.refusals import reason
from secateur.graph.trace import Exported
from secateur.runtimes.silence import silence

__all__ = ["write_executorch"]


def write_executorch(traced: Exported, path: Path) -> None:
    """Writes the network for the batch size that it was traced with.

    Raises:
        ExportError: An operator cannot be converted; the message names it and the module that it comes from.
    """
    with silence():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            edge = to_edge_transform_and_lower(traced.program, partitioner=[XnnpackPartitioner()])
            program = edge.to_executorch()
        except Exception as error:  # one class per stage of the conversion
            raise ExportError(reason(error, "ExecuTorch", traced.program)) from error
    with path.open("wb") as file:
        program.write_to_file(file)


FORMATS.add("executorch", Format(".pte", "ExecuTorch, with XNNPACK", write_executorch, "executorch", fixed_batch=True))
