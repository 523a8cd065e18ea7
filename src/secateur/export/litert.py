"""Writing LiteRT's format (``.tflite``), directly from the traced network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from secateur.core.batches import chunks
from secateur.core.errors import ExportError
from secateur.core.types import ExampleInputs
from secateur.export.formats import FORMATS, Format
from secateur.export.refusals import reason
from secateur.graph.trace import Exported
from secateur.runtimes.files import feed_in_order
from secateur.runtimes.litert import SIGNATURE, signature_inputs
from secateur.runtimes.silence import silence

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
    """Quantises with ai-edge-quantizer: weights per channel, activations per tensor; inputs and outputs stay float.

    Ranges are the least and the largest value of all samples. The quantiser's own choice, moving averages of each
    sample's, cuts off the rare large activations.
    """
    from ai_edge_quantizer import qtyping, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.quantizer import Quantizer
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    plan = RecipeManager()
    plan.load_quantization_recipe(recipe.static_wi8_ai8())
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        plan.add_quantization_config(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    names = signature_inputs(dense)
    parts = [feed_in_order(part, names, dense) for part in chunks(calibration, batch or 1, fill=True)]
    samples = [dict(zip(names, arrays, strict=True)) for arrays in parts]
    ranges = Calibrator(str(dense), torch.get_num_threads(), qsv_update_func=min_max_update)
    ranges.calibrate({SIGNATURE: samples}, plan)
    quantiser = Quantizer(str(dense), plan.get_quantization_recipe())
    path.write_bytes(quantiser.quantize(ranges.get_model_qsvs()).quantized_model or b"")


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
