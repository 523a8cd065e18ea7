"""What latency() measures: timed calls of one network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import torch
from torch import Tensor, nn

from secateur.core.batches import tensors
from secateur.core.errors import InputError
from secateur.core.modes import switch
from secateur.core.types import ExampleInputs, call
from secateur.graph.copies import deep_copy
from secateur.runtimes import RUNTIMES, Program
from secateur.timing.entrants import Entrant
from secateur.timing.rounds import TimedCall

__all__ = ["backward_calls", "copies", "forward_calls", "program_call"]


def program_call(program: Program, inputs: ExampleInputs) -> TimedCall:
    """Returns timed calls of a program; what has to be done once per set of inputs is done here."""
    prepared = program.prepare(inputs)

    def once() -> float:
        _wait(inputs)
        start = perf_counter()
        program.run(prepared)
        _wait(inputs)
        return perf_counter() - start

    return _mean(once)


def forward_calls(entrants: Sequence[Entrant], inputs: ExampleInputs, threads: int) -> dict[str, TimedCall]:
    """Returns timed forward passes of every network in its runtime, modules in evaluation mode.

    Raises:
        InputError: A runtime is not installed, or refuses the file or the inputs.
    """
    for entrant in entrants:
        if isinstance(entrant.network, nn.Module):
            switch(entrant.network, False)
    opened = {e.label: RUNTIMES[e.runtime].open(e.network, threads, trust=e.trust) for e in entrants}
    return {name: program_call(program, inputs) for name, program in opened.items()}


def backward_calls(
    models: Mapping[str, nn.Module], inputs: ExampleInputs, *, train: bool
) -> tuple[str, dict[str, TimedCall]]:
    """Returns the mode and one timed backward pass per network (its forward pass is not timed).

    Training mode if ``train`` and every network runs in it, else evaluation mode for all: batch norm
    refuses a single value per channel.
    """
    timed = {name: _backward(model, inputs) for name, model in models.items()}
    if train:
        for model in models.values():
            switch(model, True)
        if _all_run(timed):
            return "train", timed
    for model in models.values():
        switch(model, False)
    return "eval", timed


def copies(models: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Returns copies, so that modes, gradients and running statistics of the originals stay untouched."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying a traced network meets PyTorch's own deprecations
        return {name: deep_copy(model) for name, model in models.items()}


def _all_run(timed: Mapping[str, TimedCall]) -> bool:
    try:
        for run in timed.values():
            run(1)
    except (ValueError, RuntimeError):
        return False
    return True


def _backward(model: nn.Module, inputs: ExampleInputs) -> TimedCall:
    def once() -> float:
        model.zero_grad(set_to_none=True)
        loss = _scalar(call(model, inputs))
        _wait(inputs)
        start = perf_counter()
        loss.backward()  # type: ignore[no-untyped-call]
        _wait(inputs)
        return perf_counter() - start

    return _mean(once)


def _mean(once: Callable[[], float]) -> TimedCall:
    return lambda calls: sum(once() for _ in range(calls)) / calls


def _scalar(outputs: object) -> Tensor:
    floats = [t for t in tensors(outputs) if t.is_floating_point() and t.requires_grad]
    if not floats:
        raise InputError("The backward pass cannot be timed: no output of the network needs a gradient.")
    return torch.stack([tensor.float().sum() for tensor in floats]).sum()


def _wait(inputs: ExampleInputs) -> None:
    # Kernels on an accelerator run on after the call returned.
    if any(tensor.is_cuda for tensor in tensors(inputs)):
        torch.cuda.synchronize()
