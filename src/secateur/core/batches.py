"""Example inputs of another batch size, whatever form they were given in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs

__all__ = ["batch_size", "chunks", "resize", "tensors"]


def tensors(value: Any) -> list[Tensor]:
    """Returns every tensor in nested tuples, lists and dicts, in order.

    >>> [tuple(t.shape) for t in tensors({"a": torch.zeros(2), "b": (torch.zeros(3), None)})]
    [(2,), (3,)]
    """
    if isinstance(value, Mapping):
        value = dict(value)
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def batch_size(inputs: ExampleInputs) -> int:
    """Returns the size of the first dimension of the first tensor that has one.

    Raises:
        InputError: When no input is a tensor with a batch dimension.

    >>> batch_size((torch.zeros(5, 3), torch.zeros(5)))
    5
    """
    for tensor in tensors(inputs):
        if tensor.dim():
            return int(tensor.shape[0])
    raise InputError("The example inputs hold no tensor with a batch dimension (the first one).")


def resize(inputs: ExampleInputs, batch: int) -> ExampleInputs:
    """Returns the inputs with ``batch`` samples: repeated in turn when there are too few, cut when too many.

    Every tensor whose first dimension is the batch size is resized; the others are handed on as they are.

    Raises:
        InputError: When ``batch`` is below 1, or there is no sample to repeat.

    >>> resize(torch.tensor([[1], [2]]), 3).tolist()
    [[1], [2], [1]]
    """
    present = batch_size(inputs)
    if batch < 1 or present < 1:
        raise InputError(f"A batch holds at least 1 sample; wanted {batch}, the example inputs hold {present}.")
    index = torch.arange(batch) % present

    def one(leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == present):
            return leaf
        return leaf[index.to(leaf.device)]

    if isinstance(inputs, Mapping):
        return {name: pytree.tree_map(one, value) for name, value in inputs.items()}
    return pytree.tree_map(one, inputs)  # type: ignore[no-any-return]


def chunks(inputs: ExampleInputs, size: int, *, fill: bool = False) -> list[ExampleInputs]:
    """Cuts inputs into batches of ``size``; the last is smaller, or if ``fill``, made up with the first samples.

    >>> [part.tolist() for part in chunks(torch.tensor([1, 2, 3]), 2)]
    [[1, 2], [3]]
    >>> [part.tolist() for part in chunks(torch.tensor([1, 2, 3]), 2, fill=True)]
    [[1, 2], [3, 1]]
    """
    count = batch_size(inputs)
    full = resize(inputs, -(-count // size) * size) if fill else inputs
    total = batch_size(full)

    def part(start: int) -> ExampleInputs:
        def one(leaf: Any) -> Any:
            follows = isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == total
            return leaf[start : start + size] if follows else leaf

        cut: ExampleInputs = pytree.tree_map(one, full)
        return cut

    return [part(start) for start in range(0, total, size)]
