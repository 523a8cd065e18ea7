"""Numbers that an ONNX graph computes sizes with: lists of plain Python numbers, never tensors.

``Shape → Gather → Mul → Concat → Reshape`` in a file is Python's arithmetic here, so that sizes of tensors and numbers
in attributes can be followed through it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.models.onnx_file.registry import Refused

__all__ = ["LARGEST", "Host", "beside", "divided", "is_host", "sizes_of", "tensor_of"]

LARGEST = 64
"""Numbers that are kept so; longer lists are data."""


class Host:
    """A small array of Python numbers of one kind.

    Args:
        values: A number or a list of numbers.

    >>> (Host([2, 3]).each(operator.mul, Host(2))).numbers
    [4, 6]
    """

    __slots__ = ("array",)

    def __init__(self, values: Any) -> None:
        """Takes them one by one."""
        if isinstance(values, np.ndarray):
            self.array: NDArray[Any] = values
            return
        several = isinstance(values, (list, tuple))
        # In one go, numpy would make plain integers of numbers that remember where they are from.
        self.array = np.empty(len(values) if several else (), dtype=object)
        if several:
            for index, value in enumerate(values):
                self.array[index] = value
        else:
            self.array[()] = values

    @property
    def numbers(self) -> list[Any]:
        """All of them in order."""
        return list(self.array.reshape(-1))

    @property
    def number(self) -> Any:
        """The only one."""
        return self.array.reshape(-1)[0]

    @property
    def single(self) -> bool:
        """Whether it is one number."""
        return self.array.size == 1

    def of(self, function: Callable[[Any], Any]) -> Host:
        """What a function makes of every number."""
        return self._like([function(v) for v in self.numbers], self.array.shape)

    def each(self, function: Callable[[Any, Any], Any], other: Host) -> Host:
        """What a function makes of pairs of numbers, with broadcasting."""
        left, right = np.broadcast_arrays(self.array, other.array)
        pairs = zip(left.reshape(-1), right.reshape(-1), strict=True)
        return self._like([function(a, b) for a, b in pairs], left.shape)

    def chosen(self, yes: Host, no: Host) -> Host:
        """One number or the other, by whether this one is true."""
        conditions, left, right = np.broadcast_arrays(self.array, yes.array, no.array)
        three = zip(conditions.reshape(-1), left.reshape(-1), right.reshape(-1), strict=True)
        return self._like([a if c else b for c, a, b in three], left.shape)

    def reshaped(self, shape: Sequence[int]) -> Host:
        """In another shape."""
        return self._like(self.numbers, tuple(int(s) for s in shape))

    @staticmethod
    def _like(values: list[Any], shape: tuple[int, ...]) -> Host:
        return Host(Host(values).array.reshape(shape))


def is_host(*values: Any) -> bool:
    """Whether all of them (that are there) are such numbers.

    >>> is_host(Host(1), None), is_host(Host(1), torch.ones(1))
    (True, False)
    """
    return all(value is None or isinstance(value, Host) for value in values)


def tensor_of(value: Any, like: Tensor | None = None, dtype: torch.dtype | None = None) -> Any:
    """A tensor of such numbers; what is a tensor already stays.

    Args:
        value: Numbers or a tensor.
        like: Whose type and device it gets.
        dtype: The type, where there is no ``like``.
    """
    if not isinstance(value, Host):
        return value
    numbers = value.array.tolist()
    if like is not None:
        return torch.tensor(numbers, dtype=like.dtype, device=like.device)
    return torch.tensor(numbers, dtype=dtype)


def beside(value: Any, other: Tensor) -> Any:
    """What stands beside a tensor in an operator: a plain number where it is one, else a tensor."""
    if not isinstance(value, Host):
        return value
    if value.single and value.array.ndim <= other.ndim:
        return value.number
    return tensor_of(value, other)


def divided(left: Any, right: Any) -> Any:
    """ONNX's division: whole numbers are cut off towards zero.

    >>> divided(-7, 2), divided(7.0, 2.0), divided(7, 2)
    (-3, 3.5, 3)
    """
    if isinstance(left, float) or isinstance(right, float):
        return left / right if right else math.copysign(math.inf, left) if left else math.nan
    if right == 0:
        raise ZeroDivisionError("a size is divided by zero")
    if left >= 0 and right > 0:
        return operator.floordiv(left, right)
    return math.trunc(left / right)


def sizes_of(value: Any) -> list[Any]:
    """Sizes as plain numbers.

    Raises:
        Refused: They depend on the values of the data.
    """
    if not isinstance(value, Host):
        raise Refused("takes sizes that depend on the values of the data, not on their shapes alone")
    return value.numbers
