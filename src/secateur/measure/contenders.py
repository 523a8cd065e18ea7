"""What latency() measures: one call of one network, timed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from time import perf_counter

import torch
from torch import Tensor, nn

from secateur.batches import tensors
from secateur.errors import InputError
from secateur.measure.modes import switch
from secateur.measure.rounds import Contender, timed
from secateur.runtimes.onnxruntime import open_onnx
from secateur.types import ExampleInputs, call

__all__ = ["backward_contenders", "copies", "forward_contenders", "onnx_contenders"]


def forward_contenders(models: Mapping[str, nn.Module], inputs: ExampleInputs) -> dict[str, Contender]:
    """Returns one timed forward pass per network, in evaluation mode, without gradients."""
    for model in models.values():
        switch(model, False)
    return {name: _forward(model, inputs) for name, model in models.items()}


def backward_contenders(
    models: Mapping[str, nn.Module], inputs: ExampleInputs, *, train: bool
) -> tuple[str, dict[str, Contender]]:
    """Returns the mode and one timed backward pass per network (its forward pass is not timed).

    Training mode if ``train`` and every network runs in it, else evaluation mode for all: batch norm
    refuses a single value per channel.
    """
    contenders = {name: _backward(model, inputs) for name, model in models.items()}
    if train:
        for model in models.values():
            switch(model, True)
        if _all_run(contenders):
            return "train", contenders
    for model in models.values():
        switch(model, False)
    return "eval", contenders


def onnx_contenders(
    paths: Mapping[str, str | PathLike[str]], inputs: ExampleInputs, threads: int
) -> dict[str, Contender]:
    """Returns one timed ONNX Runtime call per file."""
    return {name: _onnx(path, inputs, threads) for name, path in paths.items()}


def copies(models: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Returns copies, so that modes, gradients and running statistics of the originals stay untouched."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying a traced network meets PyTorch's own deprecations
        return {name: copy.deepcopy(model) for name, model in models.items()}


def _all_run(contenders: Mapping[str, Contender]) -> bool:
    try:
        for run in contenders.values():
            run(1)
    except (ValueError, RuntimeError):
        return False
    return True


def _forward(model: nn.Module, inputs: ExampleInputs) -> Contender:
    def once() -> float:
        with torch.inference_mode():
            _wait(inputs)
            start = perf_counter()
            call(model, inputs)
            _wait(inputs)
            return perf_counter() - start

    return _mean(once)


def _backward(model: nn.Module, inputs: ExampleInputs) -> Contender:
    def once() -> float:
        model.zero_grad(set_to_none=True)
        loss = _scalar(call(model, inputs))
        _wait(inputs)
        start = perf_counter()
        loss.backward()  # type: ignore[no-untyped-call]
        _wait(inputs)
        return perf_counter() - start

    return _mean(once)


def _mean(once: Callable[[], float]) -> Contender:
    return lambda calls: sum(once() for _ in range(calls)) / calls


def _onnx(path: str | PathLike[str], inputs: ExampleInputs, threads: int) -> Contender:
    program = open_onnx(path, threads)
    prepared = program.prepare(inputs)
    return timed(lambda: program.run(prepared))


def _scalar(outputs: object) -> Tensor:
    floats = [t for t in tensors(outputs) if t.is_floating_point() and t.requires_grad]
    if not floats:
        raise InputError("The backward pass cannot be timed: no output of the network needs a gradient.")
    return torch.stack([tensor.float().sum() for tensor in floats]).sum()


def _wait(inputs: ExampleInputs) -> None:
    # Kernels on an accelerator run on after the call returned.
    if any(tensor.is_cuda for tensor in tensors(inputs)):
        torch.cuda.synchronize()
