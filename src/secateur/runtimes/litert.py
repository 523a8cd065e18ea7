"""LiteRT (the successor of TensorFlow Lite) on the CPU, with XNNPACK."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs
from secateur.runtimes.base import RUNTIMES, Program, Runtime, need
from secateur.runtimes.files import feed_in_order, fit_shapes, network_file
from secateur.runtimes.silence import silence

__all__ = ["SIGNATURE", "open_litert", "signature_inputs"]

SIGNATURE = "serving_default"


def open_litert(network: nn.Module | str | PathLike[str], threads: int) -> Program:
    """Opens a ``.tflite`` file with ``threads`` threads; it takes one batch size only.

    Integers of 64 bits become those of 32 that such files work with.

    Raises:
        InputError: A module instead of a file, ai-edge-litert is missing, or the file is missing, damaged or of
            another format.
    """
    path = network_file(network, "litert", "LiteRT")
    need(("ai_edge_litert",), "litert", "Running LiteRT files")
    interpreter = _interpreter(str(path), threads)
    wanted, given = interpreter.get_input_details(), interpreter.get_output_details()
    names = _names(wanted)

    def prepare(inputs: ExampleInputs) -> Any:
        arrays = feed_in_order(inputs, names, path)
        fit_shapes([array.shape for array in arrays], [entry["shape"] for entry in wanted], path, "LiteRT")
        held = [array.astype(entry["dtype"], copy=False) for array, entry in zip(arrays, wanted, strict=True)]
        run(held)
        return held

    def run(held: Any) -> Any:
        for entry, array in zip(wanted, held, strict=True):
            interpreter.set_tensor(entry["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(entry["index"]) for entry in given]

    def outputs(found: Any) -> list[Tensor]:
        return [torch.as_tensor(array) for array in found]

    return Program(prepare, run, outputs)


def signature_inputs(path: Path) -> list[str]:
    """Names of a file's inputs as its signature has them, in the order in which it takes them."""
    return _names(_interpreter(str(path), 1).get_input_details())


def _names(details: list[dict[str, Any]]) -> list[str]:
    return [entry["name"].removeprefix(f"{SIGNATURE}_") for entry in details]


def _interpreter(path: str, threads: int) -> Any:
    with silence():
        from ai_edge_litert.interpreter import Interpreter

        try:
            interpreter = Interpreter(path, num_threads=threads)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"LiteRT cannot open {path!r}: {reason}") from error
    return interpreter


RUNTIMES.add(
    "litert",
    Runtime(
        "litert",
        "LiteRT on the CPU, with XNNPACK",
        "litert",
        ("ai_edge_litert", "litert_torch"),
        "litert",
        32,
        open_litert,
    ),
)
