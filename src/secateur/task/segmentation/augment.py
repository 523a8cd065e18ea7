"""Augmentation of an image and its mask alike: flip, scale and shift."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.data.masks import IGNORED

__all__ = ["MaskAugment"]


@dataclass(frozen=True)
class MaskAugment:
    """Changes an image and its mask alike.

    Attributes:
        flip: Share of images that are mirrored.
        scale: An image is scaled about its centre by a factor within 1 ± this; below 1.
        shift: … and moved by up to this share of its sides.

    >>> image, mask = torch.zeros(1, 3, 1, 2), torch.tensor([[0, 1]], dtype=torch.uint8)
    >>> MaskAugment(flip=1.0, scale=0, shift=0)(image, mask, torch.Generator())[1].tolist()
    [[1, 0]]
    """

    flip: float = 0.5
    scale: float = 0.2
    shift: float = 0.1

    def __post_init__(self) -> None:
        """Checks that everything is a share."""
        for name in ("flip", "scale", "shift"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1 or (name == "scale" and value == 1):
                raise InputError(f"MaskAugment({name}=…) is a share in 0…1 (scale below 1); got {value!r}.")

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One image and its mask, changed.

        Args:
            image: float32, (1, C, H, W).
            mask: uint8, (H, W).
            generator: Where random numbers come from.

        Returns:
            Both in the same size; pixels that come in from outside repeat the edge, and are ignored in the mask.
        """
        mirrored, zoom, *moves = torch.rand(4, generator=generator).tolist()
        if mirrored < self.flip:
            image, mask = image.flip(3), mask.flip(1)
        if not self.scale and not self.shift:
            return image, mask
        factor = 1 + self.scale * (2 * zoom - 1)
        # The grid says where in the old image (−1…1) a new pixel comes from.
        x, y = (2 * self.shift * (2 * move - 1) for move in moves)
        rows = torch.tensor([[[1 / factor, 0, x], [0, 1 / factor, y]]])
        grid = F.affine_grid(rows, list(image.shape), align_corners=False)
        moved = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
        # 0 is what grid_sample gives outside, so that classes are counted from 1 here.
        shown = F.grid_sample(mask[None, None].float() + 1, grid, mode="nearest", align_corners=False)[0, 0]
        return moved, torch.where(shown == 0, IGNORED, shown - 1).to(torch.uint8)
