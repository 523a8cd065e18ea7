"""ONNX Runtime sessions with a fixed number of threads."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from numpy.typing import NDArray

from secateur.core.batches import batch_size
from secateur.core.errors import InputError, first_line
from secateur.core.types import ExampleInputs
from secateur.runtimes.base import need
from secateur.runtimes.files import feed_in_order, network_file

__all__ = ["feed", "run_session", "session"]


def session(path: str | PathLike[str], threads: int = 1) -> Any:
    """Opens an ONNX file on the CPU with ``threads`` threads inside an operator.

    Raises:
        InputError: When onnxruntime is not installed, or the file is missing or damaged.
    """
    need(("onnxruntime",), "onnx", "Running ONNX files")
    import onnxruntime as ort

    path = network_file(path, "onnx", "ONNX Runtime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if threads > 1:
        # Idle threads that spin would take the cores of whatever is measured next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own per status code
        reason = first_line(error)
        raise InputError(f"ONNX Runtime cannot open {str(path)!r}: {reason}") from error


def feed(opened: Any, inputs: ExampleInputs, path: str | PathLike[str]) -> dict[str, NDArray[Any]]:
    """Returns the arrays that a session wants: by name where the names agree, else in order.

    Raises:
        InputError: When the numbers of inputs differ, or the file takes another fixed batch size only.
    """
    wanted = opened.get_inputs()
    names = [entry.name for entry in wanted]
    arrays = feed_in_order(inputs, names, path)
    fixed = wanted[0].shape[0] if names and wanted[0].shape else None
    if isinstance(fixed, int) and fixed != (batch := batch_size(inputs)):
        raise InputError(f"{str(path)!r} takes batches of {fixed} only; got {batch}. Export it with a dynamic batch.")
    return dict(zip(names, arrays, strict=True))


def run_session(opened: Any, arrays: Mapping[str, NDArray[Any]], path: str | PathLike[str]) -> list[Any]:
    """Runs the session and returns its outputs.

    Raises:
        InputError: When the runtime refuses the inputs; the message is its own.
    """
    try:
        return list(opened.run(None, dict(arrays)))
    except Exception as error:  # onnxruntime raises a class of its own per status code
        reason = " ".join(str(error).split())
        raise InputError(f"ONNX Runtime cannot run {str(path)!r} on these inputs: {reason}") from error
