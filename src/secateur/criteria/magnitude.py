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


def lamp_scores(squares: Tensor) -> Tensor:
    """Each square over the sum of all that are not smaller (ties in order), shape and order as given.

    Formula: score(u) = w_u² / Σ_{v ≥ u} w_v², the squares in ascending order (Lee et al. 2021, §2.1).

    >>> lamp_scores(torch.tensor([4.0, 1.0])).tolist()
    [1.0, 0.2]
    """
    order = torch.argsort(squares, stable=True)
    tail = squares[order].double().flip(0).cumsum(0).flip(0).clamp_min(torch.finfo(torch.float64).tiny)
    scores = torch.empty_like(squares, dtype=torch.float64)
    scores[order] = squares[order].double() / tail
    return scores


@criterion("lamp", paper="Lee et al. 2021, Layer-adaptive Sparsity (LAMP), arXiv:2010.07611, §2.1", absolute=True)
def lamp(view: GroupView) -> Tensor:
    """‖w‖² over the sum of those in the group that are not smaller: layers compare.

    w are the unit's weights and everything coupled to it, as in ``l2``; the paper's single weights become units.
    """
    return lamp_scores(l2(view).square())


@criterion("random", paper="Mittal et al. 2018, Recovering from Random Pruning, arXiv:1801.10447", order="at random")
def random(view: GroupView) -> Tensor:
    """Uniform noise: the control that every criterion has to beat."""
    return torch.rand(len(view), generator=view.generator)
