"""Small networks for rows of numbers and for windows of series."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["MLP", "SeriesConv"]


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    >>> sum(p.numel() for p in MLP(inputs=10, hidden=(64, 64)).parameters())
    4929
    """

    def __init__(self, classes: int = 1, *, inputs: int = 10, hidden: Sequence[int] = (64, 64)) -> None:
        """``classes`` is the number of outputs, ``inputs`` of numbers per sample."""
        super().__init__()
        widths = [inputs, *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, classes)."""
        return self.head(self.layers(x))  # type: ignore[no-any-return]


class SeriesConv(nn.Module):
    """Three convolutions over time, each with batch norm, that halve it; then a linear layer over what is left.

    >>> import torch
    >>> tuple(SeriesConv(3, channels=3, window=48)(torch.zeros(2, 3, 48)).shape)
    (2, 3)
    """

    def __init__(self, classes: int = 3, *, channels: int = 3, window: int = 48, width: int = 32) -> None:
        """``classes`` is the number of outputs, ``channels`` of columns, ``window`` of steps."""
        super().__init__()
        if window < 1:
            raise ValueError(f"window is at least 1; got {window}")
        layers: list[nn.Module] = []
        for before in (channels, width, width):
            layers += [nn.Conv1d(before, width, 5, 2, 2, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
            window = (window + 1) // 2
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width * window, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, window) → (B, classes)."""
        return self.head(self.layers(x).flatten(1))  # type: ignore[no-any-return]
