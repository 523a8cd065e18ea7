"""Writing ONNX, for ONNX Runtime and most other runtimes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from secateur.core.batches import chunks
from secateur.core.errors import ExportError
from secateur.core.types import ExampleInputs
from secateur.export.formats import FORMATS, Format
from secateur.export.refusals import reason
from secateur.graph.trace import Exported
from secateur.runtimes.sessions import feed, session

__all__ = ["quantise_onnx", "write_onnx"]

# A protobuf message, and so an ONNX file with its weights inside, holds 2 GiB at most.
_LIMIT = 2**31 - 2**20
_CALIBRATED_AT_ONCE = 16  # every activation of a batch is held


def write_onnx(traced: Exported, path: Path) -> None:
    """Writes one file with all weights; beyond 2 GB of them they go to ``<name>.data`` beside it.

    Raises:
        ExportError: An operator cannot be converted; the message names it and the module that it comes from.
    """
    program = traced.program
    inputs, outputs = _names(program)
    try:
        exported = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs)
    except Exception as error:  # the exporter's own classes are private
        raise ExportError(reason(error, "ONNX", program)) from error
    if exported is None:
        raise ExportError("torch.onnx.export returned no model; use a newer torch (2.9 or later).")
    _name_batch(exported.model)
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    exported.save(str(path), external_data=size > _LIMIT)


def _names(program: ExportedProgram) -> tuple[list[str] | None, list[str] | None]:
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


def quantise_onnx(dense: Path, calibration: ExampleInputs, batch: int | None, path: Path) -> None:
    """Writes QDQ pairs around the operators: weights signed per channel, activations unsigned per tensor, by min-max.

    Signed activations would be right too, and slower on x86: its instructions multiply unsigned by signed bytes.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = dense.with_name("prepared.onnx")
    quant_pre_process(dense, prepared)  # folds batch norms and finds shapes, without which much stays float
    opened = session(dense)
    fed = (feed(opened, part, dense) for part in chunks(calibration, batch or _CALIBRATED_AT_ONCE, fill=True))
    quantize_static(
        prepared,
        path,
        _Reader(fed),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


class _Reader:
    """Gives one calibration batch after the other, in the form that the quantiser asks for."""

    def __init__(self, batches: Iterator[dict[str, NDArray[Any]]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)


FORMATS.add(
    "onnx",
    Format(
        ".onnx",
        "ONNX, for ONNX Runtime and most other runtimes",
        write_onnx,
        "onnxruntime",
        quantise=quantise_onnx,
    ),
)
