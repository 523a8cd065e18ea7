"""How far what the pruned network computes is from what the dense one computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from secateur.graph.facts import Kind
from secateur.graph.rules import facts
from secateur.task.classification import soft_cross_entropy

__all__ = ["Relative", "Scores", "gives_scores"]


class Relative:
    """Mean over several tensors of mean ‖got − wanted‖² / variance of wanted.

    The variance is of all samples that were shown to :meth:`see`.
    """

    def __init__(self) -> None:
        """Nothing was seen."""
        self._sums: dict[int, tuple[float, float, int]] = {}

    def see(self, wanted: Sequence[Tensor]) -> None:
        """Adds a batch of what is wanted to the variances."""
        for k, value in enumerate(wanted):
            if value.is_floating_point() and value.numel():
                total, square, count = self._sums.get(k, (0.0, 0.0, 0))
                wide = value.detach().double()
                self._sums[k] = total + float(wide.sum()), square + float(wide.square().sum()), count + value.numel()

    def __call__(self, got: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """The error of a batch."""
        pairs = enumerate(zip(got, wanted, strict=True))
        parts = [(g.float() - w.float()).square().mean() / self._variance(k) for k, (g, w) in pairs if k in self._sums]
        return torch.stack(parts).mean()

    def _variance(self, k: int) -> float:
        total, square, count = self._sums[k]
        return max(square / count - (total / count) ** 2, 1e-12)


class Scores:
    """T²·KL(softmax(t/T) ‖ softmax(z/T)) of the class scores z and, of the dense network, t; mean over the samples.

    Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531, §2.
    """

    def __init__(self, temperature: float) -> None:
        """``temperature`` is T."""
        self._temperature = float(temperature)

    def see(self, wanted: Sequence[Tensor]) -> None:
        """Nothing needs to be known beforehand."""

    def __call__(self, got: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """The divergence of a batch."""
        return soft_cross_entropy(got[0], wanted[0], self._temperature)


def gives_scores(output: Node) -> bool:
    """Whether a network's only output is that of a linear layer, one row of two or more numbers a sample."""
    given = [n for n in pytree.tree_leaves(output.args) if isinstance(n, Node)]
    value = given[0].meta.get("val") if len(given) == 1 else None
    if not isinstance(value, Tensor) or value.ndim != 2 or not isinstance(value.shape[1], int):
        return False
    return value.shape[1] > 1 and facts(given[0]).kind is Kind.LINEAR
