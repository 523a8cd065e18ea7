"""A criterion of one's own: `secateur prune resnet_digits --use own_criterion.py --criterion spread …`."""

import torch

from secateur.criteria import GroupView, criterion


@criterion("spread", paper="an example")
def spread(view: GroupView) -> torch.Tensor:
    """Standard deviation of a unit's own weights: a unit that is nearly constant goes first."""
    return view.filters().std(1, correction=0)
