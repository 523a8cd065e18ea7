"""Scale criteria: what batch normalisation says of a channel."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.criteria.base import GroupView, NotApplicable, criterion


@criterion("bn_scale", paper="Liu et al. 2017, Network Slimming, arXiv:1708.06519, §3", absolute=True)
def bn_scale(view: GroupView) -> Tensor:
    """Mean |γ| of the batch normalisations that the channel passes.

    With scope ``global`` there is one threshold on |γ| for the whole network, as in the paper.

    Raises:
        NotApplicable: No batch normalisation belongs to the group.
    """
    scales = [view.per_unit(m, w.abs()) for m, w in view.weights() if m.parameter in view.batch_norm_scales]
    if not scales:
        raise NotApplicable(f"no batch normalisation scales the channels of {view.group.name!r}")
    return torch.stack(scales).mean(0)
