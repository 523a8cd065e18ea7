"""What the network's code asks of tensors without values, besides calling operators: where they are, how large."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from functools import cache
from types import FunctionType
from typing import Any

import torch

from secateur.graph.again import Again
from secateur.graph.batch import Unfollowed
from secateur.graph.internals import FunctionMode
from secateur.graph.numbers import Lost
from secateur.graph.writer import Writer

__all__ = ["Attributes", "Constants", "constant"]

_COUNTS: set[Any] = {torch.Tensor.numel, torch.Tensor.nelement}
_SIZES: set[Any] = {torch.Tensor.shape.__get__, torch.Tensor.size, torch.Tensor.__len__, *_COUNTS}  # type: ignore[attr-defined]
_DEVICE: Any = torch.Tensor.device
_WHERE: Mapping[Any, str] = {getattr(torch.Tensor, f"is_{kind}").__get__: kind for kind in ("cpu", "cuda", "meta")}
_MEMORY: set[Any] = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.data_ptr}


_ASKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


@cache
def _opened(func: FunctionType) -> FunctionType:
    """One of PyTorch's functions that are written in Python, so that what it calls is seen too; another one as it is.

    Such a function asks first whether somebody wants to see it, and hands itself over if so.
    """
    if func.__module__ not in ("torch.nn.functional", "torch.functional") or not set(func.__code__.co_names) & {*_ASKS}:
        return func
    names = {**func.__globals__, **dict.fromkeys(_ASKS, lambda *tensors: False)}
    opened = FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened


def constant(func: Any, args: Any, kwargs: Any, device: torch.device | None = None) -> torch.Tensor | None:
    """What ``x.new_tensor(numbers)`` makes, by :func:`torch.tensor`, which modes see; ``None`` for any other call."""
    if func is not torch.Tensor.new_tensor:
        return None
    like, *data = args
    given = {name: value for name, value in kwargs.items() if value is not None}
    if isinstance(data[0] if data else given.get("data"), torch.Tensor) or "layout" in given:
        return None  # a copy, or what torch.tensor cannot make
    made: torch.Tensor = torch.tensor(*data, **{"dtype": like.dtype, "device": device or like.device, **given})
    return made


class Constants(FunctionMode):
    """Constants that code makes of numbers are made where modes see it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answers for one call."""
        made = constant(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if made is None else made


class Attributes(FunctionMode):
    """Tensors without values say that they are where the network is; nobody reads their memory."""

    def __init__(self, writer: Writer) -> None:
        """``writer`` knows the tensors."""
        super().__init__()
        self._writer = writer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answers for one call."""
        if func == _DEVICE.__get__ and args[0].is_meta:
            return self._writer.device
        if func in _WHERE and args[0].is_meta:
            return self._writer.device.type == _WHERE[func]
        if self._writer.again is not None:
            return self._followed(self._writer.again, func, args, kwargs or {})
        return self._called(func, args, kwargs or {})

    def _called(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func in _MEMORY and (args[0].is_meta or self._writer.depends(args[0])):
            raise Unfollowed("Python reads the values of a tensor")
        made = constant(func, args, kwargs, self._writer.device)
        return func(*args, **kwargs) if made is None else made

    def _followed(self, again: Again, func: Any, args: Any, kwargs: Any) -> Any:
        """A call with, or for, sizes that remember where they come from."""
        if func in _SIZES:
            return self._size(again, func, args, kwargs)
        if func in _MEMORY and self._writer.made(args[0]):
            raise Lost("Python reads the values of a tensor that it makes")
        before, again.given = again.given, again.taken((*args, *kwargs.values()))
        try:
            if isinstance(func, FunctionType) and (opened := _opened(func)) is not func:
                with self:
                    return opened(*args, **kwargs)
            return self._called(func, args, kwargs)
        finally:
            again.given = before

    def _size(self, again: Again, func: Any, args: Any, kwargs: Any) -> Any:
        tensor = args[0]
        shape = again.shape(self._writer.node_of(tensor), tensor.shape, self._writer.batch)
        if func is torch.Tensor.__len__:
            return shape[0] if shape else func(tensor)  # type: ignore[no-untyped-call]
        if func in _COUNTS:
            return functools.reduce(operator.mul, shape, 1)
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        return shape if dim is None else shape[dim]
