"""GoogLeNet (Szegedy et al., arXiv:1409.4842, table 1) with batch normalisation; parameter names as in torchvision.

As in torchvision, the paper's 5×5 convolutions are 3×3, and the training-time side heads are left out. The CIFAR form
takes one 3×3 convolution at full resolution as its stem, for 32×32 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TABLE", "GoogLeNet", "Inception"]

TABLE: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("3a", (64, 96, 128, 16, 32, 32)),
    ("3b", (128, 128, 192, 32, 96, 64)),
    ("4a", (192, 96, 208, 16, 48, 64)),
    ("4b", (160, 112, 224, 24, 64, 64)),
    ("4c", (128, 128, 256, 24, 64, 64)),
    ("4d", (112, 144, 288, 32, 64, 64)),
    ("4e", (256, 160, 320, 32, 128, 128)),
    ("5a", (256, 160, 320, 32, 128, 128)),
    ("5b", (384, 192, 384, 48, 128, 128)),
)
"""Name → channels of #1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5, pool projection."""


class _Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, out: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        """``widths`` is a line of :data:`TABLE`."""
        super().__init__()
        one, reduce3, three, reduce5, five, pooled = widths
        self.branch1 = _Convolution(inputs, one, 1)
        self.branch2 = nn.Sequential(_Convolution(inputs, reduce3, 1), _Convolution(reduce3, three, 3, padding=1))
        self.branch3 = nn.Sequential(_Convolution(inputs, reduce5, 1), _Convolution(reduce5, five, 3, padding=1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1, ceil_mode=True), _Convolution(inputs, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, sum of the four widths, H, W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """GoogLeNet; 6,624,904 parameters with 1000 classes.

    >>> sum(p.numel() for p in GoogLeNet().parameters())
    6624904
    """

    def __init__(self, classes: int = 1000, *, cifar: bool = False, in_channels: int = 3, dropout: float = 0.2) -> None:
        """``cifar`` takes the stem for 32×32 pixels; ``dropout`` is the share dropped before the last layer."""
        super().__init__()
        if cifar:
            self.stem: nn.Module = _Convolution(in_channels, 192, 3, padding=1)
        else:
            self.conv1 = _Convolution(in_channels, 64, 7, stride=2, padding=3)
            self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
            self.conv2 = _Convolution(64, 64, 1)
            self.conv3 = _Convolution(64, 192, 3, padding=1)
            self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.cifar, inputs = cifar, 192
        for name, widths in TABLE:
            if name in ("4a", "5a"):
                stage = int(name[0])
                self.add_module(f"maxpool{stage - 1}", nn.MaxPool2d(3 if stage == 4 else 2, 2, ceil_mode=True))
            self.add_module(f"inception{name}", Inception(inputs, widths))
            one, _, three, _, five, pooled = widths
            inputs = one + three + five + pooled
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, classes)."""
        for layer in self.children():
            x = layer(x) if layer is not self.fc else self.fc(x.flatten(1))
        return x
