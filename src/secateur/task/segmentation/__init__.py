"""Semantic segmentation: a class for every pixel, mean intersection over union."""

from __future__ import annotations

from secateur.task.segmentation.confusion import Confusion
from secateur.task.segmentation.task import MIOU, PIXELS, Segmentation

__all__ = ["MIOU", "PIXELS", "Confusion", "Segmentation"]
