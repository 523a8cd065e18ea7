"""torchvision's operators in plain PyTorch against scalar code in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from secateur.models import import_torchvision
from secateur.task.detection.operators import plain_roi_align, runnable
from secateur.task.detection.suppression import has_compiled


def bilinear(plane: Tensor, y: float, x: float) -> float:
    """As torchvision's kernels read a place off a map (csrc/ops/cpu/roi_align_kernel.cpp)."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    rows = [(top, 1 - down), (bottom, down)]
    columns = [(left, 1 - across), (right, across)]
    return sum(float(plane[r, c]) * a * b for r, a in rows for c, b in columns)


def scalar(
    features: Tensor, roi: list[float], size: tuple[int, int], scale: float, points: int, aligned: bool
) -> Tensor:
    offset = 0.5 if aligned else 0.0
    left, top, right, bottom = (v * scale - offset for v in roi[1:])
    across, down = right - left, bottom - top
    if not aligned:
        across, down = max(across, 1.0), max(down, 1.0)
    out = torch.zeros(features.shape[1], *size, dtype=torch.float64)
    for c in range(features.shape[1]):
        for i in range(size[0]):
            for j in range(size[1]):
                places = [
                    (
                        top + down * (i + (a + 0.5) / points) / size[0],
                        left + across * (j + (b + 0.5) / points) / size[1],
                    )
                    for a in range(points)
                    for b in range(points)
                ]
                out[c, i, j] = sum(bilinear(features[int(roi[0]), c], *p) for p in places) / len(places)
    return out


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("size", "points"), [((7, 7), 2), ((3, 5), 1), ((2, 2), 3)])
def test_roi_align(size: tuple[int, int], points: int, aligned: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 11, 8, dtype=torch.float64, generator=generator)
    corners = torch.rand(12, 4, dtype=torch.float64, generator=generator) * 140 - 30  # some reach outside
    corners = torch.stack(
        [torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])], 1
    )
    rois = torch.cat([torch.arange(12.0, dtype=torch.float64)[:, None] % 2, corners.flatten(1)], 1)
    rois[0, 3:] = rois[0, 1:3]  # without area
    got = plain_roi_align(features, rois, size, 0.125, points, aligned)
    for row, roi in enumerate(rois.tolist()):
        torch.testing.assert_close(got[row], scalar(features, roi, size, 0.125, points, aligned), rtol=0, atol=1e-12)


def test_roi_align_has_a_gradient_and_takes_nothing() -> None:
    features = torch.randn(2, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 3.0, 4, 30, 41], [1, 0, 0, 47, 20]], dtype=torch.float64)
    torch.autograd.gradcheck(lambda f: plain_roi_align(f, rois, (3, 3), 0.125, 2, False), features)
    assert plain_roi_align(features, rois[:0], 3, 0.125, 2, False).shape == (0, 2, 3, 3)


def test_torchvisions_own_call_runs_meanwhile_and_is_put_back() -> None:
    operators = import_torchvision().ops
    before = operators.boxes.nms, operators.poolers.roi_align
    pool = operators.MultiScaleRoIAlign(["a"], 4, 2)
    features, boxes = torch.randn(1, 2, 8, 8), torch.tensor([[0.0, 0, 32, 32], [1.0, 1, 33, 33]])
    with runnable():
        pooled = pool({"a": features}, [boxes], [(64, 64)])
        kept = operators.boxes.batched_nms(boxes, torch.tensor([0.5, 0.9]), torch.tensor([0, 0]), 0.5)
    assert pooled.shape == (2, 2, 4, 4)
    assert kept.tolist() == [1]
    assert (operators.boxes.nms, operators.poolers.roi_align) == before
    if not has_compiled():
        rois = torch.cat([torch.zeros(2, 1), boxes], 1)
        torch.testing.assert_close(pooled, plain_roi_align(features, rois, 4, 0.125, 2, False))
