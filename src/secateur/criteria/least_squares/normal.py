"""Ridge least squares from accumulated normal equations: double precision, any number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.criteria.least_squares.design import Design, mirrored
from secateur.criteria.least_squares.layout import Layout

__all__ = ["RIDGES", "Moments", "Prior", "Solution", "bytes_of_fit", "halves", "ridge_solve", "solve", "strength"]

RIDGES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge strengths that are tried, relative to the mean diagonal of the normal matrix."""

MIXED = 256
"""Outputs by which a ridge is chosen; where there are more, as many random sums of them."""

FEW = 4
"""Fewer rows per column than this are worth a note."""


class Moments:
    """Second moments of the columns u (with a 1 for the intercept) and the targets t, group by group.

    Attributes:
        cross: Σ [u; 1] tᵀ, shape (G, p + 1, O/G), float64.
        square: Σ t², shape (G, O/G).
    """

    def __init__(self, gram: Tensor, cross: Tensor, square: Tensor) -> None:
        """Starts with sums; ``gram`` is what the property gives."""
        self._gram, self.cross, self.square = gram, cross, square
        self._empty = False
        self._upper: tuple[Tensor, Layout] | None = None

    @property
    def gram(self) -> Tensor:
        """Σ [u; 1][u; 1]ᵀ, shape (G, p + 1, p + 1), float64."""
        if self._upper is not None:
            upper, layout = self._upper
            added = mirrored(layout, upper)
            self._gram, self._upper = added if self._empty else self._gram + added, None
            self._empty = False
        return self._gram

    @classmethod
    def zeros(cls, groups: int, columns: int, outputs: int) -> Moments:
        """Nothing accumulated yet."""
        size, kind = columns + 1, torch.float64
        found = cls(torch.zeros(groups, size, size, dtype=kind), torch.zeros(groups, size, outputs, dtype=kind),
                    torch.zeros(groups, outputs, dtype=kind))  # fmt: skip
        found._empty = True
        return found

    @property
    def rows(self) -> float:
        """How many rows were added (of every group)."""
        return float(self.gram[0, -1, -1])

    def add(self, rows: Design, targets: Tensor) -> None:
        """Adds rows with their targets (G, O/G, N, positions)."""
        self.add_rows(rows)
        self.add_targets(rows, targets)

    def add_rows(self, rows: Design) -> None:
        """Adds rows alone, whose targets follow from them or come later.

        What is added stays half a matrix, in the order that is fastest, until :attr:`gram` is asked for.
        """
        if self._upper is None:
            self._upper = self._gram if self._empty else torch.zeros_like(self._gram), rows.layout
        rows.add_gram(self._upper[0])

    def add_targets(self, rows: Design, targets: Tensor) -> None:
        """Adds the targets' part alone, for rows that were counted before."""
        rows.add_cross(self.cross, targets)
        self.square += targets.double().square().sum((2, 3)).cpu()

    def __add__(self, other: Moments) -> Moments:
        """Moments of the rows of both."""
        return Moments(self.gram + other.gram, self.cross + other.cross, self.square + other.square)

    def error(self, matrix: Tensor) -> Tensor:
        """Σ ‖t − M [u; 1]‖² for every group and output, shape (G, O/G); ``matrix`` is (G, O/G, p + 1)."""
        return torch.clamp(self.square + self.fitted(matrix), min=0)

    def fitted(self, matrix: Tensor) -> Tensor:
        """What of :meth:`error` depends on ``matrix``: Σ ‖M [u; 1]‖² − 2 tᵀ M [u; 1], shape (G, O/G)."""
        transposed = matrix.mT
        return (transposed * (self.gram @ transposed)).sum(1) - 2 * (transposed * self.cross).sum(1)

    def mixed(self, weights: Tensor) -> Moments:
        """The same of other targets, sums of these with ``weights`` (O/G, m), of which no squares are known."""
        return Moments(self.gram, self.cross @ weights, self.square.new_zeros(len(self.square), weights.shape[1]))


@dataclass(frozen=True)
class Prior:
    """Affine maps (G, O/G, p + 1) that a fit is pulled to: of the even images, of the odd ones, of all of them."""

    even: Tensor
    odd: Tensor
    whole: Tensor

    @classmethod
    def fixed(cls, matrix: Tensor) -> Prior:
        """One that no image has a part in."""
        return cls(matrix, matrix, matrix)


@dataclass(frozen=True)
class Solution:
    """A fit.

    Attributes:
        matrix: Weights and intercept, shape (G, O/G, p + 1), float64.
        ridge: Strength that was used, relative to the mean diagonal.
        error: Squared residual over the variance of the targets.
        short: Whether there were few rows for the number of columns.
        prior: Where the ridge pulls to.
    """

    matrix: Tensor
    ridge: float
    error: float
    short: bool
    prior: Tensor


def halves(count: int, index: int) -> list[slice]:
    """Even and odd images; batches of one image go to either half in turn."""
    return [slice(k, None, 2) for k in (0, 1)] if count > 1 else [slice(0, 1 - index % 2), slice(1 - index % 2, 1)]


def bytes_of_fit(groups: int, columns: int, outputs: int) -> int:
    """What a fit with a ridge to choose takes in memory at most, about.

    Two folds' Gram matrices, their sum, the system and its factor; weights, priors, cross moments and solutions.

    >>> bytes_of_fit(1, 8_192, 2_048) / 1e9
    4.1615...
    """
    return 8 * groups * (columns + 1) * (5 * (columns + 1) + 11 * outputs)


