"""SqueezeNet 1.0 and 1.1 (Iandola et al., arXiv:1602.07360, table 1); parameter names as in torchvision.

The CIFAR form of 1.1 keeps the stem at full resolution, for 32×32 pixels, and adds batch normalisation, without which
it hardly trains on small images (and has no scales to prune by).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Fire", "SqueezeNet"]

_STEMS = {"1.0": (96, 7), "1.1": (64, 3)}
_LAYOUTS: dict[str, tuple[int | str, ...]] = {
    "1.0": ("pool", 16, 16, 32, "pool", 32, 48, 48, 64, "pool", 64),
    "1.1": ("pool", 16, 16, "pool", 32, 32, "pool", 48, 48, 64, 64),
}
"""Version → poolings, and fire modules by the width they squeeze to (they expand to eight times that)."""


class Fire(nn.Module):
    """Squeeze by a 1×1 convolution, expand by 1×1 and 3×3 side by side."""

    def __init__(self, inputs: int, squeezed: int, batch_norm: bool) -> None:
        """``squeezed`` is the width between; four times that comes out of either expansion."""
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, 4 * squeezed, 1)
        self.expand3x3 = nn.Conv2d(squeezed, 4 * squeezed, 3, padding=1)
        self.squeeze_norm = nn.BatchNorm2d(squeezed) if batch_norm else nn.Identity()
        self.expand_norm = nn.BatchNorm2d(8 * squeezed) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, 8 · squeezed, H, W)."""
        x = torch.relu(self.squeeze_norm(self.squeeze(x)))
        return torch.relu(self.expand_norm(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1)))


class SqueezeNet(nn.Module):
    """SqueezeNet; with 1000 classes 1,248,424 (1.0) or 1,235,496 (1.1) parameters.

    >>> sum(p.numel() for p in SqueezeNet("1.1").parameters())
    1235496
    """

    def __init__(
        self, version: str, classes: int = 1000, *, cifar: bool = False, in_channels: int = 3, dropout: float = 0.5
    ) -> None:
        """``version`` is 1.0 or 1.1; ``cifar`` takes the form for 32×32 pixels."""
        super().__init__()
        if version not in _STEMS:
            raise ValueError(f"version is 1.0 or 1.1; got {version!r}")
        width, kernel = _STEMS[version]
        stem = nn.Conv2d(in_channels, width, 3, padding=1) if cifar else nn.Conv2d(in_channels, width, kernel, 2)
        layers: list[nn.Module] = [stem, nn.ReLU(inplace=True)]
        layout = _LAYOUTS[version][1:] if cifar else _LAYOUTS[version]
        for squeezed in layout:
            if isinstance(squeezed, str):
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            else:
                layers.append(Fire(width, squeezed, batch_norm=cifar))
                width = 8 * squeezed
        self.features = nn.Sequential(*layers)
        last = nn.Conv2d(width, classes, 1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), last, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))
        self.apply(_initialise)
        nn.init.normal_(last.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, classes)."""
        return self.classifier(self.features(x)).flatten(1)  # type: ignore[no-any-return]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight)
        assert module.bias is not None  # every convolution here has one
        nn.init.zeros_(module.bias)
