"""Which channels a layer can best do without, given that its weights are refitted afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.criteria.least_squares.normal import Moments

__all__ = ["Fit", "eliminate", "fit_without"]

RIDGE = 1e-4

PENDING = 96
"""Columns that are taken out before the large matrices are updated: one product of matrices, not many of vectors."""


class Fit:
    """A least-squares problem of which blocks of columns, one per unit, can be taken out.

    With H = (Σ u uᵀ + ridge)⁻¹ and the solution W, taking out the block g leaves H − G cᵀ and W − G W_g, where c = H_:g
    and G = c H_gg⁻¹. What says which unit goes next, the diagonal blocks of H and of W Wᵀ, is brought up to date at
    once; H and W wait until :data:`PENDING` columns have come together, and shrink then in the memory that they have.
    """

    def __init__(self, inverse: Tensor, weights: Tensor, units: Sequence[int], block: int, scale: float) -> None:
        """Takes over ``inverse`` and ``weights``, which are used up.

        Args:
            inverse: H, shape (P, P), symmetric; the columns of the units come first.
            weights: W, shape (P, O).
            units: Units that have columns here, in the order of their blocks.
            block: Columns of each unit.
            scale: What the squared error is divided by.
        """
        self.units, self._block, self._scale = list(units), block, scale
        self._inverse, self._weights = inverse, weights
        taken, most = len(self.units) * block, PENDING + block
        split = (len(self.units), block)
        blocks = torch.unflatten(torch.unflatten(inverse[:taken, :taken], 1, split), 0, split)
        self._blocks = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
        own = weights[:taken].reshape(*split, -1)
        self._squares = own @ own.mT
        self._gains, self._columns = (inverse.new_empty(len(inverse), most) for _ in range(2))
        self._rows, self._pending = weights.new_empty(most, weights.shape[1]), 0
        self._renumber()

    @classmethod
    def of(cls, gram: Tensor, cross: Tensor, columns: Sequence[tuple[int, Tensor]], scale: float) -> Fit:
        """Starts from normal equations (P, P) and (P, O) and the columns of every unit (equally many each)."""
        taken = torch.cat([c for _, c in columns])
        rest = torch.ones(len(gram), dtype=torch.bool)
        rest[taken] = False
        order = torch.cat([taken, rest.nonzero().ravel()])
        system = gram.index_select(0, order).index_select(1, order)
        system.diagonal().add_(RIDGE * gram.diagonal()[:-1].mean().clamp_min(1e-30))
        inverse = _inverse(system)
        weights = inverse @ cross.index_select(0, order)
        if weights.shape[1] > len(weights):  # other outputs with the same products
            weights = torch.linalg.qr(weights.mT, mode="r").R.mT.contiguous()
        return cls(inverse, weights, [u for u, _ in columns], len(columns[0][1]), scale)

    def rises(self) -> Tensor:
        """Rise of the squared error if a unit is taken out and the rest refitted, shape (units left,).

        tr(W_gᵀ (H⁻¹_gg)⁻¹ W_g), the block form of OBS (Hassibi and Stork 1993, eq. 5).
        """
        blocks, squares = self._blocks[self._left], self._squares[self._left]
        inverse = 1 / blocks if self._block == 1 else torch.linalg.inv(blocks)
        rises: Tensor = (inverse * squares).sum((1, 2)) / self._scale
        return rises

    def add_rises(self, rises: Tensor) -> None:
        """Adds :meth:`rises` to those in other layers, shape (units of the group,)."""
        if self.units:
            rises.index_add_(0, self._index[self._left], self.rises())

    def remove(self, unit: int) -> None:
        """Takes a unit out: the smaller problem in closed form."""
        place = self._place.pop(unit, None)
        if place is None:
            return
        k, m = self._block, self._pending
        gone, later = slice(place * k, (place + 1) * k), slice(m, m + k)
        gains, columns, rows = self._gains[:, :m], self._columns[:, :m], self._rows[:m]
        column = self._inverse[:, gone] - gains @ columns[gone].mT
        gain = torch.linalg.solve(column[gone], column.mT).mT
        row = self._weights[gone] - gains[gone] @ rows
        products = self._weights @ row.mT - gains @ (rows @ row.mT)
        self._update_blocks(gain, column, products, gone)
        self._gains[:, later], self._columns[:, later], self._rows[later] = gain, column, row
        self._pending += k
        self._left[place] = False
        self.units.remove(unit)
        if self._pending >= PENDING:
            self._shrink()

    def _update_blocks(self, gain: Tensor, column: Tensor, products: Tensor, gone: slice) -> None:
        """Diagonal blocks of H and W Wᵀ without the block ``gone``; ``products`` is W W_gᵀ."""
        split, taken = self._blocks.shape[:2], self._blocks.shape[0] * self._block
        g, c, p = (t[:taken].reshape(*split, -1) for t in (gain, column, products))
        self._blocks -= g @ c.mT
        mixed = g @ p.mT
        self._squares += g @ products[gone] @ g.mT - mixed - mixed.mT

    def _shrink(self) -> None:
        """Brings H and W up to date, without what has gone."""
        m = self._pending
        self._inverse.addmm_(self._gains[:, :m], self._columns[:, :m].mT, alpha=-1)
        self._weights.addmm_(self._gains[:, :m], self._rows[:m], alpha=-1)
        rest = torch.ones(len(self._inverse) - len(self._left) * self._block, dtype=torch.bool)
        kept = torch.cat([self._left.repeat_interleave(self._block), rest]).nonzero().ravel()
        self._inverse, self._weights = _packed(self._inverse, kept, kept), _packed(self._weights, kept)
        self._blocks, self._squares = self._blocks[self._left], self._squares[self._left]
        self._gains, self._columns = self._gains[: len(kept)], self._columns[: len(kept)]
        self._pending = 0
        self._renumber()

    def _renumber(self) -> None:
        self._left = torch.ones(len(self.units), dtype=torch.bool)
        self._index = torch.tensor(self.units, dtype=torch.long)
        self._place = {unit: k for k, unit in enumerate(self.units)}


def _packed(matrix: Tensor, rows: Tensor, columns: Tensor | None = None) -> Tensor:
    """Rows (and columns), rising, moved to the front, in the memory of ``matrix``."""
    for start in range(0, len(rows), PENDING):
        part = matrix.index_select(0, rows[start : start + PENDING])
        part = part if columns is None else part.index_select(1, columns)
        matrix[start : start + len(part), : part.shape[1]] = part
    return matrix[: len(rows)] if columns is None else matrix[: len(rows), : len(columns)]


def _inverse(system: Tensor) -> Tensor:
    """Inverse of a symmetric positive matrix, whose memory is used up."""
    factor, failed = torch.linalg.cholesky_ex(system)
    return torch.linalg.inv(system) if failed else torch.cholesky_inverse(factor, out=factor)


def eliminate(fits: Sequence[Fit], units: int) -> tuple[list[int], list[float]]:
    """Takes out, again and again, the unit whose loss the refitted rest makes good best.

    Args:
        fits: The layers that the units enter; they are used up.
        units: How many units there are.

    Returns:
        The order in which units go (all but the last one), and the rise of the error with each.
    """
    left, order, errors = torch.zeros(units, dtype=torch.float64), list[int](), list[float]()
    for _ in range(units - 1):
        rise = torch.zeros(units, dtype=torch.float64)
        for fit in fits:
            fit.add_rises(rise)
        worst = int((rise + left).argmin())
        left[worst] = torch.inf
        order.append(worst)
        errors.append(max(0.0, float(rise[worst])))
        for fit in fits:
            fit.remove(worst)
    return order, errors


def fit_without(moments: Moments, group: int, gone: Tensor, prior: Tensor) -> Tensor:
    """Refits one group's outputs without some columns, whose weights become zero: shape (O/G, p + 1)."""
    size = moments.gram.shape[1]
    left = torch.ones(size, dtype=torch.bool)
    left[gone] = False
    kept = left.nonzero().ravel()
    gram = moments.gram[group].index_select(0, kept).index_select(1, kept)
    pull = RIDGE * gram.diagonal()[:-1].mean().clamp_min(1e-30)
    old = prior[group].mT[kept]
    right = moments.cross[group][kept]
    right[:-1] += pull * old[:-1]
    gram.diagonal()[:-1].add_(pull)
    new = torch.zeros(size, right.shape[1], dtype=gram.dtype)
    factor, failed = torch.linalg.cholesky_ex(gram)
    new[kept] = torch.linalg.solve(gram, right) if failed else torch.cholesky_solve(right, factor)
    return new.mT
