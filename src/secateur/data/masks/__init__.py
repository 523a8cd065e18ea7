"""Images with masks, a class for every pixel: folders of PNG files, and digits on a canvas."""

from __future__ import annotations

from secateur.data.masks.load import load_masks
from secateur.data.masks.masked import IGNORED, MaskSet, MaskSplit, digits_with_masks

__all__ = ["IGNORED", "MaskSet", "MaskSplit", "digits_with_masks", "load_masks"]
