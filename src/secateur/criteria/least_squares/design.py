"""The design matrix of a layer, made piece by piece: one row per position, channels of a tap side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.criteria.least_squares.layout import Layout

__all__ = ["Design", "design", "mirrored"]

PIECE_BYTES = 1 << 24
"""Rows that are in memory at a time: they are used in the cache, and large layers need no more."""

WIDTH = 128
"""Columns of a block of the Gram matrix; what lies below the diagonal is not computed."""


@dataclass(frozen=True)
class Design:
    """What a layer's outputs are linear in, on some samples, at some positions.

    Rows of many samples are never held all at once: they are read from ``samples`` for each product. Within a row,
    columns go tap by tap (so that they are copied in runs), while what comes in and goes out has the order of
    :meth:`Layout.matrix`. Half precision is summed in single.

    Attributes:
        layout: The layer's call as a matrix product.
        samples: Its input, (N, places, C), with its zero padding.
        index: Flat places of every tap (columns) at every position (rows); ``None`` where each place is a position.
    """

    layout: Layout
    samples: Tensor
    index: Tensor | None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @property
    def positions(self) -> int:
        """Positions of a sample that are looked at."""
        return self.samples.shape[1] if self.index is None else len(self.index)

    def of(self, part: slice) -> Design:
        """The same of some samples."""
        return replace(self, samples=self.samples[part])

    def add_gram(self, upper: Tensor) -> None:
        """Adds Σ [u; 1][u; 1]ᵀ to ``upper``, shape (G, p + 1, p + 1), on and above the diagonal.

        That is what :func:`mirrored` takes. Of blocks that are each other's transpose, one is computed; columns stay in
        the order of the rows.
        """
        size = upper.shape[1] - 1
        for _, _, rows in self._pieces():
            for start in range(0, size, WIDTH):
                stop = min(start + WIDTH, size)
                upper[:, start:stop, start:-1] += (rows[:, :, start:stop].mT @ rows[:, :, start:]).to(upper)
            upper[:, :-1, -1] += rows.sum(1).to(upper)
            upper[:, -1, -1] += rows.shape[1]

    def add_cross(self, into: Tensor, targets: Tensor) -> None:
        """Adds Σ [u; 1] tᵀ of ``targets`` (G, O/G, N, positions) to ``into``, shape (G, p + 1, O/G)."""
        by_tap = _by_tap(self.layout, into[:, :-1], 1)
        for samples, at, rows in self._pieces():
            t = targets[:, :, samples, at].flatten(2).to(rows)
            by_tap += (rows.mT @ t.mT).to(into).reshape(by_tap.shape)
            into[:, -1] += t.sum(2).to(into)

    def predicted(self, matrix: Tensor) -> Tensor:
        """What an affine map (G, O/G, p + 1) gives: (G, O/G, N, positions)."""
        found = None
        for samples, at, rows in self._pieces():
            weights, bias = _by_tap(self.layout, matrix[:, :, :-1], 2).flatten(2).to(rows), matrix[:, :, -1:].to(rows)
            values = torch.baddbmm(bias, weights, rows.mT)
            if found is None:
                found = values.new_empty(*values.shape[:2], len(self), self.positions)
            found[:, :, samples, at] = values.reshape(*values.shape[:2], samples.stop - samples.start, -1)
        assert found is not None
        return found

    def _pieces(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Samples, positions, and their rows (G, rows, p)."""
        most = max(1, PIECE_BYTES // (4 * prod(self.layout.kernel) * self.samples.shape[2]))
        if len(self) * self.positions <= most:
            yield slice(0, len(self)), slice(0, self.positions), self._rows
            return
        many = max(1, most // self.positions)
        few = self.positions if many > 1 else min(most, self.positions)
        for first in range(0, len(self), many):
            for start in range(0, self.positions, few):
                samples = slice(first, min(first + many, len(self)))
                at = slice(start, min(start + few, self.positions))
                yield samples, at, self._of(samples, at)._rows

    def _of(self, samples: slice, at: slice) -> Design:
        """The same of some samples and positions."""
        if self.index is None:
            return replace(self, samples=self.samples[samples, at])
        return replace(self, samples=self.samples[samples], index=self.index[at])

    @cached_property
    def _rows(self) -> Tensor:
        """All rows, (G, N · positions, p); predictions and sums need them one after the other."""
        found = self.samples
        if self.index is None:
            rows = found.flatten(0, 1)[None]
        else:
            count, places, channels = found.shape
            first = torch.arange(count, device=found.device)[:, None] * places
            wanted = (first + self.index.reshape(1, -1)).reshape(-1)
            rows = found.reshape(-1, channels).index_select(0, wanted)
            rows = rows.reshape(-1, prod(self.layout.kernel), self.layout.groups, channels // self.layout.groups)
            rows = rows.permute(2, 0, 1, 3).flatten(2)
        return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()


def mirrored(layout: Layout, upper: Tensor) -> Tensor:
    """The sum of :meth:`Design.add_gram`, whole and in the order of :meth:`Layout.matrix`; in place where it can be."""
    for start in range(0, upper.shape[1], WIDTH):
        stop = start + WIDTH
        block = upper[:, start:stop, start:stop]
        block.copy_(block.triu() + block.triu(1).mT)
        upper[:, stop:, start:stop] = upper[:, start:stop, stop:].mT
    if prod(layout.kernel) <= 1:
        return upper
    found = torch.empty_like(upper)
    found[:, -1, -1] = upper[:, -1, -1]
    found[:, :-1, -1] = found[:, -1, :-1] = _ordered(layout, upper[:, :-1, -1], 1)
    found[:, :-1, :-1] = _ordered(layout, _ordered(layout, upper[:, :-1, :-1], 1), 2)
    return found


def _ordered(layout: Layout, value: Tensor, dim: int) -> Tensor:
    """Columns of a dimension from the order of the rows into that of :meth:`Layout.matrix`."""
    return torch.unflatten(value, dim, (prod(layout.kernel), -1)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def _by_tap(layout: Layout, value: Tensor, dim: int) -> Tensor:
    """A view with columns of a dimension in the order of the rows: (taps, channels)."""
    return torch.unflatten(value, dim, (-1, prod(layout.kernel))).transpose(dim, dim + 1)


def design(layout: Layout, x: Tensor, output: tuple[int, ...], at: Tensor) -> Design:
    """The design matrix of a layer on a batch.

    Args:
        layout: Of the layer's call.
        x: Input of the operator.
        output: Shape of its output.
        at: Flat positions in the output that are looked at, rising.
    """
    x = layout.samples(x)
    if layout.linear:
        flat = x.movedim(1, -1).flatten(1, -2) if x.ndim > 2 else x[:, None]
        return Design(layout, flat, None if len(at) == flat.shape[1] else at[:, None])
    x = layout.grown(x).movedim(1, -1)
    x = F.pad(x, [0, 0, *(side for pair in reversed(layout.padding) for side in pair)]).contiguous()
    index = layout.index(tuple(x.shape[1:-1]), output[-len(layout.kernel) :], at)
    return Design(layout, x.flatten(1, -2), index.T.contiguous())
