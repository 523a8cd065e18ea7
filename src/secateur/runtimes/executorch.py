"""ExecuTorch on the CPU, with XNNPACK."""

from __future__ import annotations

import weakref
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

__all__ = ["open_executorch"]

_open: weakref.WeakSet[Any] = weakref.WeakSet()


def open_executorch(network: nn.Module | str | PathLike[str], threads: int) -> Program:
    """Opens a ``.pte`` file; it takes one batch size only, and its inputs in order.

    The number of threads belongs to the process: it can change only while no file is open.

    Raises:
        InputError: A module instead of a file, executorch is missing, the file is missing, damaged or of another
            format, or another file is open with another number of threads.
    """
    path = network_file(network, "executorch", "ExecuTorch")
    need(("executorch",), "executorch", "Running ExecuTorch files")
    with silence():
        _set_threads(threads)
        method = _method(path)
    _open.add(method)
    metadata = method.metadata
    count = metadata.num_inputs()
    sizes = [tuple(metadata.input_tensor_meta(index).sizes()) for index in range(count)]
    names = [f"input {index}" for index in range(count)]

    def prepare(inputs: ExampleInputs) -> Any:
        held = tuple(torch.as_tensor(array) for array in feed_in_order(inputs, names, path))
        fit_shapes([tensor.shape for tensor in held], sizes, path, "ExecuTorch")
        try:
            with silence():
                method.execute(held)
        except RuntimeError as error:
            raise InputError(f"ExecuTorch cannot run {str(path)!r} on these inputs: {error}") from error
        return held

    def outputs(found: Any) -> list[Tensor]:
        return list(found)

    return Program(prepare, method.execute, outputs)


def _set_threads(threads: int) -> None:
    from executorch.extension.pybindings import portable_lib

    present = portable_lib._threadpool_get_thread_count()
    if present == threads:
        return
    if len(_open):  # open methods point to the threads that a change would end
        raise InputError(
            f"ExecuTorch has files open with {present} threads in this process, so none can be opened with {threads}. "
            "Close them first, or start another process."
        )
    portable_lib._unsafe_reset_threadpool(threads)


def _method(path: Path) -> Any:
    from executorch.runtime import Runtime as Engine

    try:
        return Engine.get().load_program(path).load_method("forward")
    except (RuntimeError, KeyError) as error:
        raise InputError(f"ExecuTorch cannot open {str(path)!r}: {error}") from error


RUNTIMES.add(
    "executorch",
    Runtime(
        "executorch",
        "ExecuTorch on the CPU, with XNNPACK",
        "executorch",
        ("executorch",),
        "executorch",
        32,
        open_executorch,
    ),
)
