"""ADMM: training under the constraint that whole filters and columns are zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.core.patterns import covered
from secateur.sparsity.alternating import Alternating
from secateur.sparsity.masks import weights_of
from secateur.sparsity.patterns import Pattern
from secateur.sparsity.select import Layer, by_ratio
from secateur.sparsity.shares import Amount, shares

__all__ = ["ADMM", "structured_masks"]


def structured_masks(
    values: Mapping[str, Tensor], filters: Mapping[str, float], columns: Mapping[str, float]
) -> dict[str, Tensor]:
    """Which weights stay when whole filters, then whole columns go, by their norm: the Euclidean projection, in turn.

    A weight is the matrix (filters, input channels · kernel entries). First the filters (rows) with the smallest ‖·‖₂
    go, then of what is left the columns. Each of the two is the projection on its set (Ma et al. 2019,
    arXiv:1905.00136, §3.1).

    Args:
        values: Weights by parameter name.
        filters: Share of the filters of a weight that goes, in [0, 1); others lose none. One of them always stays.
        columns: The same of its columns.

    >>> weight = torch.tensor([[3.0, 0.0, 1.0], [0.1, 0.2, 0.1]])
    >>> structured_masks({"w": weight}, {"w": 0.5}, {"w": 1 / 3})["w"].int()
    tensor([[1, 0, 1],
            [0, 0, 0]], dtype=torch.int32)
    """
    masks = {}
    for name, weight in values.items():
        squares = weight.detach().double().square().cpu()
        mask = torch.ones(weight.shape, dtype=torch.bool)
        for kind, ratios in (("filter", filters), ("column", columns)):
            if ratios.get(name, 0) > 0:
                layer = Layer(name, torch.where(mask, squares, 0), torch.ones_like(mask))
                mask = mask & by_ratio([layer], Pattern(kind), ratios, pooled=False)[name]
        masks[name] = mask
    return masks


class ADMM(Alternating):
    """Filter and column pruning by the alternating direction method of multipliers.

    Ma et al. 2019, ResNet Can Be Pruned 60×, arXiv:1905.00136, §3.1; Zhang et al. 2018, arXiv:1804.03294; Boyd et al.
    2011, §3.1.1. The loss is trained with the term ρ/2 ‖W − Z + U‖² for every layer, and at the end of every iteration
    Z ← Π(W + U), U ← U + W − Z, where Π leaves the filters and columns with the largest norms (see
    :func:`structured_masks`). ρ grows in stages, as in the papers. In the end the rest is pruned hard: W = Z.

    The iterations are spread evenly over the steps of a training run. It is the convolutions that are pruned, as in the
    paper, unless ``only`` names other weights; grouped convolutions lose no columns. Which weights stay is in
    ``masks``; retraining holds them (:class:`~secateur.sparsity.HoldMasks`), and :func:`secateur.purify` deletes what
    became unused.
    """

    name: ClassVar[str] = "ADMM"
    symbol: ClassVar[str] = "rho"
    remedy: ClassVar[str] = "Train for longer, with a lower learning rate, a higher rho or fewer iterations."

    @arguments.checked
    def __init__(
        self,
        filters: Amount = 0.0,
        columns: Amount = 0.0,
        *,
        rho: float = 0.3,
        growth: float = 3.0,
        stages: int = 3,
        iterations: int = 9,
        only: Iterable[str] | None = None,
        ignore: Iterable[str] = (),
    ) -> None:
        """Sets how much is removed and how the penalty grows.

        Args:
            filters: Share of the filters of every layer to remove, in [0, 1); or one by layer name or pattern.
            columns: Share of the columns (input channel and place in the kernel), likewise.
            rho: ρ of the first stage. (The papers' 1e-4, with growth 10, is for hundreds of epochs: in a few it moves
                nothing.)
            growth: Factor of ρ from one stage to the next.
            stages: How many values ρ takes.
            iterations: How often Z and U are updated, over all stages.
            only: Modules or parameters that alone are pruned.
            ignore: Modules or parameters that are left alone.

        Raises:
            InputError: A value out of range, or nothing to remove.
        """
        if rho <= 0 or growth < 1 or stages < 1 or iterations < stages:
            raise InputError(
                "ADMM wants rho above 0, growth and stages of at least 1, and at least as many iterations as stages; "
                f"got {rho=}, {growth=}, {stages=}, {iterations=}."
            )
        if not (filters or columns):
            raise InputError("ADMM removes filters, columns or both: give the share of one of them, in (0, 1).")
        super().__init__(iterations, only, ignore)
        self.filters, self.columns, self.rho, self.growth, self.stages = filters, columns, rho, growth, stages
        shares("filters", filters, None, ())
        shares("columns", columns, None, ())
        self._filters: dict[str, float] = {}
        self._columns: dict[str, float] = {}

    def settings(self) -> dict[str, Any]:
        """Everything that decides the outcome."""
        own = {"filters": self.filters, "columns": self.columns, "rho": self.rho, "growth": self.growth}
        return {**super().settings(), **own, "stages": self.stages}

    @property
    def strength(self) -> float:
        """ρ of the present iteration."""
        stage = self.iteration * self.stages // self.rounds
        return self.rho * self.growth ** min(stage, self.stages - 1)

    def choose(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The layers with a share to lose.

        Raises:
            InputError: There is none, or one that would lose all of its filters or columns but the last.
        """
        found = weights_of(model, only=self.only, ignore=self.ignore)
        free = {n: w for n, w in found.items() if self.only is not None or w.ndim > 2}
        if not free:
            raise InputError("ADMM prunes convolutions, and there is none. Name the layers to prune with only.")
        self._filters = shares("filters", self.filters, model, free)
        self._columns = shares("columns", self.columns, model, free)
        grouped = {n for n, m in model.named_modules() if getattr(m, "groups", 1) > 1}
        self._columns = {n: v for n, v in self._columns.items() if not covered(n, grouped)}
        lost = [n for n in free if self._filters.get(n, 0) or self._columns.get(n, 0)]
        if not lost:
            raise InputError("No layer has a share to lose: filters and columns are 0 for all that may be pruned.")
        for name in lost:
            _refuse_all(name, "filters", self._filters.get(name, 0), free[name].shape[0])
            _refuse_all(name, "columns", self._columns.get(name, 0), free[name][0].numel())
        return {n: free[n] for n in lost}

    @torch.no_grad()
    def project(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Π: the filters and columns with the largest norms; the rest is zero."""
        masks = structured_masks(values, self._filters, self._columns)
        return {n: w.detach().masked_fill(~masks[n].to(w.device), 0) for n, w in values.items()}


def _refuse_all(name: str, what: str, ratio: float, count: int) -> None:
    """Raises where a share rounds to everything that a layer has."""
    if int(ratio * count + 0.5) >= count:
        raise InputError(
            f"{what}: a share of {ratio:g} is all {count} {what} of {name!r}, which would compute nothing. Take less, "
            "or leave that layer out (ignore)."
        )
