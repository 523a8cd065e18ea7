"""Calibration data as they are given, checked and cut into what the traced network takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError
from secateur.graph.trace import Traced

__all__ = ["Batch", "Data", "batches", "pieces"]

Data = Tensor | Iterable[Any]
"""Inputs, or an iterable of batches: inputs, or (inputs, labels). Inputs are what the network is called with."""

PIECE = 64
"""Samples that go through the network at a time where the data are not in batches already."""


@dataclass(frozen=True)
class Batch:
    """Inputs of one call and their labels.

    Attributes:
        args: Positional inputs.
        kwargs: Keyword inputs.
        labels: What the loss compares with, first dimension the samples; ``None`` where there are none.
        size: Number of samples.
        number: Position of the batch in the data, from 1.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    labels: Any
    size: int
    number: int

    def copied(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs, copied: a network may write into them."""
        made = pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, (self.args, dict(self.kwargs)))
        return made[0], made[1]


def batches(data: Data, traced: Traced) -> Iterator[Batch]:
    """Yields the data batch by batch, checked, on the device and in the type of the network's example inputs.

    Raises:
        InputError: Nothing in it, samples of another shape or type, NaN or infinite inputs.
    """
    number = 0
    for number, item in enumerate(_items(data), start=1):
        args, kwargs, labels = _taken_apart(item, traced, number)
        args, kwargs, size = _checked((args, dict(kwargs)), traced, number)
        if size and labels is not None and len(labels) != size:
            raise InputError(f"Batch {number} of the data has {size} samples and {len(labels)} labels.")
        if size:
            yield Batch(args, kwargs, _beside(labels, args, kwargs), size, number)
    if not number:
        raise InputError("The data hold no batch. (An iterator that was used before is empty: give it afresh.)")


def _beside(labels: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Labels on the device of the inputs."""
    device = next(v.device for v in pytree.tree_leaves((args, dict(kwargs))) if isinstance(v, Tensor))
    return labels.to(device) if isinstance(labels, Tensor) else labels


def _items(data: Data) -> Iterator[Any]:
    """A tensor, or a pair of inputs and class labels, is cut into pieces; anything else is iterated over."""
    if isinstance(data, Tensor):
        yield from torch.split(data, PIECE)
    elif _is_pair(data):
        yield from zip(*(torch.split(v, PIECE) for v in data), strict=True)
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        yield from data
    else:
        raise InputError(
            f"data is a tensor, or an iterable of batches (a DataLoader, a list): inputs, or pairs of inputs and "
            f"labels; got {type(data).__name__}."
        )


def _is_pair(data: Any) -> bool:
    """Whether the whole data are (inputs, labels): two tensors, of which the second are whole numbers in a row."""
    if not (isinstance(data, tuple) and len(data) == 2 and all(isinstance(v, Tensor) for v in data)):
        return False
    inputs, labels = data
    return labels.ndim == 1 and not labels.is_floating_point() and inputs.ndim > 0 and len(inputs) == len(labels)


def _taken_apart(item: Any, traced: Traced, number: int) -> tuple[tuple[Any, ...], Mapping[str, Any], Any]:
    """Splits an item into positional inputs, keyword inputs and labels."""
    count = len(traced.args)
    if isinstance(item, Mapping) and not count:
        return (), item, None
    if isinstance(item, Tensor) and count == 1:
        return (item,), {}, None
    if isinstance(item, (tuple, list)):
        if len(item) == 2 and isinstance(item[0], (tuple, list, Mapping)):
            return *_taken_apart(item[0], traced, number)[:2], item[1]
        if len(item) in (count, count + 1) and count:
            return tuple(item[:count]), {}, item[count] if len(item) > count else None
    what = (
        f"a dict with {', '.join(traced.kwargs)}" if traced.kwargs else "a tensor" if count == 1 else f"{count} tensors"
    )
    raise InputError(
        f"Batch {number} of the data is a {type(item).__name__}{_sizes(item)}; the network takes {what}, so a batch "
        f"is that, or a pair of that and labels."
    )


def _sizes(item: Any) -> str:
    return f" of {len(item)}" if isinstance(item, (tuple, list, Mapping)) else ""


def _checked(inputs: Any, traced: Traced, number: int) -> tuple[tuple[Any, ...], dict[str, Any], int]:
    """The inputs with device and type of the examples, and how many samples they are."""
    flat, layout = pytree.tree_flatten(inputs)
    examples, wanted = pytree.tree_flatten((traced.args, traced.kwargs))
    if layout != wanted:
        raise InputError(
            f"Batch {number} of the data is built differently from the example inputs: {layout}, {wanted}."
        )
    made = [_like(v, e, traced, number) for v, e in zip(flat, examples, strict=True)]
    sizes = {len(v) for v, e in zip(made, examples, strict=True) if _has_batch(e, traced)}
    if len(sizes) != 1:
        raise InputError(f"Batch {number} of the data has inputs of {' and '.join(map(str, sorted(sizes)))} samples.")
    args, kwargs = pytree.tree_unflatten(made, layout)
    return args, kwargs, sizes.pop()


def _like(value: Any, example: Any, traced: Traced, number: int) -> Any:
    if not isinstance(example, Tensor):
        return value
    where = f"Batch {number} of the data"
    if not isinstance(value, Tensor):
        raise InputError(f"{where} holds a {type(value).__name__} where the network takes a tensor.")
    free = int(_has_batch(example, traced))
    if value.ndim != example.ndim or value.shape[free:] != example.shape[free:]:
        raise InputError(
            f"{where} has samples of shape {tuple(value.shape[1:])}; the network was traced with samples of shape "
            f"{tuple(example.shape[1:])}. Prepare the data as for the network itself."
        )
    if example.is_floating_point() != value.is_floating_point():
        raise InputError(
            f"{where} is {value.dtype}, the network takes {example.dtype}. Prepare (normalise) the data as for the "
            "network itself."
        )
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise InputError(f"{where} holds NaN or infinite values; scores would mean nothing.")
    return value.to(device=example.device, dtype=example.dtype)


def _has_batch(example: Any, traced: Traced) -> bool:
    """Whether the first dimension of an example input is the samples."""
    return isinstance(example, Tensor) and example.ndim > 0 and example.shape[0] == traced.batch


def pieces(batch: Batch, size: int, traced: Traced) -> Iterator[Batch]:
    """Cuts a batch into calls of exactly ``size`` samples; a remainder is left out."""
    for start in range(0, batch.size - size + 1, size):
        part = slice(start, start + size)

        def cut(value: Any, part: slice = part) -> Any:
            whole = isinstance(value, Tensor) and value.ndim and value.shape[0] == batch.size
            return value[part] if whole else value

        args, kwargs = pytree.tree_map(cut, (batch.args, dict(batch.kwargs)))
        labels = None if batch.labels is None else batch.labels[part]
        yield Batch(args, kwargs, labels, size, batch.number)
