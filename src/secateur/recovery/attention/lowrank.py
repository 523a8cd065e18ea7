"""The best maps of queries and keys to fewer dimensions, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["closest_logits"]

NOTHING = 1e-12
"""Directions in which keys have less than this share of the largest variance are rounding, and no keys."""


def closest_logits(queries: Tensor, keys: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Maps F, G to ``size`` dimensions that minimise Σ ((F q)ᵀ(G k) − qᵀk)² over all pairs of queries and keys.

    With S = Σ q qᵀ and C = Σ k kᵀ that is ‖S^½ (FᵀG − I) C^½‖², so S^½ FᵀG C^½ is the truncated singular value
    decomposition of S^½ C^½: with V the leading eigenvectors of C^½ S C^½, F = Vᵀ C^½ and G = Vᵀ C^−½. Several query
    heads that share a key head are one problem with S summed over them (the decomposition of their maps on top of one
    another). Each dimension is scaled so that queries and keys have the same mean square in it, which changes no logit.

    Where keys are centred, a constant per query is left free, which the softmax does not see.

    Args:
        queries: S, shape (G, d, d), float64.
        keys: C, shape (G, d, d), float64.
        size: d′, at most d.

    Returns:
        F and G, shape (G, d′, d) each.

    >>> S, C = torch.eye(3)[None], torch.diag(torch.tensor([9.0, 0.0, 4.0]))[None]
    >>> F, G = closest_logits(S, C, 2)
    >>> (F.mT @ G)[0].round(decimals=6).abs().diagonal()
    tensor([1., 0., 1.])
    """
    values, vectors = torch.linalg.eigh(keys)
    alive = values > NOTHING * values.amax(-1, keepdim=True).clamp_min(1e-300)
    roots = torch.where(alive, values, 0).sqrt()
    root = vectors * roots[:, None] @ vectors.mT
    inverse = vectors * torch.where(alive, 1 / roots.clamp_min(1e-300), 0)[:, None] @ vectors.mT
    strengths, found = torch.linalg.eigh(root @ queries @ root)
    lead, strengths = found[..., -size:].mT, strengths[..., -size:].clamp_min(0)
    weakest = strengths.amax(-1, keepdim=True).clamp_min(1e-300) * 1e-12
    even = strengths.clamp_min(weakest).pow(-0.25)[..., None]
    return even * (lead @ root), lead @ inverse / even
