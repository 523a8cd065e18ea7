"""PyTorch itself: modules as they are, and exported programs."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import tensors
from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs, call
from secateur.runtimes.base import RUNTIMES, Program, Runtime

__all__ = ["open_compiled", "open_eager"]


def open_eager(network: nn.Module | str | PathLike[str], threads: int) -> Program:
    """Runs a module operator by operator, in the mode it is in, or a ``.pt2`` file.

    ``threads`` is the process's own setting in PyTorch (``torch.set_num_threads``); it is not changed here.
    """
    return _program(_module(network))


def open_compiled(network: nn.Module | str | PathLike[str], threads: int) -> Program:
    """Runs a module through ``torch.compile`` (compiled at the first call, for the sizes of that call)."""
    return _program(torch.compile(_module(network), dynamic=False))


def _module(network: nn.Module | str | PathLike[str]) -> nn.Module:
    if isinstance(network, nn.Module):
        return network
    from secateur.export.pt2 import read_program

    return read_program(Path(network), trust=True).module()  # Runtime.open has asked


def _program(model: Any) -> Program:
    def run(inputs: ExampleInputs) -> Any:
        with torch.inference_mode():
            return call(model, inputs)

    def prepare(inputs: ExampleInputs) -> ExampleInputs:
        return inputs

    def outputs(found: Any) -> list[Tensor]:
        result = tensors(found)
        if not result:
            raise InputError("The network returns no tensor.")
        return result

    return Program(prepare, run, outputs)


RUNTIMES.add(
    "pytorch",
    Runtime(
        "pytorch", "PyTorch, operator by operator", "pt2", ("torch",), "train", 16, open_eager, modules=True, code=True
    ),
)
RUNTIMES.add(
    "compiled",
    Runtime(
        "compiled",
        "PyTorch through torch.compile",
        None,
        ("torch",),
        "train",
        16,
        open_compiled,
        modules=True,
        code=True,
    ),
)
