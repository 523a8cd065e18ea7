"""Whether calibration data looks like what the network was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria.least_squares.sites import Norm
from secateur.criteria.least_squares.walk import Walker
from secateur.graph.ops import arguments

__all__ = ["check_scale"]

REFUSED, REMARKABLE = 100.0, 5.0


def check_scale(dense: Walker, found: Sequence[Norm], batch: Any) -> list[str]:
    """Compares the first batch normalisation's input with its running statistics: mean of ((x − μ)/σ)².

    That is near 1 on data like the training data. Networks without statistics, or with untrained ones, say nothing.

    Raises:
        InputError: It is a hundred times more or less (pixels of 0…255, or divided by 255 twice).
    """
    values = dense.begin(batch)
    if not found:
        return []
    norm = found[0]
    tensors = dict(dense.module.named_buffers(remove_duplicate=False))
    mean, var = tensors[norm.mean].detach(), tensors[norm.var].detach()
    if not mean.any() and bool((var == 1).all()):
        return []
    with torch.no_grad():
        dense.advance(values, 0, dense.place[norm.node])
        x = dense.value(arguments(norm.node)["input"], values)
    assert isinstance(x, Tensor)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    ratio = float(((x - mean.reshape(shape)).square() / (var.reshape(shape) + norm.eps)).mean())
    name = norm.mean.rpartition(".")[0]
    said = f"{ratio:.3g}× the variance that {name!r} knows from training"
    if not 1 / REFUSED <= ratio <= REFUSED:
        raise InputError(
            f"The calibration data has another scale than the network's training data: its first layers give {said}. "
            "Normalise the images as in training (mean and std of the data set)."
        )
    far = not 1 / REMARKABLE <= ratio <= REMARKABLE
    return [f"the calibration data may be normalised otherwise than in training: {said}"] if far else []
