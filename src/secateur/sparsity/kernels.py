"""Layers that compute with the weights that are not zero alone: for inference on the CPU.

Both products are exact up to the order of summation, and their state is index and value tensors, so that a state
dict goes into safetensors as it is.
"""

from __future__ import annotations

import warnings
from functools import cache, cached_property
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError

__all__ = ["PRODUCTS", "Gathered", "RowWise", "SparseLayer", "check_gathered", "check_rows", "gathered", "row_wise",
           "supported"]  # fmt: skip

HEIGHTS = (64, 32, 16, 8, 4)
"""Rows that a gathered product takes together, tried from the tallest."""

CACHE_BYTES = 2 << 20
"""Gathered inputs that are multiplied at a time."""

FILL = 1.5
"""Entries in the columns of a gathered product's groups for each weight that is not zero, at most."""


class RowWise(nn.Module):
    """A matrix by compressed rows (CSR), for zeros anywhere."""

    values: Tensor
    columns: Tensor
    starts: Tensor

    def __init__(self, values: Tensor, columns: Tensor, starts: Tensor, width: int) -> None:
        """``values`` (n,) and their ``columns`` (n,), row by row; row i is ``starts[i]:starts[i + 1]``."""
        super().__init__()
        _quiet()
        self.width = width
        for name, tensor in (("values", values), ("columns", columns), ("starts", starts)):
            self.register_buffer(name, tensor)

    @cached_property
    def _matrix(self) -> Any:
        """The same memory as SciPy sees it: its product with one vector is several times faster than PyTorch's."""
        arrays = (self.values.numpy(), self.columns.numpy(), self.starts.numpy())
        return scipy.sparse.csr_array(arrays, shape=(len(arrays[2]) - 1, self.width))

    def forward(self, columns: Tensor) -> Tensor:
        """(width, n) → (rows, n)."""
        if columns.shape[1] == 1:
            return torch.from_numpy(self._matrix @ columns.numpy()[:, 0])[:, None]
        shape = (len(self.starts) - 1, self.width)
        matrix = torch.sparse_csr_tensor(self.starts, self.columns, self.values, shape, check_invariants=False)
        product: Tensor = torch.sparse.mm(matrix, columns)
        return product

    def __deepcopy__(self, memo: dict[int, Any]) -> RowWise:
        """A copy with memory of its own (the view that SciPy has is not copied)."""
        return RowWise(self.values.clone(), self.columns.clone(), self.starts.clone(), self.width)


