"""Random crops and mirroring of whole batches on the device that trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Draws", "crop_and_flip", "draw"]


@dataclass(frozen=True)
class Draws:
    """The random numbers of an epoch, one per image.

    Attributes:
        pad: Zero padding around the images.
        top: int64, (N,), in 0…2·pad: first row of the crop.
        left: int64, (N,), in 0…2·pad: first column.
        flip: bool, (N,): whether to mirror.
    """

    pad: int
    top: Tensor
    left: Tensor
    flip: Tensor

    def part(self, start: int, stop: int) -> Draws:
        """The numbers of some of the images."""
        return Draws(self.pad, self.top[start:stop], self.left[start:stop], self.flip[start:stop])

    def take(self, positions: Tensor) -> Draws:
        """The numbers at ``positions``."""
        return Draws(self.pad, self.top[positions], self.left[positions], self.flip[positions])


def draw(count: int, *, pad: int, flip: bool, generator: torch.Generator) -> Draws:
    """Draws where to crop and what to mirror, for ``count`` images."""
    top, left = torch.randint(0, 2 * pad + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < (0.5 if flip else 0.0)
    return Draws(pad, top, left, mirrored)


def crop_and_flip(images: Tensor, draws: Draws) -> Tensor:
    """Pads, crops back to the same size and mirrors, each image in its own way.

    Args:
        images: (B, C, H, W), uint8 or float32.
        draws: One number of each kind per image.

    Returns:
        (B, C, H, W), channels-last in memory.
    """
    count, channels, height, width = images.shape
    device, pad = images.device, draws.pad
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1).contiguous()
    rows = draws.top.to(device)[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = torch.where(draws.flip.to(device)[:, None], width - 1 - columns, columns)
    columns = columns + draws.left.to(device)[:, None]
    # Whole pixels are gathered by one flat index: (image, row, column).
    first = torch.arange(count, device=device)[:, None] * (height + 2 * pad)
    index = (first + rows)[:, :, None] * (width + 2 * pad) + columns[:, None, :]
    pixels = padded.view(-1, channels)[index.view(-1)]
    if channels == 1:  # both layouts at once; these strides are the ones that nothing mistakes
        return pixels.view(count, 1, height, width)
    return pixels.view(count, height, width, channels).permute(0, 3, 1, 2)
