"""Purification: channels of which a structured pruning has left little are emptied."""

from __future__ import annotations

import torch
from torch import nn

from secateur.core.errors import InputError
from secateur.graph.copies import deep_copy

__all__ = ["emptied"]


@torch.no_grad()
def emptied(model: nn.Module, emptiness: float) -> tuple[nn.Module, int]:
    """A copy in which an input channel is zero as a whole where enough of its columns already are.

    A convolution's weight is the matrix (filters, channels · kernel places); the emptiness of a channel is the share of
    its columns, one for each place in the kernel, that are zero in all filters. Source: Ma et al. 2019,
    arXiv:1905.00136, network purification. Grouped convolutions stay, linear layers, whose channels have one column,
    and of every layer the channel with the largest weights.

    Args:
        model: A network with columns of zeros; it is left untouched.
        emptiness: In (0, 1]: from this share on the rest of a channel goes.

    Returns:
        The copy, and how many channels were emptied that were not empty before.

    Raises:
        InputError: ``emptiness`` is out of range.

    >>> net = nn.Conv2d(2, 1, (1, 3), bias=False)
    >>> _ = net.weight.data.copy_(torch.tensor([[[[5.0, 4.0, 3.0]], [[0.0, 2.0, 0.0]]]]))
    >>> emptied(net, 0.6)[0].weight.flatten().tolist(), emptied(net, 0.7)[1]
    ([5.0, 4.0, 3.0, 0.0, 0.0, 0.0], 0)
    """
    if not 0 < emptiness <= 1:
        raise InputError(f"emptiness is the share of a channel's columns that are zero, in (0, 1]; got {emptiness!r}.")
    result, count = deep_copy(model), 0
    for module in result.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(module, nn.modules.conv._ConvNd) or module.groups > 1 or module.transposed or weight is None:
            continue
        zero = (weight == 0).all(0).flatten(1)  # (channels, places)
        going = (zero.double().mean(1) >= emptiness - 1e-9) & ~zero.all(1)
        going[weight.square().sum((0, *range(2, weight.ndim))).argmax()] = False
        weight[:, going] = 0
        count += int(going.sum())
    return result, count
