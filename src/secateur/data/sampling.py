"""Seeded, stratified choice of images."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw", "hold_out"]


def draw(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices of ``count`` images, in stored order, with every class represented in proportion.

    >>> draw(torch.tensor([0, 0, 0, 0, 1, 1]), 3, seed=0).shape
    torch.Size([3])
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    counts = torch.bincount(labels)
    first = (counts.cumsum(0) - counts)[labels[by_class]]
    # An image's place within its class, as a share: the lowest shares are a stratified sample.
    share = (torch.arange(len(labels)) - first + 0.5) / counts[labels[by_class]]
    return by_class[torch.argsort(share, stable=True)[:count]].sort().values


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits indices into (rest, held out), the latter a stratified ``share`` of all images."""
    held = draw(labels, round(share * len(labels)), seed)
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[held] = False
    return rest.nonzero().flatten(), held
