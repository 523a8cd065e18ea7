"""Which channels a layer can best do without, given that its weights are refitted afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.criteria.least_squares.normal import Moments

__all__ = ["Fit", "eliminate", "fit_without"]

RIDGE = 1e-4


@dataclass
class Fit:
    """A least-squares problem of which blocks of columns, one per unit, can be taken out.

    Attributes:
        inverse: (Σ u uᵀ + ridge)⁻¹, shape (P, P); the columns of the units that are left come first.
        weights: Its solution, shape (P, O).
        units: Units that have columns here, in the order of their blocks.
        block: Columns of each unit.
        scale: What the squared error is divided by.
    """

    inverse: Tensor
    weights: Tensor
    units: list[int]
    block: int
    scale: float

    @classmethod
    def of(cls, gram: Tensor, cross: Tensor, columns: Sequence[tuple[int, Tensor]], scale: float) -> Fit:
        """Starts from normal equations (P, P) and (P, O) and the columns of every unit (equally many each)."""
        size = gram.shape[0]
        taken = torch.cat([c for _, c in columns])
        rest = torch.ones(size, dtype=torch.bool)
        rest[taken] = False
        order = torch.cat([taken, rest.nonzero().ravel()])
        pull = RIDGE * gram.diagonal()[:-1].mean().clamp_min(1e-30)
        system = gram[order][:, order] + torch.eye(size, dtype=gram.dtype) * pull
        inverse = torch.linalg.inv(system)
        return cls(inverse, inverse @ cross[order], [u for u, _ in columns], len(columns[0][1]), scale)

    def rises(self) -> Tensor:
        """Rise of the squared error if a unit is taken out and the rest refitted, shape (units left,).

        tr(W_gᵀ (H⁻¹_gg)⁻¹ W_g), the block form of OBS (Hassibi and Stork 1993, eq. 5).
        """
        n, k = len(self.units), self.block
        blocks = self.inverse[: n * k, : n * k].reshape(n, k, n, k).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        weights = self.weights[: n * k].reshape(n, k, -1)
        rises: Tensor = (torch.linalg.inv(blocks) * (weights @ weights.mT)).sum((1, 2)) / self.scale
        return rises

    def remove(self, unit: int) -> None:
        """Takes a unit out: the inverse and the solution of the smaller problem in closed form."""
        if unit not in self.units:
            return
        place, k = self.units.index(unit), self.block
        self.units.pop(place)
        gone = slice(place * k, (place + 1) * k)
        left = torch.ones(len(self.inverse), dtype=torch.bool)
        left[gone] = False
        gain = torch.linalg.solve(self.inverse[gone, gone], self.inverse[gone][:, left]).mT
        self.weights = self.weights[left] - gain @ self.weights[gone]
        self.inverse = self.inverse[left][:, left] - gain @ self.inverse[gone][:, left]


def eliminate(fits: Sequence[Fit], units: int) -> tuple[list[int], list[float]]:
    """Takes out, again and again, the unit whose loss the refitted rest makes good best.

    Args:
        fits: The layers that the units enter; they are used up.
        units: How many units there are.

    Returns:
        The order in which units go (all but the last one), and the rise of the error with each.
    """
    left, order, errors = list(range(units)), [], []
    while len(left) > 1:
        rise = torch.zeros(units, dtype=torch.float64)
        for fit in fits:
            if fit.units:
                rise[torch.tensor(fit.units)] += fit.rises()
        worst = left[int(rise[torch.tensor(left)].argmin())]
        left.remove(worst)
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
    gram, cross = moments.gram[group][left][:, left], moments.cross[group][left]
    pull = RIDGE * gram.diagonal()[:-1].mean().clamp_min(1e-30)
    ridge = torch.eye(len(gram), dtype=gram.dtype) * pull
    ridge[-1, -1] = 0
    old = prior[group].mT[left]
    new = torch.zeros(size, cross.shape[1], dtype=gram.dtype)
    new[left] = torch.linalg.solve(gram + ridge, cross + ridge @ old)
    return new.mT
