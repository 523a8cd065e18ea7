"""Single layers as modules, for runtimes that do not read ONNX files."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from secateur.budget.latency.layers import Layer
from secateur.graph.ops import facts_of

__all__ = ["LayerModule", "SideBySide"]


class LayerModule(nn.Module):
    """One layer of given widths with what follows it, in evaluation mode."""

    def __init__(self, layer: Layer, outer: int, inner: int) -> None:
        """Makes ``layer`` with ``outer`` outputs and ``inner`` inputs per group; its weights are random."""
        super().__init__()
        plain = layer.bias and not layer.normalised
        channels = layer.channels_in(inner, outer)
        if layer.kind == "conv":
            kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(layer.kernel) - 1]
            self.layer: nn.Module = kind(channels, outer, layer.kernel, layer.stride, layer.padding, layer.dilation,
                                         layer.groups or outer, plain)  # fmt: skip
        else:
            self.layer = nn.Linear(channels, outer, plain)
        norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(layer.kernel)]
        modules = [facts_of(f"aten.{name}").module for name in layer.followers]
        self.followers = nn.ModuleList(norm(outer) if module is None else module() for module in modules)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Runs the layer and its followers in order."""
        x = self.layer(x)
        for follower in self.followers:
            x = follower(x)
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
