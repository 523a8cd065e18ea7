"""What a task hands to the engine: inputs of one call, what its output is compared with, and how many samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.core.batches import tensors
from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs

__all__ = ["Batch", "form", "inputs_and_target", "joined", "layout_of", "moved", "samples_in", "shapes", "wide"]


@dataclass(frozen=True)
class Batch:
    """Inputs of one call and what belongs to them.

    Attributes:
        inputs: A tensor, a tuple of positional or a dict of keyword inputs.
        target: What the loss compares the output with, in any form; ``None`` where there is nothing.
        size: Number of samples.
    """

    inputs: ExampleInputs
    target: Any
    size: int


def inputs_and_target(batch: Any) -> tuple[Any, Any]:
    """Splits a batch of a loader by the forms that loaders give.

    A tensor is inputs alone. Of a tuple or list the last item is the target, and the others are inputs: one, or
    several positional ones. Of a dict, ``labels`` is the target and the rest are keyword inputs.

    Raises:
        InputError: It is none of these.

    >>> inputs_and_target([torch.zeros(2), "a", "b"])
    ((tensor([0., 0.]), 'a'), 'b')
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key != "labels"}, batch.get("labels")
    if isinstance(batch, tuple | list) and len(batch) == 1:
        return inputs_and_target(batch[0])
    if isinstance(batch, tuple | list) and batch:
        *inputs, target = batch
        one = inputs[0] if len(inputs) == 1 else tuple(inputs)
        return tuple(one) if isinstance(one, list) else one, target
    raise InputError(
        f"A batch is a tensor, a pair of inputs and target, or a dict; got {type(batch).__name__}. Give the task an "
        "inputs(batch) and a target(batch) of your own."
    )


def samples_in(inputs: Any) -> int:
    """Size of the first dimension of the first tensor that has one.

    Raises:
        InputError: There is no such tensor.
    """
    for tensor in tensors(inputs):
        if tensor.dim():
            return int(tensor.shape[0])
    raise InputError(
        f"The inputs of a batch hold no tensor with a first dimension for samples; got {type(inputs).__name__}."
    )


def moved(value: Any, device: torch.device) -> Any:
    """All tensors in nested tuples, lists and dicts on a device; whatever else has ``to`` goes too."""

    def one(leaf: Any) -> Any:
        return leaf.to(device) if isinstance(leaf, Tensor) or hasattr(leaf, "to") else leaf

    return pytree.tree_map(one, _plain(value))


def layout_of(value: Any, layout: torch.memory_format) -> Any:
    """Images among the inputs (tensors of four dimensions) in a memory layout."""
    if layout == torch.contiguous_format:
        return value

    def one(leaf: Any) -> Any:
        return leaf.contiguous(memory_format=layout) if isinstance(leaf, Tensor) and leaf.ndim == 4 else leaf

    return pytree.tree_map(one, _plain(value))


def wide(output: Any) -> Any:
    """An output with its tensors in float32, as losses and metrics want them after automatic mixed precision.

    What is no tuple, list, dict or tensor (the outputs of a library's classes) stays as it is, unless it is a
    mapping of which a copy can be made.
    """

    def one(leaf: Any) -> Any:
        narrow = isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16)
        return leaf.float() if narrow else leaf

    if any(isinstance(t, Tensor) and t.dtype in (torch.bfloat16, torch.float16) for t in pytree.tree_leaves(output)):
        return pytree.tree_map(one, output)
    return output


def joined(parts: list[ExampleInputs], count: int) -> ExampleInputs:
    """Inputs of several batches as those of one, cut to ``count`` samples.

    Batches whose shapes differ from the first one's (texts of another length) are left out.
    """
    first, layout = pytree.tree_flatten(_plain(parts[0]))
    kept = [first]
    for part in parts[1:]:
        leaves, other = pytree.tree_flatten(_plain(part))
        if other == layout and all(map(_like, leaves, first)):
            kept.append(leaves)
    made = [_joined(list(group), count) for group in zip(*kept, strict=True)]
    whole: ExampleInputs = pytree.tree_unflatten(made, layout)
    return whole


def _like(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape[1:] == other.shape[1:] and one.dtype == other.dtype and bool(one.ndim) == bool(other.ndim)
    return type(one) is type(other)


def _joined(group: list[Any], count: int) -> Any:
    if not isinstance(group[0], Tensor) or not group[0].ndim:
        return group[0]
    return torch.cat(group)[:count]


def _plain(value: Any) -> Any:
    """A mapping of a library's own class (a tokenizer's batch) as a dict."""
    return dict(value) if isinstance(value, Mapping) and type(value) is not dict else value


def form(value: Any) -> str:
    """What a batch looks like, in a few words."""
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} ({shapes(value)})"
    return f"a tensor of {shapes(value)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def shapes(value: Any) -> str:
    """The form of an output or a batch in a few words.

    >>> shapes((torch.zeros(2, 3), {"a": torch.zeros(2)}))
    'shapes (2, 3), (2,)'
    """
    found = [t for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]
    if not found:
        return f"type {type(value).__name__}"
    listed = ", ".join(str(tuple(t.shape)) for t in found[:4])
    return f"shape{'s' * (len(found) > 1)} {listed}{', …' * (len(found) > 4)}"
