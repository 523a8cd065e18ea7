"""Operators as matrix products: the design matrix of a convolution or linear layer, at some of its positions."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from secateur.graph.ops import Kind, arguments, facts

__all__ = ["Layout", "layout", "transposed"]


@dataclass(frozen=True)
class Layout:
    """How one call of a convolution or linear layer is written as Y = W·X, group by group.

    Attributes:
        groups: Number of groups G.
        kernel: Kernel sizes (empty for a linear layer).
        stride: Of the convolution.
        padding: (before, after) per spatial dimension.
        dilation: Of the kernel.
        grow: Zeros are set between the entries first, as a transposed convolution does (its stride).
        transposed: Whether the weight is stored (C, O/G, k…), kernel reversed.
    """

    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    grow: tuple[int, ...] = ()
    transposed: bool = False

    @property
    def linear(self) -> bool:
        """Whether it is a linear layer."""
        return not self.kernel

    def sizes(self, weight: Tensor) -> tuple[int, int]:
        """(columns p, outputs per group) of the weight's matrix."""
        matrix = self.matrix(weight)
        return matrix.shape[2], matrix.shape[1]

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as (G, O/G, p): inputs and taps of every output, taps fastest."""
        if self.linear:
            return weight[None]
        if self.transposed:
            weight = weight.flip(tuple(range(2, weight.ndim)))
            split = weight.reshape(self.groups, -1, weight.shape[1], prod(self.kernel))
            return split.transpose(1, 2).reshape(self.groups, weight.shape[1], -1)
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def weight(self, matrix: Tensor) -> Tensor:
        """The inverse of :meth:`matrix`."""
        if self.linear:
            return matrix[0]
        taps = prod(self.kernel)
        if self.transposed:
            split = matrix.reshape(self.groups, matrix.shape[1], -1, taps).transpose(1, 2)
            weight = split.reshape(-1, matrix.shape[1], *self.kernel)
            return weight.flip(tuple(range(2, weight.ndim)))
        return matrix.reshape(matrix.shape[0] * matrix.shape[1], -1, *self.kernel)

    def positions(self, output: Tensor) -> int:
        """How many positions one sample's output has."""
        return prod(self.samples(output).shape[2:])

    def samples(self, value: Tensor) -> Tensor:
        """(N, channels, …): a batch even where there is none, channels second."""
        if self.linear:
            value = value if value.ndim > 1 else value[None]
            return value.movedim(-1, 1)
        return value if value.ndim == len(self.kernel) + 2 else value[None]

    def rows(self, output: Tensor, at: Tensor) -> Tensor:
        """The output at the positions ``at``: (G, O/G, N, positions)."""
        values = self.samples(output)
        values = values.reshape(*values.shape[:2], -1)
        values = values if len(at) == values.shape[2] else values[:, :, at]
        return values.reshape(len(values), self.groups, -1, values.shape[2]).permute(1, 2, 0, 3)

    def columns(self, x: Tensor, output: tuple[int, ...], at: Tensor) -> Tensor:
        """The design matrix at the positions ``at``: (G, p, N, positions).

        Args:
            x: Input of the operator.
            output: Shape of its output.
            at: Flat positions in the output.
        """
        x = self.samples(x)
        if self.linear:
            values = x.reshape(*x.shape[:2], -1)[:, :, at]
            return values.permute(1, 0, 2)[None]
        x = self.grown(x)
        x = F.pad(x, [side for pair in reversed(self.padding) for side in pair])
        index = self.index(x.shape[2:], output[-len(self.kernel) :], at)
        values = x.flatten(2)[:, :, index.reshape(-1)]  # N, C, taps × positions
        return values.reshape(len(values), self.groups, -1, len(at)).permute(1, 2, 0, 3)

    def grown(self, x: Tensor) -> Tensor:
        """Zeros between the entries."""
        if all(g == 1 for g in self.grow):
            return x
        sizes = [(n - 1) * g + 1 for n, g in zip(x.shape[2:], self.grow, strict=True)]
        wide = x.new_zeros(*x.shape[:2], *sizes)
        wide[(slice(None), slice(None), *(slice(None, None, g) for g in self.grow))] = x
        return wide

    def index(self, padded: tuple[int, ...], output: tuple[int, ...], at: Tensor) -> Tensor:
        """Flat places in the padded input of every tap (rows) at every position (columns)."""
        steps = [prod(padded[d + 1 :]) for d in range(len(padded))]
        corner, rest = torch.zeros_like(at), at
        for d in reversed(range(len(output))):
            corner = corner + rest % output[d] * self.stride[d] * steps[d]
            rest = rest // output[d]
        taps = torch.zeros(1, dtype=torch.long, device=at.device)
        for d, size in enumerate(self.kernel):
            offsets = torch.arange(size, device=at.device) * self.dilation[d] * steps[d]
            taps = (taps[:, None] + offsets[None]).reshape(-1)
        return taps[:, None] + corner[None]


def transposed(node: Node) -> bool:
    """Whether a layer's call stores its weight with the inputs first."""
    return facts(node).kind is Kind.CONV_TRANSPOSE


def layout(node: Node, weight: Tensor) -> Layout:
    """The layout of a convolution's or linear layer's call."""
    call = arguments(node)
    if facts(node).kind is Kind.LINEAR:
        return Layout()
    kernel = tuple(weight.shape[2:])
    n = len(kernel)
    stride, dilation = _each(call["stride"], n), _each(call["dilation"], n)
    if transposed(node):
        padding, extra = _each(call["padding"], n), _each(call["output_padding"], n)
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = tuple((r - p, r - p + e) for r, p, e in zip(reach, padding, extra, strict=True))
        return Layout(call["groups"], kernel, (1,) * n, sides, dilation, stride, True)
    if isinstance(call["padding"], str):
        total = [d * (k - 1) * (call["padding"] == "same") for d, k in zip(dilation, kernel, strict=True)]
        sides = tuple((t // 2, t - t // 2) for t in total)
    else:
        sides = tuple((p, p) for p in _each(call["padding"], n))
    return Layout(call["groups"], kernel, stride, sides, dilation, (1,) * n)


def _each(value: Any, count: int) -> tuple[int, ...]:
    """One number for every spatial dimension."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values if len(values) == count else values * count
