"""Anchors by k-means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from secateur.core.errors import DataError, InputError
from secateur.data.boxes import Boxes, Letterboxed, load_boxes
from secateur.task.detection import anchor_overlap, find_anchors


def cluster(width: int, height: int, seed: int) -> Boxes:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([width, height]) * (0.9 + 0.2 * torch.rand(50, 2, generator=generator))
    start = torch.randint(0, 100, (50, 2), generator=generator).float()
    corners = torch.cat([start, start + sizes], 1)
    return Boxes(corners, torch.zeros(50, dtype=torch.int64), torch.zeros(50, dtype=torch.bool))


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_found(seed: int) -> None:
    wanted = [(10, 14), (40, 30), (33, 90), (200, 180)]
    boxes = [cluster(*size, seed=i) for i, size in enumerate(wanted)]
    found = find_anchors(boxes, 4, seed=seed)
    for (width, height), (w, h) in zip(found, wanted, strict=True):
        assert abs(width - w) <= 0.05 * w + 1
        assert abs(height - h) <= 0.05 * h + 1
    assert anchor_overlap(boxes, found) > 0.9


def test_small_boxes_count_as_much_as_large_ones() -> None:
    """The distance is of shapes: squared pixels would give both anchors to the large boxes."""
    boxes = [cluster(10, 10, 0), cluster(300, 300, 1)]
    assert find_anchors(boxes, 2)[0] == pytest.approx((10, 10), abs=1)


def test_ignored_boxes_do_not_count_and_too_few_are_said() -> None:
    boxes = Boxes.of([((0, 0, 10, 10), 0), ((0, 0, 99, 99), 0)], ignored=[False, True])
    assert find_anchors([boxes], 1) == [(10, 10)]
    with pytest.raises(DataError, match="got 1 and 2"):
        find_anchors([boxes], 2)
    with pytest.raises(DataError, match="got 0 and 9"):
        find_anchors([], 9)
    with pytest.raises(InputError, match="wants boxes and anchors; got 0 and 1"):
        anchor_overlap([], [(3, 4)])


def test_bccd(shared: Path, tmp_path: Path) -> None:
    """Better than COCO's anchors on these boxes, and the same each time."""
    data = load_boxes(shared / "data/bccd-voc.tar", cache_dir=tmp_path, faulty="mend")
    boxes = Letterboxed(data.train, 416).boxes
    found = find_anchors(boxes, 6)
    assert found == find_anchors(boxes, 6)
    assert found == sorted(found, key=lambda size: size[0] * size[1])
    coco = [(10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319)]
    assert anchor_overlap(boxes, found) > 0.84
    assert anchor_overlap(boxes, coco) < 0.75


def test_anchors_are_pairs() -> None:
    with pytest.raises(InputError, match="pairs of width and height"):
        anchor_overlap([Boxes.of([((0, 0, 3, 4), 0)])], [(1, 2, 3)])  # type: ignore[list-item]
