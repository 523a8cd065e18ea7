"""Residual networks for small images (He et al., arXiv:1512.03385, section 4.2): ResNet-20 to -110.

Depth is 6n + 2: three stages of n blocks with 16, 32 and 64 channels. Option A shortcuts subsample and
pad with zero channels (no parameters); option B shortcuts are 1×1 convolutions.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BasicBlock", "PadShortcut", "SmallResNet"]


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels before and after to reach the new width."""

    def __init__(self, stride: int, before: int, after: int) -> None:
        """``before`` and ``after`` are counts of zero channels."""
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, before + C + after, ⌈H/stride⌉, ⌈W/stride⌉)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, option: str) -> None:
        """``option`` is ``A`` or ``B`` and matters where the shape changes."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            extra = width - inputs
            self.shortcut = (
                PadShortcut(stride, extra // 2, extra - extra // 2)
                if option == "A"
                else nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, width, ⌈H/stride⌉, ⌈W/stride⌉)."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """CIFAR ResNet; ResNet-56 with option A has 853,018 parameters and 10 classes.

    >>> sum(p.numel() for p in SmallResNet(56).parameters())
    853018
    """

    def __init__(self, depth: int, classes: int = 10, *, option: str = "A", in_channels: int = 3) -> None:
        """``depth`` is 6n + 2, ``option`` the kind of shortcut (``A`` or ``B``)."""
        super().__init__()
        if depth < 8 or (depth - 2) % 6 or option not in ("A", "B"):
            raise ValueError(f"depth is 6n + 2 and option A or B; got depth {depth} and option {option!r}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1, blocks, option)
        self.layer2 = self._stage(16, 32, 2, blocks, option)
        self.layer3 = self._stage(32, 64, 2, blocks, option)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(inputs: int, width: int, stride: int, blocks: int, option: str) -> nn.Sequential:
        first = BasicBlock(inputs, width, stride, option)
        return nn.Sequential(first, *(BasicBlock(width, width, 1, option) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]
