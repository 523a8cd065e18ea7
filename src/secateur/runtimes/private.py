"""What of the user's own a traced network carries besides the network: taken off before it is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.graph.calling import spills
from secateur.graph.export import Exported

__all__ = ["private"]

_TOLD = ("stack_trace", "source_fn_stack", "fwd_source_fn_stack")
"""What nodes remember of the user's source: lines of code, and the folders that it lies in."""


def private(traced: Exported) -> Exported:
    """The same network without the example inputs' values, and with tensors that hold nothing but their own entries.

    An example that is a slice of four hundred images refers to all of them, and so does a constant that is a slice;
    writers save what a tensor refers to. Zeros of the same shapes take the examples' place, one number in memory each.
    """
    program = traced.program
    args, kwargs = pytree.tree_map(_stand_in, (traced.args, traced.kwargs))
    program._example_inputs = (args, kwargs)
    copies: dict[tuple[Any, ...], Tensor] = {}
    for held in (program._state_dict, program._constants):
        for name, value in held.items():
            if isinstance(value, Tensor):
                held[name] = _own(value, copies)
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            for key in _TOLD:
                node.meta.pop(key, None)
    return replace(traced, args=args, kwargs=kwargs)


def _stand_in(leaf: Any) -> Any:
    """A writer's file has that one number in place of the example, whatever size it has."""
    return (
        torch.zeros((), dtype=leaf.dtype, device=leaf.device).expand(leaf.shape) if isinstance(leaf, Tensor) else leaf
    )


def _own(tensor: Tensor, copies: dict[tuple[Any, ...], Tensor]) -> Tensor:
    """The tensor itself where its memory holds nothing else; what shares memory in part is copied once."""
    if not spills(tensor):
        return tensor
    key = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
    if key not in copies:
        copy = tensor.detach().clone(memory_format=torch.contiguous_format)
        wraps = isinstance(tensor, nn.Parameter)
        copies[key] = nn.Parameter(copy, requires_grad=tensor.requires_grad) if wraps else copy
    return copies[key]
