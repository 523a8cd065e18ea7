"""Scores of single weights: one per entry, higher = keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.registry import Registry
from secateur.criteria.magnitude import lamp_scores

__all__ = ["WEIGHT_CRITERIA", "WeightCriterion", "lamp", "magnitude", "random"]


@dataclass(frozen=True)
class WeightCriterion:
    """A registered criterion of single weights.

    Attributes:
        name: What ``criterion=`` calls it.
        score: From the weights of one layer and a generator of random numbers to scores of the same shape.
        paper: Source.
    """

    name: str
    score: Callable[[Tensor, torch.Generator], Tensor]
    paper: str


WEIGHT_CRITERIA: Registry[WeightCriterion] = Registry("weight criterion")


def magnitude(weight: Tensor, generator: torch.Generator) -> Tensor:
    """|w|.

    >>> magnitude(torch.tensor([-2.0, 1.0]), torch.Generator())
    tensor([2., 1.])
    """
    return weight.abs()


def lamp(weight: Tensor, generator: torch.Generator) -> Tensor:
    """w² over the sum of the squares that are not smaller, so that layers compare with each other (eq. 2).

    >>> lamp(torch.tensor([-2.0, 1.0]), torch.Generator())
    tensor([1.0000, 0.2000])
    """
    return lamp_scores(weight.double().square().flatten()).reshape(weight.shape).to(weight.dtype)


def random(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform noise, the control."""
    return torch.rand(weight.shape, generator=generator)


for _score, _paper in (
    (magnitude, "Han et al. 2015, arXiv:1506.02626, §3"),
    (lamp, "Lee et al. 2021, LAMP, arXiv:2010.07611, eq. 2"),
    (random, "the control of Han et al. 2015 and of arXiv:2010.07611"),
):
    WEIGHT_CRITERIA.add(_score.__name__, WeightCriterion(_score.__name__, _score, _paper))
