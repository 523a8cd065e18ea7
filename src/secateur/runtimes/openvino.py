"""OpenVINO on the CPU."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs
from secateur.runtimes.base import RUNTIMES, Program, Runtime, need
from secateur.runtimes.files import feed_in_order, file_format, network_file

__all__ = ["open_openvino"]


def open_openvino(network: nn.Module | str | PathLike[str], threads: int) -> Program:
    """Opens OpenVINO's own format (``.xml`` with its ``.bin`` beside it) or an ONNX file.

    Computes in float32: left alone, OpenVINO silently takes bfloat16 on processors that have it.

    Raises:
        InputError: A module instead of a file, openvino is missing, or the file is missing, damaged or of
            another format.
    """
    # A file without a mark passes as ONNX, which OpenVINO reads too.
    path = network_file(network, "openvino", "OpenVINO")
    need(("openvino",), "openvino", "Running OpenVINO files")
    if file_format(path) and not path.with_suffix(".bin").is_file():
        raise InputError(f"The weights of {str(path)!r} are missing: they lie beside it in {path.stem}.bin.")
    compiled = _compile(str(path), threads)
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.inputs]

    def prepare(inputs: ExampleInputs) -> Any:
        import openvino

        arrays = feed_in_order(inputs, names, path)
        held = [openvino.Tensor(array, shared_memory=True) for array in arrays]
        try:
            request.infer(held)  # a refusal is worded once, outside the timed call
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot run {str(path)!r} on these inputs: {_reason(error)}") from error
        return held

    def outputs(found: Any) -> list[Tensor]:
        return [torch.as_tensor(array) for array in found.values()]

    return Program(prepare, request.infer, outputs)


def _compile(path: str, threads: int) -> Any:
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # several pinned processes would share one core while another idles
    }
    try:
        core = openvino.Core()
        return core.compile_model(core.read_model(path), "CPU", options)
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot open {path!r}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The line of an OpenVINO message that says something: the others name lines of its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    plain = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (plain or lines or [type(error).__name__])[0]


RUNTIMES.add(
    "openvino",
    Runtime(
        "openvino",
        "OpenVINO on the CPU, in float32",
        "openvino",
        ("openvino", "onnx", "onnxscript"),
        "openvino",
        16,
        open_openvino,
    ),
)
