"""The one reader of calibration data: whatever form they are given in, batches come out, checked one by one.

What is accepted, for a network that takes n inputs (positional, or by keyword):

========================================  ==============================================================================
given                                     read as
========================================  ==============================================================================
a tensor                                  all samples of the one input
a dict (any mapping)                      all samples by keyword, for a network whose example inputs are a dict
a tuple of n inputs                       all samples of the n positional inputs
a tuple of n inputs and labels            the same, with what the loss compares with
a tuple ``(inputs, labels)``              the same; ``inputs`` is a tuple, a list or a dict
a list of n > 1 tensors                   all samples of the n positional inputs
any other iterable                        batches, each of them one of the above (a DataLoader's lists are tuples):
                                          a list, a DataLoader, a generator, ``x.split(64)``
========================================  ==============================================================================

A **list** of tensors for a network of one input is a list of batches, a **tuple** of two is inputs and labels. Two
tensors that could be both (the same type and sample shape) are refused: ``[(x, y)]`` or ``[x, y]`` says which. A key
``labels`` of a dict that the network was not traced with holds the labels. Labels are handed on where something needs
them and ignored elsewhere. Inputs take device and precision of the example inputs; whole numbers are never taken for
floating-point ones.

An iterable is gone through once and only as far as it is asked for, so memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError

__all__ = ["PIECE", "Batch", "Data", "Taker", "batches", "calls", "pieces"]

Data = Tensor | tuple[Any, ...] | Mapping[str, Any] | Iterable[Any]
"""Calibration data: see :mod:`secateur.core.inputs` for what is accepted."""

PIECE = 64
"""Samples that go through a network at a time where the data are not in batches already."""


class Taker(Protocol):
    """What the reader has to know of a network: the inputs it was traced with."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional example inputs."""

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword example inputs."""

    @property
    def batch(self) -> int:
        """Samples in the example inputs: the first dimension of those that have one."""

    @property
    def dynamic(self) -> bool:
        """Whether other numbers of samples will do."""


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

    @property
    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword inputs."""
        return self.args, dict(self.kwargs)

    def copied(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs, copied: a network may write into them."""
        made = pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, self.inputs)
        return made[0], made[1]


def batches(data: Data, taker: Taker) -> Iterator[Batch]:
    """Yields the data batch by batch, checked, on the device and in the type of the network's example inputs.

    What holds all samples at once is cut into pieces of :data:`PIECE`.

    Args:
        data: In one of the forms that the module lists.
        taker: What the network was traced with.

    Raises:
        InputError: Nothing in the data, another number of inputs, samples of another shape or type, NaN or plus
            infinity, labels of another number than the samples.
    """
    number = samples = 0
    for number, (args, kwargs, labels) in enumerate(_items(data, taker), start=1):
        inputs, size = _checked((args, kwargs), taker, number)
        if labels is not None and hasattr(labels, "__len__") and size and len(labels) != size:
            raise InputError(f"Batch {number} of the data has {size} samples and {len(labels)} labels.")
        samples += size
        if size:
            yield Batch(*inputs, _beside(labels, inputs), size, number)
    if not number:
        raise InputError("The data hold no batch. (An iterator that was used before is empty: give it afresh.)")
    if not samples:
        raise InputError("The data hold no sample: their batches are empty. Give 128 or more.")


def calls(data: Data, taker: Taker, size: int) -> Iterator[Batch]:
    """Yields batches of at most ``size`` samples, or of exactly as many as a network takes that takes no others.

    Samples that are left over at the end of a batch are dropped then.

    Raises:
        InputError: See :func:`batches`; or too few samples for a single call.
    """
    found = False
    for batch in batches(data, taker):
        for part in pieces(batch, size if taker.dynamic else taker.batch, taker, rest=taker.dynamic):
            found = True
            yield part
    if not found:
        raise InputError(
            f"The data hold too few samples: the network takes exactly {taker.batch} at a time. Give larger batches, "
            "or example inputs of another size."
        )


def pieces(batch: Batch, size: int, taker: Taker, *, rest: bool = False) -> Iterator[Batch]:
    """Cuts a batch into calls of ``size`` samples; a remainder is left out, or if ``rest``, the last call."""
    end = batch.size if rest else batch.size - size + 1
    for start in range(0, end, size):
        part = slice(start, min(start + size, batch.size))
        args, kwargs = _cut(batch.inputs, taker, part)
        labels = None if batch.labels is None else batch.labels[part]
        yield replace(batch, args=args, kwargs=kwargs, labels=labels, size=part.stop - start)


# ------------------------------------------------------------------------------------------------ forms of data

_Item = tuple[tuple[Any, ...], dict[str, Any], Any]


def _items(data: Data, taker: Taker) -> Iterator[_Item]:
    """Positional inputs, keyword inputs and labels of every batch, not checked."""
    whole = _whole(data, taker)
    if whole is not None:
        yield from _split(whole, taker)
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        for number, item in enumerate(data, start=1):
            found = _item(item, taker)
            if found is None:
                raise InputError(_misfit(f"Batch {number} of the data is", item, taker))
            yield found
    elif isinstance(data, Mapping):
        raise InputError(_misfit("The data are", data, taker))
    else:
        raise InputError(
            f"data is a tensor, a tuple or a dict of inputs, or an iterable of batches (a DataLoader, a list) of "
            f"inputs, or pairs of inputs and labels; got {type(data).__name__}."
        )


def _whole(data: Data, taker: Taker) -> _Item | None:
    """The data as one item that holds all samples; ``None`` where they are batches."""
    if isinstance(data, list):
        several = len(data) == len(taker.args) > 1 and all(isinstance(v, Tensor) for v in data)
        return _item(data, taker) if several else None
    if isinstance(data, tuple) and len(taker.args) == 1 and len(data) == 2 and _alike(*data):
        raise InputError(
            "data is a tuple of two tensors that look the same, which may be two batches of inputs, or inputs and "
            "labels: give [x, y] for batches, [(x, y)] for inputs with their labels."
        )
    return _item(data, taker) if isinstance(data, (Tensor, tuple, Mapping)) else None


def _alike(one: Any, other: Any) -> bool:
    tensors = isinstance(one, Tensor) and isinstance(other, Tensor)
    return tensors and one.ndim > 1 and one.shape[1:] == other.shape[1:] and one.dtype == other.dtype


def _item(item: Any, taker: Taker) -> _Item | None:
    """Splits an item into positional inputs, keyword inputs and labels; ``None`` where it is none."""
    count = len(taker.args)
    if isinstance(item, Mapping):
        return None if count else _by_name(item, taker)
    if isinstance(item, Tensor):
        return ((item,), {}, None) if count == 1 else None
    if not isinstance(item, (tuple, list)):
        return None
    for labels in (0, 1):
        if count and len(item) == count + labels and _built_alike(tuple(item[:count]), taker.args):
            return tuple(item[:count]), {}, item[count] if labels else None
    if len(item) == 2 and isinstance(item[0], (tuple, list, Mapping)):
        inputs = _item(item[0], taker)
        return None if inputs is None or inputs[2] is not None else (*inputs[:2], item[1])
    return None


def _by_name(item: Mapping[str, Any], taker: Taker) -> _Item | None:
    wanted, labels = taker.kwargs, None
    if "labels" in item and "labels" not in wanted:
        labels = item["labels"]
    if set(item) - ({"labels"} if labels is not None else set()) != set(wanted):
        return None
    return (), {name: item[name] for name in wanted}, labels


def _built_alike(inputs: Any, examples: Any) -> bool:
    """Whether nested tuples, lists and dicts are the same (anything may stand at their leaves)."""
    if isinstance(examples, (tuple, list)):
        same = isinstance(inputs, (tuple, list)) and len(inputs) == len(examples)
        return same and all(map(_built_alike, inputs, examples))
    if isinstance(examples, Mapping):
        same = isinstance(inputs, Mapping) and set(inputs) == set(examples)
        return same and all(_built_alike(inputs[name], examples[name]) for name in examples)
    return not isinstance(inputs, (tuple, list, Mapping))


def _misfit(what: str, item: Any, taker: Taker) -> str:
    size = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
    names = f" with {', '.join(map(str, item)) or 'nothing'}" if isinstance(item, Mapping) else ""
    count = len(taker.args)
    wanted = f"{count} inputs" if count != 1 else "a tensor" if isinstance(taker.args[0], Tensor) else "one input"
    wanted = f"a dict with {', '.join(taker.kwargs)}" if taker.kwargs else wanted
    return (
        f"{what} a {type(item).__name__}{size}{names}; the network takes {wanted}, so a batch is that, or a pair of "
        "that and labels."
    )


# -------------------------------------------------------------------------------------- checks, device and pieces


def _has_batch(example: Any, taker: Taker) -> bool:
    """Whether the first dimension of an example input is the samples."""
    return isinstance(example, Tensor) and example.ndim > 0 and example.shape[0] == taker.batch


def _leaves(inputs: Any, taker: Taker) -> tuple[list[Any], list[Any], Any]:
    """Leaves of the inputs, those of the example inputs, and how to put them together again as the network does."""
    examples, layout = pytree.tree_flatten((taker.args, taker.kwargs))
    flat = list(_flat(inputs, (taker.args, taker.kwargs)))
    return flat, examples, layout


def _flat(inputs: Any, examples: Any) -> Iterator[Any]:
    """Leaves in the order of the examples; a list may stand for a tuple."""
    if isinstance(examples, (tuple, list)):
        for one, example in zip(inputs, examples, strict=True):
            yield from _flat(one, example)
    elif isinstance(examples, Mapping):
        for name in examples:
            yield from _flat(inputs[name], examples[name])
    else:
        yield from pytree.tree_leaves(inputs)


def _cut(inputs: Any, taker: Taker, part: slice) -> tuple[tuple[Any, ...], dict[str, Any]]:
    flat, examples, layout = _leaves(inputs, taker)
    cut = [v[part] if isinstance(v, Tensor) and v.ndim and _has_batch(e, taker) else v
           for v, e in zip(flat, examples, strict=True)]  # fmt: skip
    args, kwargs = pytree.tree_unflatten(cut, layout)
    return args, kwargs


def _split(item: _Item, taker: Taker) -> Iterator[_Item]:
    """Pieces of what holds all samples, before anything is copied to another device."""
    args, kwargs, labels = item
    flat, examples, _ = _leaves((args, kwargs), taker)
    sizes = [len(v) for v, e in zip(flat, examples, strict=True)
             if isinstance(v, Tensor) and v.ndim and _has_batch(e, taker)]  # fmt: skip
    counted = labels is not None and hasattr(labels, "__len__")
    if counted and sizes and len(labels) != sizes[0]:
        raise InputError(f"The data have {sizes[0]} samples and {len(labels)} labels.")
    for start in range(0, max([*sizes, 1]), PIECE):
        part = slice(start, start + PIECE)
        yield *_cut((args, kwargs), taker, part), labels[part] if counted else labels


def _checked(inputs: Any, taker: Taker, number: int) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], int]:
    """The inputs with device and type of the examples, and how many samples they are."""
    flat, examples, layout = _leaves(inputs, taker)
    made = [_like(v, e, taker, number) for v, e in zip(flat, examples, strict=True)]
    sizes = {len(v) for v, e in zip(made, examples, strict=True) if _has_batch(e, taker)}
    if len(sizes) != 1:
        held = " and ".join(map(str, sorted(sizes))) or "no"
        raise InputError(f"Batch {number} of the data has inputs of {held} samples.")
    args, kwargs = pytree.tree_unflatten(made, layout)
    return (args, kwargs), sizes.pop()


def _like(value: Any, example: Any, taker: Taker, number: int) -> Any:
    if not isinstance(example, Tensor):
        return value
    where = f"Batch {number} of the data"
    if not isinstance(value, Tensor):
        raise InputError(f"{where} holds a {type(value).__name__} where the network takes a tensor.")
    free = int(_has_batch(example, taker))
    if value.ndim != example.ndim or value.shape[free:] != example.shape[free:]:
        raise InputError(
            f"{where} has samples of shape {tuple(value.shape[1:])}; the network was traced with samples of shape "
            f"{tuple(example.shape[1:])}. Prepare the data as for the network itself."
        )
    if _family(example) != _family(value):
        raise InputError(
            f"{where} is {value.dtype}, the network takes {example.dtype}. Prepare (normalise) the data as for the "
            "network itself."
        )
    if value.is_floating_point() and bool((torch.isnan(value) | (value == torch.inf)).any()):
        raise InputError(f"{where} holds NaN or infinite values; what is computed from them would mean nothing.")
    return value.to(device=example.device, dtype=example.dtype)


def _family(tensor: Tensor) -> str:
    return "real" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "whole"


def _beside(labels: Any, inputs: Any) -> Any:
    """Labels on the device of the inputs."""
    device = next(v.device for v in pytree.tree_leaves(inputs) if isinstance(v, Tensor))
    return labels.to(device) if isinstance(labels, Tensor) else labels