class Gathered(nn.Module):
    """A matrix in groups of rows that share their columns: gathers those inputs, then multiplies densely.

    What makes it fast is a block pattern as tall as the groups (``block 16x1``): dense products of gathered inputs. The
    rows of a group lie side by side in memory, and groups are taken together only while what they gather fits a cache.
    """

    values: Tensor
    index: Tensor

    def __init__(self, values: Tensor, index: Tensor) -> None:
        """``values`` (groups, k, rows); ``index`` (groups, k), the inputs that a group takes."""
        super().__init__()
        self.register_buffer("values", values)
        self.register_buffer("index", index)

    def forward(self, columns: Tensor) -> Tensor:
        """(width, n) → (groups · rows, n)."""
        values, n = self.values, columns.shape[1]
        groups, k, rows = values.shape
        made = columns.new_empty(groups, rows, n)
        together = max(1, CACHE_BYTES // max(1, k * n * columns.element_size()))
        flat = columns.reshape(-1) if n == 1 else columns  # a single column is gathered faster as a vector
        for start in range(0, groups, together):
            part = slice(start, start + together)
            taken = flat.index_select(0, self.index[part].reshape(-1))
            if n == 1:
                torch.bmm(taken.view(-1, 1, k), values[part], out=made[part].view(-1, 1, rows))
            else:
                torch.bmm(values[part].mT, taken.view(-1, k, n), out=made[part])
        return made.view(-1, n)


@cache
def _quiet() -> None:
    """Lets PyTorch say once, unheard, that sparse tensors are in a beta state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.zeros(1, 1).to_sparse_csr()


def row_wise(matrix: Tensor) -> RowWise:
    """Compressed rows of a matrix (rows, columns)."""
    found = scipy.sparse.csr_array(matrix.numpy())
    columns, starts = (torch.from_numpy(a.astype(np.int32)) for a in (found.indices, found.indptr))
    return RowWise(torch.from_numpy(found.data), columns, starts, matrix.shape[1])


def gathered(matrix: Tensor) -> Gathered | None:
    """Groups of rows of a matrix with the columns that they share; ``None`` where its zeros do not lie in blocks."""
    rows, nonzero = matrix.shape[0], int(matrix.count_nonzero())
    for height in (h for h in HEIGHTS if rows % h == 0):
        used = (matrix.reshape(rows // height, height, -1) != 0).any(1)
        most = max(1, int(used.sum(1).max()))
        if height * int(used.sum()) <= FILL * nonzero and most <= used.shape[1] / 2:
            index = used.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
            held = used.gather(1, index)  # groups with fewer columns are filled up: input 0, times zero
            index = torch.where(held, index, 0)
            groups = matrix.reshape(rows // height, height, -1)
            values = groups.gather(2, index[:, None].expand(-1, height, -1)) * held[:, None]
            return Gathered(values.mT.contiguous(), index.to(torch.int32))
    return None


def check_rows(values: Tensor, columns: Tensor, starts: Tensor, rows: int, width: int) -> None:
    """Checks that compressed rows describe a matrix (rows, width): their product would read outside of it.

    Raises:
        ValueError: They do not.
    """
    if values.ndim != 1 or columns.shape != values.shape or starts.shape != (rows + 1,):
        raise ValueError(f"compressed rows of shapes {_shapes(values, columns, starts)} are no matrix of {rows} rows")
    steps = starts.diff()
    if int(starts[0]) != 0 or int(starts[-1]) != len(values) or (len(steps) and int(steps.min()) < 0):
        raise ValueError("the starts of compressed rows do not rise from 0 to the number of values")
    _check_index(columns, width)
    _check_index(starts, len(values) + 1)


def check_gathered(values: Tensor, index: Tensor, rows: int, width: int) -> None:
    """Checks that groups of rows and their columns describe a matrix (rows, width).

    Raises:
        ValueError: They do not.
    """
    if values.ndim != 3 or index.shape != values.shape[:2] or values.shape[0] * values.shape[2] != rows:
        raise ValueError(f"groups of shapes {_shapes(values, index)} are no matrix of {rows} rows")
    _check_index(index, width)


def _check_index(index: Tensor, below: int) -> None:
    if index.dtype != torch.int32:
        raise ValueError(f"indices are of type torch.int32; got {index.dtype}")
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < below:
        raise ValueError(f"indices from {int(index.min())} to {int(index.max())} do not lie in 0 … {below - 1}")


def _shapes(*tensors: Tensor) -> str:
    return ", ".join(str(tuple(t.shape)) for t in tensors)


PRODUCTS = {"row-wise": row_wise, "gathered": gathered}
"""Products by name; each makes a module of a matrix, or ``None`` where it does not suit."""


class SparseLayer(nn.Module):
    """A linear layer or a 1×1 convolution by a sparse product. It has no gradient: train before converting."""

    bias: Tensor | None

    def __init__(self, product: nn.Module, bias: Tensor | None, stride: tuple[int, ...] | None) -> None:
        """``stride`` is that of a convolution, ``None`` for a linear layer."""
        super().__init__()
        self.product, self.stride = product, stride
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Linear: (…, in) → (…, out). Convolution: (batch, in, h, w) → (batch, out, h / stride, w / stride)."""
        if self.stride is None:
            columns = x.reshape(-1, x.shape[-1]).t().contiguous()
            y = self._times(columns).t().reshape(*x.shape[:-1], -1).contiguous()
            return y if self.bias is None else y + self.bias
        x = x[:, :, :: self.stride[0], :: self.stride[1]]
        y = self._times(x.transpose(0, 1).reshape(x.shape[1], -1))
        y = y.reshape(-1, x.shape[0], *x.shape[2:]).transpose(0, 1).contiguous()
        return y if self.bias is None else y + self.bias[:, None, None]

    def _times(self, columns: Tensor) -> Tensor:
        found: Tensor = _ForInference.apply(columns, self.product)  # type: ignore[no-untyped-call]
        return found


class _ForInference(torch.autograd.Function):
    """Lets no gradient through, with a word about why."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, product: nn.Module) -> Tensor:
        found: Tensor = product(columns)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise InputError(
            "A layer converted by convert_sparse has no gradient: it is for inference. Train the sparse network "
            "(secateur.sparsity.HoldMasks keeps its zeros) and convert it afterwards."
        )


def supported(module: nn.Module) -> bool:
    """Whether a module is a linear layer or a 1×1 convolution that a :class:`SparseLayer` can stand for."""
    if type(module) is nn.Linear:
        weight: Tensor = module.weight
    elif type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1:
        if module.padding not in ((0, 0), "valid", "same"):
            return False
        weight = module.weight
    else:
        return False
    return weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64)
