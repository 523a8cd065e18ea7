"""VGG-16/19 with batch normalisation (Simonyan & Zisserman, arXiv:1409.1556).

The ImageNet form has torchvision's parameter names; the CIFAR form is the one of Network Slimming
and of most pruning papers: the same convolutions and a single linear layer.
"""

from __future__ import annotations

from torch import Tensor, nn

from secateur.core.errors import InputError

__all__ = ["LAYOUTS", "VGG"]

LAYOUTS: dict[int, tuple[tuple[int, int], ...]] = {
    16: ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    19: ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)),
    7: ((16, 2), (32, 2), (64, 2)),
}
"""Depth → (channels, convolutions) of each stage; 7 is for images of 8×8."""


def _features(depth: int, in_channels: int, wider: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, count in ((wider * width, count) for width, count in LAYOUTS[depth]):
        for _ in range(count):
            layers += [
                nn.Conv2d(in_channels, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            in_channels = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def _imagenet_head(classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(4096, classes),
    )


class VGG(nn.Module):
    """VGG with batch normalisation: features, pooling, classifier."""

    def __init__(
        self, depth: int, classes: int, *, cifar: bool = False, in_channels: int = 3, dropout: float = 0.5,
        wider: int = 1,
    ) -> None:  # fmt: skip
        """``depth`` is 16, 19 or (``cifar`` alone) 7; ``cifar``: global pooling and one linear layer as the head.

        ``wider``: how many times the channels that the paper has (``cifar`` alone).
        """
        super().__init__()
        if wider != 1 and not cifar:
            raise InputError(f"VGG(wider={wider}) is for cifar=True; the ImageNet form has the paper's widths.")
        self.features = _features(depth, in_channels, wider)
        self.avgpool = nn.AdaptiveAvgPool2d(1 if cifar else 7)
        width = wider * LAYOUTS[depth][-1][0]
        self.classifier: nn.Module = nn.Linear(width, classes) if cifar else _imagenet_head(classes, dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), sides of at least 32 (8 for depth 7) → (B, classes)."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))  # type: ignore[no-any-return]
