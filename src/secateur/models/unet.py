"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597, figure 1), with batch norm and padded convolutions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["UNet"]


class UNet(nn.Module):
    """Down by max pooling and up by transposed convolutions, with the maps of the way down joined on the way up.

    In place of the paper's convolutions without padding, which shrink the maps, these keep the size; each is followed
    by batch norm (Ioffe and Szegedy 2015, arXiv:1502.03167). With ``width=64`` and ``depth=4`` it is the paper's size.

    >>> tuple(UNet(3, width=4)(torch.zeros(1, 3, 32, 48)).shape)
    (1, 3, 32, 48)
    """

    def __init__(self, classes: int = 21, *, width: int = 64, depth: int = 4, in_channels: int = 3) -> None:
        """``width`` channels at full size, doubled at each of ``depth`` halvings."""
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"width and depth are at least 1; got {width} and {depth}")
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip([in_channels, *widths], widths, strict=False))
        wide = list(reversed(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairwise(wide))
        self.join = nn.ModuleList(_double(2 * b, b) for b in wide[1:])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, classes, H, W), H and W multiples of 2^depth."""
        kept = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            kept.append(x)
        kept.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([kept.pop(), up(x)], 1))
        return self.head(x)  # type: ignore[no-any-return]


def _double(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3×3 convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for before in (inputs, outputs):
        conv = nn.Conv2d(before, outputs, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
