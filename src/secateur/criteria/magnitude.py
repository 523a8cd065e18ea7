"""Magnitude criteria: norms of a unit's weights and of everything coupled to it."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.criteria.base import GroupView, criterion


@criterion("l1", paper="Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710")
def l1(view: GroupView) -> Tensor:
    """L1 norm of the unit's weights and of everything coupled to it: Σ|w|."""
    return sum((view.norms(m, w, 1) for m, w in view.weights()), torch.zeros(len(view)))


@criterion("l2", paper="Fang et al. 2023, DepGraph: Towards Any Structural Pruning, arXiv:2301.12900, eq. 4")
def l2(view: GroupView) -> Tensor:
    """L2 norm of the unit's weights and of everything coupled to it: √Σw²."""
    return sum((view.norms(m, w, 2) for m, w in view.weights()), torch.zeros(len(view))).sqrt()


@criterion("linf", paper="Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710")
def linf(view: GroupView) -> Tensor:
    """Largest weight of the unit and of everything coupled to it: max|w|."""
    scores = torch.zeros(len(view))
    for member, weight in view.weights():
        scores = torch.maximum(scores, view.norms(member, weight, float("inf")).to(scores))
    return scores


@criterion("random", paper="Mittal et al. 2018, Recovering from Random Pruning, arXiv:1801.10447")
def random(view: GroupView) -> Tensor:
    """Uniform noise: the control that every criterion has to beat."""
    return torch.rand(len(view), generator=view.generator)
