"""Writing LiteRT's format (``.tflite``), directly from the traced network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from secateur.batches import chunks
from secateur.deploy.formats import FORMATS, Format
from secateur.deploy.refusals import reason
from secateur.errors import ExportError
from secateur.graph.trace import Exported
from secateur.runtimes.files import feed_in_order
from secateur.runtimes.litert import SIGNATURE, signature_inputs
from secateur.runtimes.silence import silence
from secateur.types import ExampleInputs

__all__ = ["quantise_litert", "write_litert"]


def write_litert(traced: Exported, path: Path) -> None:
    """Writes the network for the batch size that it was traced with.

    Raises:
        ExportError: An operator cannot be converted; the message names it and the module that it comes from.
    """
    with silence():
        try:
            _convert(traced).export(str(path))
        except OSError:
            raise
        except Exception as error:  # one class per stage of the conversion
            raise ExportError(reason(error, "LiteRT", traced.program)) from error


def _convert(traced: Exported) -> Any:
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    import litert_torch

    return litert_torch.convert(traced.program.module(check_guards=False), traced.args, traced.kwargs)


def quantise_litert(dense: Path, calibration: ExampleInputs, batch: int | None, path: Path) -> None:
    """Quantises with ai-edge-quantizer: weights per channel, activations per tensor; inputs and outputs stay float."""
    from ai_edge_quantizer import qtyping, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.quantizer import Quantizer

    quantiser = Quantizer(str(dense), recipe.static_wi8_ai8())
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        quantiser.update_quantization_recipe(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    names = signature_inputs(dense)
    parts = [feed_in_order(part, names, dense) for part in chunks(calibration, batch or 1, fill=True)]
    samples = [dict(zip(names, arrays, strict=True)) for arrays in parts]
    found = quantiser.calibrate({SIGNATURE: samples}, num_threads=torch.get_num_threads())
    path.write_bytes(quantiser.quantize(found).quantized_model or b"")


FORMATS.add(
    "litert",
    Format(
        ".tflite",
        "LiteRT (was TensorFlow Lite)",
        write_litert,
        "litert",
        fixed_batch=True,
        quantise=quantise_litert,
        quantise_needs=("ai_edge_quantizer",),
    ),
)
