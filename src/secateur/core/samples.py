"""Inputs of a network, held against the example inputs that it was traced with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError

__all__ = ["Arguments", "Taker", "built_alike", "checked", "cut", "sizes"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs of a call."""


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


def built_alike(inputs: Any, examples: Any) -> bool:
    """Whether nested tuples, lists and dicts are the same (anything may stand at their leaves)."""
    if isinstance(examples, (tuple, list)):
        same = isinstance(inputs, (tuple, list)) and len(inputs) == len(examples)
        return same and all(map(built_alike, inputs, examples))
    if isinstance(examples, Mapping):
        same = isinstance(inputs, Mapping) and set(inputs) == set(examples)
        return same and all(built_alike(inputs[name], examples[name]) for name in examples)
    return not isinstance(inputs, (tuple, list, Mapping))


def sizes(inputs: Arguments, taker: Taker) -> list[int]:
    """Samples in every input that has a batch dimension."""
    flat, examples, _ = _leaves(inputs, taker)
    return [len(v) for v, e in zip(flat, examples, strict=True)
            if isinstance(v, Tensor) and v.ndim and _has_batch(e, taker)]  # fmt: skip


def cut(inputs: Arguments, taker: Taker, part: slice | Tensor) -> Arguments:
    """Some of the samples, by a slice or their numbers; inputs without a batch dimension as they are."""
    flat, examples, layout = _leaves(inputs, taker)
    taken = [v[part] if isinstance(v, Tensor) and v.ndim and _has_batch(e, taker) else v
             for v, e in zip(flat, examples, strict=True)]  # fmt: skip
    args, kwargs = pytree.tree_unflatten(taken, layout)
    return args, kwargs


def checked(inputs: Arguments, taker: Taker, number: int) -> tuple[Arguments, int]:
    """The inputs with device and type of the examples, and how many samples they are.

    Args:
        inputs: Built like the examples.
        taker: Holds the examples.
        number: Of the batch, for messages.

    Raises:
        InputError: Another shape or type, NaN or plus infinity, several numbers of samples.
    """
    flat, examples, layout = _leaves(inputs, taker)
    made = [_like(v, e, taker, number) for v, e in zip(flat, examples, strict=True)]
    held = {len(v) for v, e in zip(made, examples, strict=True) if _has_batch(e, taker)}
    if len(held) != 1:
        several = " and ".join(map(str, sorted(held))) or "no"
        raise InputError(f"Batch {number} of the data has inputs of {several} samples.")
    args, kwargs = pytree.tree_unflatten(made, layout)
    return (args, kwargs), held.pop()


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
            f"{tuple(example.shape[1:])}. {_how(value, example)}"
        )
    if _family(example) != _family(value):
        raise InputError(
            f"{where} is {value.dtype}, the network takes {example.dtype}. Prepare (normalise) the data as for the "
            "network itself."
        )
    if value.is_floating_point() and bool((torch.isnan(value) | (value == torch.inf)).any()):
        raise InputError(f"{where} holds NaN or infinite values; what is computed from them would mean nothing.")
    return value.to(device=example.device, dtype=example.dtype)


def _how(value: Tensor, example: Tensor) -> str:
    """What to do about samples of another shape."""
    if value.ndim == example.ndim == 2 and not example.is_floating_point():
        return "Fill texts up to that length, with attention_mask 0 there (padding='max_length' of a tokenizer)."
    return "Prepare the data as for the network itself."


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


def _has_batch(example: Any, taker: Taker) -> bool:
    """Whether the first dimension of an example input is the samples."""
    return isinstance(example, Tensor) and example.ndim > 0 and example.shape[0] == taker.batch


def _family(tensor: Tensor) -> str:
    return "real" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "whole"
