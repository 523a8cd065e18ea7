"""Scores of whole residual branches, higher = keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from secateur.core.errors import InputError, UnknownNameError
from secateur.graph.branches import Branch
from secateur.graph.groups import Groups
from secateur.graph.scales import batch_norms, scale_names

__all__ = ["BRANCH_CRITERIA", "ranked"]

BRANCH_CRITERIA = {
    "bn_scale": "mean |γ| of the branch's last batch normalisation (Liu et al. 2017, arXiv:1708.06519, per block)",
    "l1": "mean |w| of the branch's last layer (Li et al. 2017, arXiv:1608.08710, per block)",
    "l2": "root mean square of the branch's last layer's weights",
    "random": "uniform noise, the control",
}
"""Name → what it is."""


def ranked(groups: Groups, branches: Sequence[Branch], criterion: str, seed: int) -> list[tuple[str, float]]:
    """Names and scores of ``branches``, lowest (what may go first) first; ties in the order of execution.

    Formula: bn_scale Σ|γ_c| / C over the C channels of the batch normalisation that ends the branch (in
    pre-activation blocks the last one inside it); l1 Σ|w| / n and l2 √(Σw² / n) over the n weights of its last layer.
    The means make branches of different widths comparable.

    Raises:
        UnknownNameError: No such criterion.
        InputError: ``bn_scale`` on a branch without batch normalisation.
    """
    if criterion not in ("auto", *BRANCH_CRITERIA):
        raise UnknownNameError("criterion of residual branches", criterion, ("auto", *BRANCH_CRITERIA))
    scales = {b.name: _last_scale(b) for b in branches}
    if criterion == "auto":
        criterion = "bn_scale" if all(scales.values()) else "l1"
    tensors: dict[str, Any] = dict(groups.flow.traced.module.named_parameters(remove_duplicate=False))
    if criterion == "random":
        noise = torch.rand(len(branches), generator=torch.Generator().manual_seed(seed)).tolist()
        scores = [(b.name, float(n)) for b, n in zip(branches, noise, strict=True)]
    else:
        scores = [(b.name, _score(criterion, b, scales[b.name], tensors)) for b in branches]
    return sorted(scores, key=lambda pair: pair[1])


def _score(criterion: str, branch: Branch, scale: str | None, tensors: dict[str, Any]) -> float:
    if criterion != "bn_scale":
        last = next(p for p in reversed(branch.parameters) if p in tensors and tensors[p].ndim > 1)
        weight = tensors[last].detach().double().abs()
        return float(weight.mean() if criterion == "l1" else weight.pow(2).mean().sqrt())
    if scale is None:
        raise InputError(
            f"The criterion bn_scale needs batch normalisation, and the branch {branch.name!r} has none: use l1 or l2."
        )
    return float(tensors[scale].detach().double().abs().mean())


def _last_scale(branch: Branch) -> str | None:
    """Name of γ of the branch's last batch normalisation."""
    return next(iter(scale_names(batch_norms(branch.nodes)[-1:])), None)
