"""Products of rows with one of several matrices each, in double precision, which PyTorch's kernels do not take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from secateur.graph.schema import bound

__all__ = ["by_rows", "grouped_product"]


def grouped_product(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Rows (S, K), sorted by expert, times that expert's weight (E, K, N).

    Formula: y[s] = x[s] · w[e] for ends[e − 1] ≤ s < ends[e]; rows behind the last end are zero. PyTorch leaves them
    undefined, so nobody reads them.

    >>> import torch
    >>> x, w, ends = torch.ones(3, 1), torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([1, 3], dtype=torch.int32)
    >>> grouped_product(torch.ops.aten._grouped_mm.default, (x, w, ends), {}).ravel()
    tensor([1., 2., 2.])
    """
    call = bound(func, args, kwargs)
    x, weight, ends = (call[argument.name] for argument in func._schema.arguments[:3])
    result = by_rows(x, weight, ends.tolist())
    return result if call.get("bias") is None else result + call["bias"]


def by_rows(x: Tensor, weight: Tensor, ends: Sequence[int]) -> Tensor:
    """The product, matrix by matrix; ``ends`` are in order, and none lies behind the rows.

    >>> import torch
    >>> by_rows(torch.ones(2, 1), torch.ones(1, 1, 3), [1])
    tensor([[1., 1., 1.],
            [0., 0., 0.]])
    """
    result: Tensor = x.new_zeros(x.shape[0], weight.shape[2])
    start = 0
    for matrix, end in zip(weight, ends, strict=True):
        result[start:end] = x[start:end] @ matrix
        start = end
    return result
