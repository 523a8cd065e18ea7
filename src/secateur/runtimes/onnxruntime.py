"""ONNX Runtime on the CPU."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.types import ExampleInputs
from secateur.runtimes.base import RUNTIMES, Program, Runtime
from secateur.runtimes.files import network_file
from secateur.runtimes.sessions import feed, run_session, session

__all__ = ["open_onnx"]


def open_onnx(network: nn.Module | str | PathLike[str], threads: int) -> Program:
    """Opens an ONNX file with ``threads`` threads inside an operator.

    Raises:
        InputError: A module instead of a file, onnxruntime is missing, or the file is missing or damaged.
    """
    path = network_file(network, "onnx", "ONNX Runtime")
    opened = session(path, threads)

    def prepare(inputs: ExampleInputs) -> Any:
        arrays = feed(opened, inputs, path)
        run_session(opened, arrays, path)  # a refusal is worded once, outside the timed call
        return arrays

    def outputs(arrays: Any) -> list[Tensor]:
        return [torch.as_tensor(array) for array in arrays]

    return Program(prepare, lambda arrays: opened.run(None, arrays), outputs)


RUNTIMES.add(
    "onnxruntime",
    Runtime(
        "onnxruntime", "ONNX Runtime on the CPU", "onnx", ("onnxruntime", "onnx", "onnxscript"), "onnx", 16, open_onnx
    ),
)
