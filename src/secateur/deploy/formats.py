"""The file formats that a traced network can be written to."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from secateur.deploy.tracing import first_line
from secateur.errors import ExportError, InputError
from secateur.graph.trace import Exported
from secateur.registry import Registry
from secateur.runtimes import RUNTIMES
from secateur.runtimes.base import need
from secateur.types import ExampleInputs

__all__ = ["FORMATS", "Format", "Runner"]

Runner = Callable[[ExampleInputs], list[Tensor]]
"""Runs an exported file on inputs and returns its output tensors in order."""

# A protobuf message, and so an ONNX file with its weights inside, holds 2 GiB at most.
_ONNX_LIMIT = 2**31 - 2**20


@dataclass(frozen=True)
class Format:
    """How a format is written and run.

    Attributes:
        suffix: Usual ending of the file name.
        summary: One line for listings.
        write: Writes a traced network to a path.
        runtime: What runs the file, a name in :data:`~secateur.runtimes.RUNTIMES`.
    """

    suffix: str
    summary: str
    write: Callable[[Exported, Path], None]
    runtime: str

    def load(self, path: Path) -> Runner:
        """Opens a written file in its runtime.

        Raises:
            ExportError: The runtime cannot open it, or (when it is called) cannot run it.
        """
        try:
            program = RUNTIMES[self.runtime].open(path, torch.get_num_threads())
        except InputError as error:
            raise ExportError(f"The exported file cannot be opened: {error}") from error

        def run(inputs: ExampleInputs) -> list[Tensor]:
            try:
                return program(inputs)
            except InputError as error:
                raise ExportError(f"The exported file does not run: {error}") from error

        return run


FORMATS: Registry[Format] = Registry("export format")


def _write_onnx(traced: Exported, path: Path) -> None:
    need(("onnx", "onnxscript", "onnxruntime"), "onnx", "Export to ONNX")
    program = traced.program
    inputs, outputs = _onnx_names(program)
    try:
        exported = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs)
    except Exception as error:  # the exporter's own classes are private
        raise ExportError(_onnx_reason(error)) from error
    if exported is None:
        raise ExportError("torch.onnx.export returned no model; use a newer torch (2.9 or later).")
    _name_batch(exported.model)
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    exported.save(str(path), external_data=size > _ONNX_LIMIT)


def _write_pt2(traced: Exported, path: Path) -> None:
    torch.export.save(traced.program, path)


FORMATS.add("onnx", Format(".onnx", "ONNX, for ONNX Runtime and most other runtimes", _write_onnx, "onnxruntime"))
FORMATS.add(
    "pt2", Format(".pt2", "PyTorch's ExportedProgram: runs without the network's own code", _write_pt2, "pytorch")
)


def _onnx_names(program: ExportedProgram) -> tuple[list[str] | None, list[str] | None]:
    # Only lone tensors are renamed: several have names of the user's own.
    signature = program.graph_signature
    keywords = program.example_inputs[1]
    lone_input = len(signature.user_inputs) == 1 and not keywords
    return ["input"] if lone_input else None, ["output"] if len(signature.user_outputs) == 1 else None


def _name_batch(model: Any) -> None:
    """Gives the one symbolic dimension of the inputs the name ``batch`` instead of ``s31``."""
    import onnx_ir as ir

    graph = model.graph
    symbols = {str(d) for value in graph.inputs for d in value.shape or () if isinstance(d, ir.SymbolicDim)}
    if len(symbols) != 1:
        return
    old = symbols.pop()
    values = [*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        for index, dimension in enumerate(value.shape or ()):
            if str(dimension) == old:
                value.shape[index] = ir.SymbolicDim("batch")


def _onnx_reason(error: BaseException) -> str:
    """Words a conversion error with the operator that could not be converted."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    found = re.search(r"OpOverload\(op='([^']+)', overload='([^']+)'\)", "\n".join(chain))
    if not found:
        return f"The conversion to ONNX failed: {first_line(error)}"
    return (
        f"The operator {found[1]}.{found[2]} cannot be converted to ONNX. "
        "Express it with other operators, or export to 'pt2'."
    )
