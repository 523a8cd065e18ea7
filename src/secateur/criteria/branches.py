"""Criteria of whole residual branches: one score each, higher = keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from secateur.core.errors import InputError, UnknownNameError
from secateur.criteria.base import CRITERIA, KINDS, criterion
from secateur.graph.branches import Branch
from secateur.graph.groups import Groups
from secateur.graph.scales import batch_norms, scale_names

__all__ = ["AUTO", "BranchView", "ranked"]

AUTO = "auto"
"""``bn_scale`` where every branch has a batch normalisation, else ``l1``."""


@dataclass(frozen=True)
class BranchView:
    """A branch with the numbers behind it.

    Attributes:
        branch: The branch.
        groups: All groups of the network.
        generator: Source of randomness for criteria that need one.
    """

    branch: Branch
    groups: Groups
    generator: torch.Generator

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters of the network by name."""
        named = self.groups.flow.traced.module.named_parameters(remove_duplicate=False)
        return {name: value.detach() for name, value in named}

    @property
    def last_weight(self) -> Tensor:
        """Weights of the branch's last layer, float64."""
        last = next(p for p in reversed(self.branch.parameters) if p in self.tensors and self.tensors[p].ndim > 1)
        return self.tensors[last].double()

    @property
    def last_scale(self) -> Tensor | None:
        """γ of the branch's last batch normalisation (the one that ends it, mostly), float64; ``None`` without one."""
        name = next(iter(scale_names(batch_norms(self.branch.nodes)[-1:])), None)
        return None if name is None else self.tensors[name].double()


@criterion("bn_scale", kind="branches", paper="Liu et al. 2017, arXiv:1708.06519, per block")
def bn_scale(view: BranchView) -> Tensor:
    """Mean |γ| of the branch's last batch normalisation: Σ|γ_c| / C over its C channels.

    Raises:
        InputError: The branch has no batch normalisation.
    """
    if view.last_scale is None:
        raise InputError(
            f"The criterion bn_scale needs batch normalisation, and the branch {view.branch.name!r} has none: use l1 "
            "or l2."
        )
    return view.last_scale.abs().mean()


@criterion("l1", kind="branches", paper="Li et al. 2017, arXiv:1608.08710, per block")
def l1(view: BranchView) -> Tensor:
    """Mean |w| of the branch's last layer: Σ|w| / n over its n weights."""
    return view.last_weight.abs().mean()


@criterion("l2", kind="branches", paper="Li et al. 2017, arXiv:1608.08710, per block")
def l2(view: BranchView) -> Tensor:
    """Root mean square of the branch's last layer's weights: √(Σw² / n)."""
    return view.last_weight.square().mean().sqrt()


@criterion("random", kind="branches", paper="the control", order="at random")
def random(view: BranchView) -> Tensor:
    """Uniform noise, the control."""
    return torch.rand((), generator=view.generator)


def ranked(groups: Groups, branches: Sequence[Branch], criterion: str, seed: int) -> list[tuple[str, float]]:
    """Names and scores of ``branches``, lowest (what may go first) first; ties in the order of execution.

    The means that the built-in criteria take make branches of different widths comparable.

    Raises:
        UnknownNameError: No such criterion.
        InputError: The criterion cannot score a branch.
    """
    offered = (AUTO, *(name for name in CRITERIA if "branches" in CRITERIA[name].kinds))
    if criterion not in offered:
        raise UnknownNameError(KINDS["branches"], criterion, offered)
    generator = torch.Generator().manual_seed(seed)
    views = [BranchView(branch, groups, generator) for branch in branches]
    if criterion == AUTO:
        criterion = "l1" if any(view.last_scale is None for view in views) else "bn_scale"
    score = CRITERIA[criterion].branches
    assert score is not None
    return sorted(((view.branch.name, float(score(view))) for view in views), key=lambda pair: pair[1])
