"""Rows of the report's tables, made from two networks or two counts."""

from __future__ import annotations

from torch import nn

from secateur.core.types import Counts
from secateur.report.schema import BlockRow, LayerRow

__all__ = ["block_rows", "layer_rows"]


def block_rows(before: nn.Module, after: nn.Module) -> tuple[BlockRow, ...]:
    """Returns the parameters of each block before and after, in the order of the dense network.

    A block is a parameter's module path up to its first whole number (``layer1.0``), else its parent.

    >>> net = nn.Sequential(nn.Sequential(nn.Linear(2, 4), nn.ReLU()), nn.Linear(4, 2))
    >>> [(row.block, row.before) for row in block_rows(net, net)]
    [('0', 12), ('1', 10)]
    """
    sizes = [_block_sizes(before), _block_sizes(after)]
    names = list(dict.fromkeys([*sizes[0], *sizes[1]]))
    return tuple(BlockRow(block=name, before=sizes[0].get(name, 0), after=sizes[1].get(name, 0)) for name in names)


def layer_rows(before: Counts, after: Counts) -> tuple[LayerRow, ...]:
    """Returns the output channels of each layer, dense and pruned, in the order of execution.

    A layer that is gone after pruning keeps 0 channels.

    >>> from secateur.core.types import LayerCount
    >>> dense = Counts(10, 10, (LayerCount("conv", "conv2d", 8, 10, 10),))
    >>> pruned = Counts(5, 5, (LayerCount("conv", "conv2d", 4, 5, 5),))
    >>> layer_rows(dense, pruned)
    (LayerRow(layer='conv', kind='conv2d', before=8, after=4),)
    """
    kept = {layer.name: layer.out_channels for layer in after.layers}
    return tuple(
        LayerRow(layer=x.name, kind=x.kind, before=x.out_channels, after=kept.get(x.name, 0)) for x in before.layers
    )


def _block_sizes(model: nn.Module) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        block = _block(name)
        sizes[block] = sizes.get(block, 0) + parameter.numel()
    return sizes


def _block(parameter: str) -> str:
    path = parameter.split(".")[:-1]
    for depth, part in enumerate(path, start=1):
        if part.isdigit():
            return ".".join(path[:depth])
    return ".".join(path[:-1] or path) or "(root)"
