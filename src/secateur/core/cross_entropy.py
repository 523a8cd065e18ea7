"""Cross-entropy as a loss that nobody chose: taken where it fits, and refused in words where it does not."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core.errors import InputError

__all__ = ["default_cross_entropy"]

_IGNORED = -100
"""PyTorch's label of what is left out."""


def default_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, where output and labels are what it is for.

    PyTorch computes a number for much else: of targets that are no probabilities (a regression), and of a single score
    it is a constant, whose gradient says nothing.

    Args:
        scores: Of at least two classes, floating-point, (N, C) or (N, C, …).
        labels: Classes, int64, (N) or (N, …), each from 0 to C − 1 (or −100, which is left out); or probabilities of
            the same shape as the scores, which sum to 1.

    Raises:
        InputError: They are something else.

    >>> default_cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3])).item() == torch.tensor(4.0).log().item()
    True
    """
    if wrong := _misfit(scores, labels):
        raise InputError(
            f"No loss was given, and cross-entropy, which is taken then, does not fit: {wrong}. Give loss=, a function "
            "of output and labels."
        )
    return F.cross_entropy(scores, labels.to(scores.device))


def _misfit(scores: Tensor, labels: Tensor) -> str:
    """Why the two are not for cross-entropy; empty where they are."""
    shapes = f"the network gives {_form(scores)} and the labels are {_form(labels)}"
    if scores.ndim < 2 or scores.shape[1] < 2 or not scores.is_floating_point():
        return f"it wants scores of at least two classes, (N, classes); {shapes}"
    if labels.is_floating_point():
        if labels.shape != scores.shape:
            return f"it wants a class for every sample, int64 (N); {shapes}"
        sums = labels.sum(1)
        if bool((labels < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            return f"floating-point labels are probabilities of the classes, and these are none; {shapes}"
        return ""
    if labels.dtype != torch.int64 or labels.shape != (scores.shape[0], *scores.shape[2:]):
        return f"it wants a class for every sample, int64 (N); {shapes}"
    found = labels[labels != _IGNORED]
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < scores.shape[1]:
        return (
            f"the network tells {scores.shape[1]} classes apart, and there are labels from {int(found.min())} to "
            f"{int(found.max())}; {shapes}"
        )
    return ""


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
