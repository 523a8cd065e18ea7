"""What a rule that gives an operator a meaning of its own on masked values is handed: one call of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from secateur.graph.schema import arguments, bound

__all__ = ["Masked", "Masks"]

Mask = NDArray[np.bool_]


class Masks(Protocol):
    """Who knows which entries of a value stay."""

    def of(self, node: Any, shape: Sequence[int] | None = None) -> dict[int, Mask]:
        """Masks by dimension of the value of ``node`` (only dimensions that lose entries), at its ``shape``."""
        ...


class Masked:
    """One operator call on masked values, for rules that give it a meaning of its own."""

    def __init__(self, masks: Masks, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """``args`` and ``kwargs`` are the values that the operator is called with."""
        self._masks, self.node = masks, node
        self._schema = node.target._schema.arguments  # type: ignore[union-attr]
        self.names = [a.name for a in self._schema]
        self.values, self._nodes = bound(node.target, args, kwargs), arguments(node)

    def __getitem__(self, name: str) -> Any:
        """Value of an argument."""
        return self.values[name]

    def get(self, name: str) -> Any:
        """Value of an argument, ``None`` where it is absent."""
        return self.values.get(name)

    def dims(self, name: str) -> list[int]:
        """A dimension argument as a list (all dimensions where it is absent)."""
        ndim, value = self["self"].ndim, self.get(name)
        if value is None or value == []:
            return list(range(ndim))
        return [d % ndim for d in (value if isinstance(value, (list, tuple)) else [value])]

    def cut(self, name: str) -> set[int]:
        """Dimensions of an argument that lose entries."""
        return set(self._masks.of(self._nodes[name], self[name].shape))

    def mask(self, name: str, dim: int) -> Tensor:
        """Kept entries of a dimension of an argument, shape (size,), bool."""
        value = self[name]
        found = self._masks.of(self._nodes[name], value.shape).get(dim % value.ndim)
        keep = np.ones(value.shape[dim], dtype=bool) if found is None else found
        return torch.as_tensor(keep, device=value.device)

    @staticmethod
    def gather(x: Tensor, masks: Mapping[int, Tensor]) -> Tensor:
        """Leaves only the kept entries of the given dimensions."""
        for dim, mask in masks.items():
            kept = mask.nonzero().ravel()
            x = x if len(kept) == len(mask) else x.index_select(dim, kept)
        return x

    @staticmethod
    def scatter(x: Tensor, dim: int, mask: Tensor) -> Tensor:
        """The inverse of :meth:`gather` along one dimension; removed entries are zero."""
        if x.shape[dim] == len(mask):
            return x
        shape = list(x.shape)
        shape[dim] = len(mask)
        return x.new_zeros(shape).index_copy_(dim, mask.nonzero().ravel(), x)

    def call(self, /, **changed: Any) -> Tensor:
        """Calls the operator with some arguments replaced."""
        values = self.values | changed
        args = [values[a.name] for a in self._schema if not a.kwarg_only and a.name in values]
        kwargs = {a.name: values[a.name] for a in self._schema if a.kwarg_only and a.name in values}
        return self.node.target(*args, **kwargs)  # type: ignore[operator, no-any-return]
