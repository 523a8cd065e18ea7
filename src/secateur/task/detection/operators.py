"""torchvision's operators of detection in plain PyTorch, for wheels without the compiled ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.models import import_torchvision
from secateur.task.detection.suppression import has_compiled, plain_nms

__all__ = ["plain_roi_align", "runnable"]


@contextmanager
def runnable() -> Iterator[None]:
    """Where torchvision has no compiled operators, its detectors run with those of this file meanwhile."""
    if has_compiled():
        yield
        return
    operators = import_torchvision().ops
    own = operators.poolers.roi_align

    def roi_align(
        features: Tensor, boxes: Any, output_size: Any, spatial_scale: float = 1.0, sampling_ratio: int = -1,
        aligned: bool = False,
    ) -> Tensor:  # fmt: skip
        if sampling_ratio <= 0:  # points by the size of each box: torchvision has that in plain PyTorch itself
            found: Tensor = own(features, boxes, output_size, spatial_scale, sampling_ratio, aligned)
            return found
        rois = boxes if isinstance(boxes, Tensor) else operators._utils.convert_boxes_to_roi_format(boxes)
        return plain_roi_align(features, rois, output_size, spatial_scale, sampling_ratio, aligned)

    with (
        mock.patch.object(operators.boxes, "nms", plain_nms),
        mock.patch.object(operators.poolers, "roi_align", roi_align),
    ):
        yield


def plain_roi_align(
    features: Tensor, rois: Tensor, output_size: int | tuple[int, int], scale: float, points: int, aligned: bool
) -> Tensor:
    """The mean over ``points``² places, bilinear, in every one of h×w parts of a box.

    Source: He et al. 2017, Mask R-CNN, §3; places outside the map by more than a pixel count 0, as in torchvision. By
    :func:`torch.nn.functional.grid_sample`, whose gradient is quick on a CPU.

    Args:
        features: (N, C, H, W).
        rois: (K, 5): number of the image, left, top, right, bottom.
        output_size: (h, w), or one number for both.
        scale: Of boxes to the map.
        points: Places in each direction of a part, at least 1.
        aligned: Whether boxes are moved by half a pixel and may be smaller than one.

    Returns:
        (K, C, h, w).
    """
    h, w = (output_size, output_size) if isinstance(output_size, int) else output_size
    height, width = features.shape[-2:]
    offset = 0.5 if aligned else 0.0
    left, top, right, bottom = (rois[:, i] * scale - offset for i in range(1, 5))
    least = None if aligned else 1.0
    across, down = ((b - a) if least is None else (b - a).clamp(min=least) for a, b in ((left, right), (top, bottom)))
    x = left[:, None] + across[:, None] * ((torch.arange(w * points).to(rois) + 0.5) / (w * points))
    y = top[:, None] + down[:, None] * ((torch.arange(h * points).to(rois) + 0.5) / (h * points))
    inside = ((y >= -1) & (y <= height))[:, :, None] & ((x >= -1) & (x <= width))[:, None, :]
    # Places beyond the outermost pixels' middles take these pixels' values ("border"); −1…1 runs from middle to middle.
    grid_x = 2 * x / max(1, width - 1) - 1
    grid_y = 2 * y / max(1, height - 1) - 1
    grid = torch.stack([grid_x[:, None, :].expand_as(inside), grid_y[:, :, None].expand_as(inside)], -1).to(features)
    pooled = features.new_zeros(len(rois), features.shape[1], h, w)
    for image in sorted({int(number) for number in rois[:, 0].tolist()}):
        mine = (rois[:, 0] == image).nonzero().flatten()
        rows = grid[mine].flatten(0, 1)[None]  # one tall grid: the map is not copied for every box
        sampled = F.grid_sample(features[image : image + 1], rows, padding_mode="border", align_corners=True)
        sampled = sampled[0].view(-1, len(mine), h * points, w * points).transpose(0, 1)
        sampled = sampled * inside[mine].unsqueeze(1)
        pooled = pooled.index_copy(0, mine, F.avg_pool2d(sampled, points))
    return pooled
