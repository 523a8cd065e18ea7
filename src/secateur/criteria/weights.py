"""Criteria of single weights: one score per entry, higher = keep."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.criteria.base import criterion
from secateur.criteria.magnitude import lamp_scores

__all__ = ["lamp", "magnitude", "random"]


@criterion("magnitude", kind="weights", paper="Han et al. 2015, arXiv:1506.02626, §3")
def magnitude(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Size of the weight: |w|.

    >>> magnitude(torch.tensor([-2.0, 1.0]), torch.Generator())
    tensor([2., 1.])
    """
    return weight.abs()


@criterion("lamp", kind="weights", paper="Lee et al. 2021, LAMP, arXiv:2010.07611, eq. 2")
def lamp(weight: Tensor, generator: torch.Generator) -> Tensor:
    """w² over the sum of the squares that are not smaller, so that layers compare with each other.

    >>> lamp(torch.tensor([-2.0, 1.0]), torch.Generator())
    tensor([1.0000, 0.2000])
    """
    return lamp_scores(weight.double().square().flatten()).reshape(weight.shape).to(weight.dtype)


@criterion("random", kind="weights", paper="the control of Han et al. 2015 and of arXiv:2010.07611", order="at random")
def random(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform noise, the control."""
    return torch.rand(weight.shape, generator=generator)
