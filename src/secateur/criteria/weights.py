"""Criteria of single weights: one score per entry, higher = keep."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.criteria.base import criterion
from secateur.criteria.magnitude import lamp_scores

__all__ = ["change", "lamp", "magnitude", "obd", "random", "snip"]


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


@criterion("snip", kind="weights", paper="Lee et al. 2019, SNIP, arXiv:1810.02340, eq. 5", needs=("gradient",))
def snip(weight: Tensor, generator: torch.Generator, gradient: Tensor) -> Tensor:
    """Sensitivity of the loss to the weight's mask: |g·w|.

    Formula: |∂L/∂c| = |g·w|, where c = 1 is a factor of the weight and g = ∂L/∂w, the gradient of the mean loss over
    the data (in eval mode). The paper takes a network at its initialisation and one batch, and divides by the sum over
    the network, which changes no order: prune with ``scope="global"``.

    >>> snip(torch.tensor([-2.0, 1.0]), torch.Generator(), torch.tensor([0.5, 3.0]))
    tensor([1., 3.])
    """
    return (gradient * weight).abs()


@criterion(
    "obd", kind="weights", paper="LeCun et al. 1990, Optimal Brain Damage, §2; Fisher: arXiv:1801.05787",
    needs=("curvature",),
)  # fmt: skip
def obd(weight: Tensor, generator: torch.Generator, curvature: Tensor) -> Tensor:
    """Second-order effect on the loss with a diagonal Hessian: ½·h·w².

    h is the diagonal of the Hessian, taken as the empirical Fisher information, the mean over samples of (∂L/∂w)² with
    the given labels. It equals the Hessian where the network's probabilities are those of the labels, which holds
    about a well-trained network; of one that is certain of every sample it is nearly zero. (The paper propagates
    second derivatives back, by the Gauss-Newton approximation.)

    >>> obd(torch.tensor([-2.0, 1.0]), torch.Generator(), torch.tensor([0.5, 3.0]))
    tensor([1.0000, 1.5000])
    """
    return curvature * weight.square() / 2


@criterion(
    "change", kind="weights", needs=("start",), order="smallest change in training first",
    paper="Qin et al., Analysis of Pruning Optimization Technology Based on Deep Learning, §6.4; arXiv:1905.01067",
)  # fmt: skip
def change(weight: Tensor, generator: torch.Generator, start: Tensor) -> Tensor:
    """How far training moved the weight: |w − w at the start|.

    >>> change(torch.tensor([-2.0, 1.0]), torch.Generator(), torch.tensor([-1.5, 3.0]))
    tensor([0.5000, 2.0000])
    """
    return (weight - start).abs()
