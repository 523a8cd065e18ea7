"""LiteRT (the successor of TensorFlow Lite) on the CPU, with XNNPACK, and its ``.tflite`` files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.core.batches import chunks
from secateur.core.types import ExampleInputs
from secateur.graph.export import Exported
from secateur.runtimes.base import Program, Runtime, runtime
from secateur.runtimes.files import METADATA, feed_in_order, fit_shapes, head
from secateur.runtimes.integer import IntegerFacts
from secateur.runtimes.packages import need
from secateur.runtimes.silence import silence
from secateur.runtimes.tflite import integer_facts, packed, read_model, schema

__all__ = ["LiteRT"]

_SIGNATURE = "serving_default"


@runtime("litert")
class LiteRT(Runtime):
    """Opens files that take one batch size only; integers of 64 bits become those of 32 that they work with.

    Of files whose inputs and outputs are quantised, it takes and gives the numbers that the integers stand for.
    """

    title = "LiteRT"
    summary = "LiteRT (was TensorFlow Lite) on the CPU, with XNNPACK"
    packages = ("ai_edge_litert", "litert_torch")
    int8_packages = ("ai_edge_quantizer",)
    extra = "litert"
    step = 32
    suffixes = (".tflite",)
    fixed_batch = True
    script = """from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter(FILE)
interpreter.allocate_tensors()


def network(x):
    given = interpreter.get_input_details()[0]
    scale, zero = given["quantization"]  # of a full-integer file; else 0
    x = np.clip(np.round(x / scale) + zero, -128, 127).astype(np.int8) if scale else x
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    found = [(interpreter.get_tensor(e["index"]), *e["quantization"]) for e in interpreter.get_output_details()]
    return [np.float32(s) * (a.astype(np.float32) - z) if s else a for a, s, z in found]"""

    def from_file(self, file: Path, threads: int) -> Program:
        """Opens a file; what it refuses is worded when inputs are prepared, outside the timed call."""
        interpreter = _interpreter(str(file), threads)
        wanted, given = interpreter.get_input_details(), interpreter.get_output_details()
        names = _names(wanted)

        def prepare(inputs: ExampleInputs) -> Any:
            arrays = feed_in_order(inputs, names, file)
            fit_shapes([array.shape for array in arrays], [entry["shape"] for entry in wanted], file, "LiteRT")
            held = [_integers(array, entry) for array, entry in zip(arrays, wanted, strict=True)]
            run(held)
            return held

        def run(held: Any) -> Any:
            for entry, array in zip(wanted, held, strict=True):
                interpreter.set_tensor(entry["index"], array)
            interpreter.invoke()
            return [interpreter.get_tensor(entry["index"]) for entry in given]

        def outputs(found: Any) -> list[Tensor]:
            return [torch.as_tensor(_real(array, entry)) for array, entry in zip(found, given, strict=True)]

        return Program(prepare, run, outputs)

    def write_metadata(self, file: Path, text: str) -> None:
        """Into the file's table of metadata, as a buffer of its own; left out where weights lie behind the tables."""
        model = read_model(file)
        if any(buffer.offset > 1 for buffer in model.buffers):
            return
        entry, buffer = schema().MetadataT(), schema().BufferT()
        buffer.data = np.frombuffer(text.encode(), np.uint8)
        entry.name, entry.buffer = METADATA, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [*(model.metadata or []), entry]
        file.write_bytes(packed(model))

    def read_metadata(self, file: Path) -> str | None:
        """From the file's table of metadata."""
        need(self.packages[:1], self.extra, "Reading LiteRT files")
        model = read_model(file)
        entry = next((e for e in model.metadata or [] if e.name == METADATA.encode()), None)
        return None if entry is None else bytes(model.buffers[entry.buffer].data).decode()

    def recognises(self, file: Path) -> bool:
        """By the mark of the format."""
        return head(file)[4:8] == b"TFL3"

    def convert(self, traced: Exported, file: Path) -> None:
        """Writes the network for the batch size that it was traced with."""
        os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
        with silence():
            import litert_torch

            module = traced.program.module(check_guards=False)
            litert_torch.convert(module, traced.args, traced.kwargs).export(str(file))

    def quantise(self, dense: Path, calibration: ExampleInputs, batch: int | None, file: Path) -> None:
        """Quantises with ai-edge-quantizer: weights per channel, activations per tensor; inputs, outputs stay float.

        Ranges are the least and the largest value of all samples. The quantiser's own choice, moving averages of each
        sample's, cuts off the rare large activations.
        """
        _quantise(dense, calibration, batch, file, _plan(ends=False))

    def quantise_integer(self, dense: Path, calibration: ExampleInputs, batch: int | None, file: Path) -> None:
        """The same, with inputs and outputs in int8 too."""
        _quantise(dense, calibration, batch, file, _plan(ends=True))

    def integer_facts(self, file: Path) -> IntegerFacts:
        """From the file's tables."""
        need(self.packages[:1], self.extra, "Reading LiteRT files")
        return integer_facts(file)


def _quantise(dense: Path, calibration: ExampleInputs, batch: int | None, file: Path, plan: Any) -> None:
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.quantizer import Quantizer
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    names = _names(_interpreter(str(dense), 1).get_input_details())
    parts = [feed_in_order(part, names, dense) for part in chunks(calibration, batch or 1, fill=True)]
    samples = [dict(zip(names, arrays, strict=True)) for arrays in parts]
    ranges = Calibrator(str(dense), torch.get_num_threads(), qsv_update_func=min_max_update)
    ranges.calibrate({_SIGNATURE: samples}, plan)
    quantiser = Quantizer(str(dense), plan.get_quantization_recipe())
    file.write_bytes(quantiser.quantize(ranges.get_model_qsvs()).quantized_model or b"")


def _plan(*, ends: bool) -> Any:
    """The quantiser's static int8 recipe; without ``ends``, inputs and outputs are left alone."""
    from ai_edge_quantizer import qtyping, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    plan = RecipeManager()
    plan.load_quantization_recipe(recipe.static_wi8_ai8())
    for end in () if ends else (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        plan.add_quantization_config(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return plan


def _integers(array: NDArray[Any], entry: dict[str, Any]) -> NDArray[Any]:
    """What an input holds for an array: of a quantised one round(x / scale) + zero point, within its type."""
    scale, zero = entry["quantization"]
    if scale and array.dtype.kind == "f":
        limits = np.iinfo(entry["dtype"])
        array = np.clip(np.round(array / scale) + zero, limits.min, limits.max)
    return array.astype(entry["dtype"], copy=False)


def _real(array: NDArray[Any], entry: dict[str, Any]) -> NDArray[Any]:
    """What the integers of an output stand for: scale · (integer − zero point), float32."""
    scale, zero = entry["quantization"]
    quantised = scale and array.dtype.kind in "iu"
    return np.float32(scale) * (array.astype(np.float32) - zero) if quantised else array


def _names(details: list[dict[str, Any]]) -> list[str]:
    """Names of a file's inputs as its signature has them, in the order in which it takes them."""
    return [entry["name"].removeprefix(f"{_SIGNATURE}_") for entry in details]


def _interpreter(path: str, threads: int) -> Any:
    with silence():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(path, num_threads=threads)
        interpreter.allocate_tensors()
    return interpreter
