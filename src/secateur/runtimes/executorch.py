"""ExecuTorch on the CPU, and its ``.pte`` files, with everything that XNNPACK can compute handed to it."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs
from secateur.graph.export import Exported
from secateur.runtimes.base import Program, Runtime, runtime
from secateur.runtimes.files import feed_in_order, fit_shapes, head
from secateur.runtimes.silence import silence

__all__ = ["ExecuTorch"]

_open: weakref.WeakSet[Any] = weakref.WeakSet()


@runtime("executorch")
class ExecuTorch(Runtime):
    """Opens files that take one batch size only, and their inputs in order.

    The number of threads belongs to the process: it can change only while no file is open.
    """

    title = "ExecuTorch"
    summary = "ExecuTorch on the CPU, with XNNPACK"
    packages = ("executorch",)
    extra = "executorch"
    step = 32
    suffixes = (".pte",)
    fixed_batch = True

    def from_file(self, file: Path, threads: int) -> Program:
        """Opens a file; what it refuses is worded when inputs are prepared, outside the timed call."""
        with silence():
            from executorch.runtime import Runtime as Engine

            _set_threads(threads)
            method = Engine.get().load_program(file).load_method("forward")
        _open.add(method)
        metadata = method.metadata
        count = metadata.num_inputs()
        sizes = [tuple(metadata.input_tensor_meta(index).sizes()) for index in range(count)]
        names = [f"input {index}" for index in range(count)]

        def prepare(inputs: ExampleInputs) -> Any:
            held = tuple(torch.as_tensor(array) for array in feed_in_order(inputs, names, file))
            fit_shapes([tensor.shape for tensor in held], sizes, file, "ExecuTorch")
            try:
                with silence():
                    method.execute(held)
            except RuntimeError as error:
                raise InputError(f"ExecuTorch cannot run {str(file)!r} on these inputs: {error}") from error
            return held

        def outputs(found: Any) -> list[Tensor]:
            return list(found)

        return Program(prepare, method.execute, outputs)

    def recognises(self, file: Path) -> bool:
        """By the mark of the format."""
        return head(file)[4:8] == b"ET12"

    def convert(self, traced: Exported, file: Path) -> None:
        """Writes the network for the batch size that it was traced with."""
        with silence():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            edge = to_edge_transform_and_lower(traced.program, partitioner=[XnnpackPartitioner()])
            program = edge.to_executorch()
        with file.open("wb") as opened:
            program.write_to_file(opened)


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
