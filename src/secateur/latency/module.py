"""Single layers as modules, for runtimes that do not read ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.latency.layers import Layer

__all__ = ["LayerModule", "SideBySide"]

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}


class LayerModule(nn.Module):
    """One layer of given widths with what follows it, in evaluation mode."""

    def __init__(self, layer: Layer, outer: int, inner: int) -> None:
        """Makes ``layer`` with ``outer`` outputs and ``inner`` inputs per group; its weights are random."""
        super().__init__()
        plain = layer.bias and "batch_norm" not in layer.followers
        channels = layer.channels_in(inner, outer)
        if layer.kind == "conv":
            kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(layer.kernel) - 1]
            self.layer: nn.Module = kind(channels, outer, layer.kernel, layer.stride, layer.padding, layer.dilation,
                                         layer.groups or outer, plain)  # fmt: skip
        else:
            self.layer = nn.Linear(channels, outer, plain)
        norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(layer.kernel)]
        self.norm = norm(outer) if "batch_norm" in layer.followers else None
        self.followers = layer.followers
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Runs the layer and its followers in order."""
        x = self.layer(x)
        for name in self.followers:
            x = self.norm(x) if name == "batch_norm" and self.norm is not None else _ACTIVATIONS[name](x)
        return x


class SideBySide(nn.Module):
    """Several layers of the same widths that read the same input; their outputs are added."""

    def __init__(self, layer: Layer, outer: int, inner: int, copies: int) -> None:
        """Makes ``copies`` of :class:`LayerModule`."""
        super().__init__()
        self.layers = nn.ModuleList(LayerModule(layer, outer, inner) for _ in range(copies))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Adds what the layers give."""
        total: Tensor = self.layers[0](x)
        for layer in list(self.layers)[1:]:
            total = total + layer(x)
        return total
