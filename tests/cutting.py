"""Cuts at random, held to the dense modules with every removed entry at zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import secateur
from drawn.base import Kept
from secateur.cut.pruned import Pruned
from secateur.graph.copies import deep_copy


def doubled(tree: Any) -> Any:
    """Inputs in double precision; whole numbers stay."""
    if isinstance(tree, tuple):
        return tuple(map(doubled, tree))
    return tree.double() if isinstance(tree, Tensor) and tree.is_floating_point() else tree


def masked(model: nn.Module, pruned: Pruned, *x: Tensor) -> Tensor:
    """The dense modules with every removed entry at zero; right where zeros pass through."""
    twin = deep_copy(model).double()
    Kept(pruned.plan.keep, twin)
    with torch.no_grad():
        return twin(*doubled(x))


def check(model: nn.Module, *x: Tensor, ratio: float = 0.5, single: bool = False) -> Pruned:
    """Cut at random by both back ends, both right; gives the second. In single precision where code names a type."""
    for backend in ("auto", "graph"):
        pruned = secateur.prune(model, x, ratio=ratio, criterion="random", backend=backend, seed=3)
        assert pruned.plan.keep
        with torch.no_grad():
            found = pruned.model(*x).double() if single else pruned.model.double()(*doubled(x))
            assert torch.allclose(found, masked(model, pruned, *x), rtol=0, atol=1e-5 if single else 1e-12)
    return pruned
