"""The closed form, against a general optimiser and where logits have few dimensions anyway."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize

from secateur.recovery.attention.lowrank import closest_logits


def moments(vectors: torch.Tensor) -> torch.Tensor:
    return vectors.mT @ vectors


def test_no_optimiser_finds_nearer_logits() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(3, 9, 4).double() * torch.tensor([3, 1, 0.5, 2]).double(), torch.randn(9, 4).double()
    keys = keys - keys.mean(0)
    query, key = closest_logits(sum(map(moments, queries))[None], moments(keys)[None], 2)

    def error(flat: np.ndarray) -> float:  # three query heads with maps of their own, one key head
        maps = torch.from_numpy(flat).reshape(4, 2, 4)
        apart = [q @ m.mT @ maps[3] @ keys.mT - q @ keys.mT for q, m in zip(queries, maps[:3], strict=True)]
        return sum(float(gap.square().sum()) for gap in apart)

    own = error(torch.cat([query.expand(3, -1, -1), key]).flatten().numpy())
    found = [minimize(error, np.random.default_rng(k).normal(size=32), method="BFGS").fun for k in range(2)]
    assert own <= min(found) * (1 + 1e-6)
    assert min(found) < own * (1 + 1e-3)


def test_logits_of_few_dimensions_come_back_exactly() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(20, 6).double(), torch.randn(20, 2).double() @ torch.randn(2, 6).double()
    query, key = closest_logits(moments(queries)[None], moments(keys)[None], 2)
    assert torch.allclose((queries @ query[0].mT) @ (keys @ key[0].mT).mT, queries @ keys.mT, atol=1e-10)


def test_both_sides_have_the_same_size() -> None:
    torch.manual_seed(0)
    queries, keys = 100 * torch.randn(50, 5).double(), torch.randn(50, 5).double()
    query, key = closest_logits(moments(queries)[None], moments(keys)[None], 3)
    sizes = ((queries @ query[0].mT).square().sum(0), (keys @ key[0].mT).square().sum(0))
    assert torch.allclose(*sizes)
