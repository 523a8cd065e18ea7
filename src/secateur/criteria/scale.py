"""Scale criteria: what batch normalisation says of a channel."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.criteria.base import GroupView, criterion
from secateur.errors import InputError


@criterion("bn_scale", paper="Liu et al. 2017, Network Slimming, arXiv:1708.06519, §3")
def bn_scale(view: GroupView) -> Tensor:
    """Mean |γ| of the batch normalisations that the channel passes.

    Raises:
        InputError: No batch normalisation belongs to the group.
    """
    scales = [view.per_unit(m, w.abs()) for m, w in view.weights() if m.parameter in view.batch_norm_scales]
    if not scales:
        raise InputError(
            f"The criterion 'bn_scale' needs batch normalisation, and none scales the channels of "
            f"{view.group.name!r}. Use another criterion (l1, l2), or leave that layer out with ignore."
        )
    return torch.stack(scales).mean(0)
