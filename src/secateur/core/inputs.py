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
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError
from secateur.core.samples import Taker, built_alike, checked, cut, sizes

__all__ = ["PIECE", "Batch", "Data", "batches", "calls", "pieces"]

Data = Tensor | tuple[Any, ...] | Mapping[str, Any] | Iterable[Any]
"""Calibration data: see :mod:`secateur.core.inputs` for what is accepted."""

PIECE = 64
"""Samples that go through a network at a time where the data are not in batches already."""


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
        inputs, size = checked((args, kwargs), taker, number)
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
        args, kwargs = cut(batch.inputs, taker, part)
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
        if count and len(item) == count + labels and built_alike(tuple(item[:count]), taker.args):
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


def _split(item: _Item, taker: Taker) -> Iterator[_Item]:
    """Pieces of what holds all samples, before anything is copied to another device."""
    args, kwargs, labels = item
    held = sizes((args, kwargs), taker)
    counted = labels is not None and hasattr(labels, "__len__")
    if counted and held and len(labels) != held[0]:
        raise InputError(f"The data have {held[0]} samples and {len(labels)} labels.")
    for start in range(0, max([*held, 1]), PIECE):
        part = slice(start, start + PIECE)
        yield *cut((args, kwargs), taker, part), labels[part] if counted else labels


def _beside(labels: Any, inputs: Any) -> Any:
    """Labels on the device of the inputs."""
    device = next(v.device for v in pytree.tree_leaves(inputs) if isinstance(v, Tensor))
    return labels.to(device) if isinstance(labels, Tensor) else labels