def ridge_solve(moments: Moments, prior: Tensor, ridge: float, *, intercept: bool = True) -> Tensor:
    """Minimises Σ ‖t − M [u; 1]‖² + ridge · mean diag(Σ u uᵀ) · ‖M − prior‖² (the intercept is not penalised).

    Args:
        moments: The normal equations.
        prior: Where the ridge pulls to, shape (G, O/G, p + 1).
        ridge: Strength; 0 gives plain least squares (of minimum norm where the system is singular).
        intercept: Whether the last column may be used; otherwise it stays as in ``prior``.

    Returns:
        Shape (G, O/G, p + 1), float64.
    """
    free = moments.gram.shape[1] - (not intercept)
    system, right = moments.gram[:, :free, :free].clone(), moments.cross[:, :free].clone()
    if not intercept:  # the part of the targets that the fixed intercept explains
        right -= moments.gram[:, :free, free:] @ prior.mT[:, free:]
    size = moments.gram.shape[1] - 1
    pull = ridge * moments.gram.diagonal(dim1=1, dim2=2)[:, :size].mean(1, keepdim=True)
    system.diagonal(dim1=1, dim2=2)[:, :size].add_(pull)
    right[:, :size] += pull[:, :, None] * prior.mT[:, :size]
    return torch.cat([_solved(system, right).mT, prior[:, :, free:]], 2)


def _solved(system: Tensor, right: Tensor) -> Tensor:
    """Symmetric systems, whose memory is used up: Cholesky where it goes, else least squares of minimum norm."""
    diagonal = system.diagonal(dim1=1, dim2=2)
    dead = diagonal <= 1e-14 * diagonal.amax(1, keepdim=True)  # columns that are always zero
    scale = torch.where(dead, torch.zeros_like(diagonal), diagonal.clamp_min(1e-300).rsqrt())[:, :, None]
    system.mul_(scale).mul_(scale.mT)
    right.mul_(scale)
    factor, failed = torch.linalg.cholesky_ex(system)
    good = ~failed.bool() & (factor.diagonal(dim1=1, dim2=2).amin(1) > 1e-6)
    if good.all():
        return torch.cholesky_solve(right, factor).mul_(scale)
    values, vectors = torch.linalg.eigh(system)
    limit = values.amax(1, keepdim=True) * 1e-12 * system.shape[1]
    inverse = torch.where(values > limit, 1 / values, 0.0)
    found: Tensor = vectors @ (inverse[:, :, None] * (vectors.mT @ right))
    return found.mul_(scale)


def solve(
    folds: tuple[Moments, Moments], priors: Sequence[Prior], *, ridge: float | None = None, intercept: bool = True
) -> Solution:
    """Fits both folds together; prior and, where none is given, strength are chosen by two-fold cross-validation.

    Each fold's fit is scored on the other fold's images, so a system with too few images for its size gets a
    strong ridge by itself: its fit then stays near the prior.

    Args:
        folds: Normal equations of the even and of the odd images.
        priors: Where the ridge may pull to.
        ridge: Relative strength, or ``None`` to choose among :data:`RIDGES`.
        intercept: Whether the intercept may change.
    """
    whole = folds[0] + folds[1]
    prior, ridge = priors[0], 1e-4 if ridge is None and not all(f.rows for f in folds) else ridge
    if ridge != 0 and all(f.rows for f in folds) and (ridge is None or len(priors) > 1):
        ridges = RIDGES if ridge is None else (ridge,)
        errors = {(k, r): _held_out(folds, p, r, intercept) for k, p in enumerate(priors) for r in ridges}
        number, ridge = min(errors, key=lambda key: errors[key])
        prior = priors[number]
    assert ridge is not None
    matrix = ridge_solve(whole, prior.whole, ridge, intercept=intercept)
    mean = whole.cross[:, -1] / max(whole.rows, 1)
    variance = (whole.square - whole.rows * mean**2).sum().clamp_min(1e-30)
    return Solution(matrix, ridge, float(whole.error(matrix).sum() / variance),
                    whole.rows < FEW * whole.gram.shape[1], prior.whole)  # fmt: skip


def strength(folds: tuple[Moments, Moments], prior: Tensor) -> float:
    """The ridge with which each fold's fit has the smallest error on the other fold."""
    return min(RIDGES, key=lambda ridge: _held_out(folds, Prior.fixed(prior), ridge, True))


def _held_out(folds: tuple[Moments, Moments], prior: Prior, ridge: float, intercept: bool) -> float:
    """Error of each fold's fit on the other one.

    Of many outputs, random sums are compared: their mean squared error is that of the outputs, and a solve costs less.
    """
    total, outputs = 0.0, prior.even.shape[1]
    mixed = outputs > MIXED
    pulls = [prior.even, prior.odd]
    if mixed:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (outputs, MIXED), generator=generator).double() * 2 - 1
        folds = (folds[0].mixed(signs), folds[1].mixed(signs))
        pulls = [(p.mT @ signs).mT for p in pulls]
    for one, other, pull in ((folds[0], folds[1], pulls[0]), (folds[1], folds[0], pulls[1])):
        found = ridge_solve(one, pull, ridge, intercept=intercept)
        total += float((other.fitted(found) if mixed else other.error(found)).sum())
    return total
