"""Sizes that the data decide (how many entries of a mask are true), in a recording without values.

Each such mask is given a size of its own that no other tensor has. Where the network's code hands that size on, the
graph asks the tensor that has it. A size that Python computes of it cannot be followed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.graph.batch import Batch, Unfollowed

__all__ = ["BY_DATA", "Counted"]

aten = torch.ops.aten

BY_DATA = "sized_by_data"
"""Meta data of a node: which dimensions of its value the data decide."""

FIRST, STEP, LAST = 611_953, 10_007, 2**40
"""Sizes in the place of those that the data decide: below every prime of the batch; what is near them is computed."""


class Counted:
    """The sizes of one recording that the data decide."""

    def __init__(self, batch: Batch) -> None:
        """``batch`` knows the sizes that follow it."""
        self._batch = batch
        self._of_mask: dict[int, int] = {}
        self._homes: dict[int, tuple[Node, int]] = {}
        self._asked: dict[int, Node] = {}

    def run(self, func: Any, args: tuple[Any, ...]) -> Any:
        """What an operator gives that counts entries of a tensor without values; ``None`` for any other."""
        if func in (aten.where.default, aten.nonzero_numpy.default) and args[0].is_meta:
            return [args[0].new_empty((self._size(args[0]),), dtype=torch.int64) for _ in range(args[0].ndim)]
        if func is aten.nonzero.default and args[0].is_meta:
            return args[0].new_empty((self._size(args[0]), args[0].ndim), dtype=torch.int64)
        if func is aten.masked_select.default and args[1].is_meta:
            return args[0].new_empty((self._size(args[1]),), device="meta")
        if func is not aten.index.Tensor:
            return None
        masks = [i for i in args[1] if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
        if not any(mask.is_meta for mask in masks):
            return None
        picks: list[Tensor | None] = []
        for index in args[1]:
            if any(index is mask for mask in masks):
                places = index.new_empty((self._size(index),), dtype=torch.int64, device="meta")
                picks += [places] * index.ndim
            else:
                picks.append(index if index is None else index.to("meta"))
        return aten.index.Tensor(args[0].to("meta"), picks)

    def _size(self, mask: Tensor) -> int:
        return self._of_mask.setdefault(id(mask), FIRST + STEP * len(self._of_mask))

    def met(self, node: Node, value: Any) -> None:
        """Remembers which tensor has a size that the data decide."""
        dims = [d for d, size in enumerate(value.shape) if self._counted(size)] if isinstance(value, Tensor) else []
        if dims:
            node.meta[BY_DATA] = frozenset(dims)
        for d in dims:
            self._homes.setdefault(value.shape[d], (node, d))

    def _counted(self, size: int) -> bool:
        return bool(self._of_mask) and FIRST - STEP <= size < LAST and not self._batch.follows(size)

    def asked(self, size: int) -> Any:
        """The size, or the node that asks a tensor for it.

        Raises:
            Unfollowed: Python computed it from one that the data decide.
        """
        if not self._counted(size):
            return size
        if size not in self._homes:
            raise Unfollowed("Python computes a number from how many entries of a mask are true")
        if size not in self._asked:
            node, dim = self._homes[size]
            self._asked[size] = node.graph.call_function(aten.sym_size.int, (node, dim))
            self._asked[size].meta["val"] = 0
        return self._asked[size]

    def as_given(self, size: int) -> int:
        """A size as it is in the example; 0 where nobody knows it before the data are there."""
        return 0 if self._counted(size) else self._batch.real(size)
