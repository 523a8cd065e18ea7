"""The loss against loops in double precision; assignment by hand; and a network that learns one image by heart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from darknet_cases import RESIDUAL
from secateur.core.errors import InputError
from secateur.data.boxes import Boxes
from secateur.models.darknet import Darknet, Detection
from secateur.models.darknet_cfg import parse_cfg
from secateur.task.detection import YoloLoss, assign, decode, detections

from .test_boxes_found import naive_ciou, naive_iou, sigmoid

SCALES = (Detection(0, ((30, 40), (60, 60)), 3), Detection(1, ((8, 8), (16, 10)), 3))
IMAGE = (64, 96)
CELLS = ((2, 3), (4, 6))


def test_a_box_goes_to_the_anchor_that_fits_best_in_the_cell_of_its_centre() -> None:
    boxes = [
        Boxes.of([((0, 0, 28, 40), 2), ((50, 30, 66, 41), 0)]),
        Boxes.of([]),
        Boxes.of([((88, 56, 96, 64), 1), ((0, 0, 50, 50), 1)], ignored=[False, True]),
    ]
    coarse, fine = assign(boxes, SCALES, CELLS, IMAGE)
    assert [t.tolist() for t in coarse.places] == [[0], [0], [0], [0]]
    assert coarse.labels.tolist() == [2]
    # centre (58, 35.5): column 58 / 16, row 35.5 / 16; centre (92, 60): the last cell; the ignored one nowhere
    assert [t.tolist() for t in fine.places] == [[0, 2], [1, 0], [2, 3], [3, 5]]
    assert fine.labels.tolist() == [0, 1]


def test_a_box_can_go_to_several_anchors() -> None:
    """28×40 overlaps 30×40 by 0.93, 60×60 by 0.31 and the small ones by less."""
    coarse, fine = assign([Boxes.of([((0, 0, 28, 40), 2)])], SCALES, CELLS, IMAGE, several=0.3)
    assert [t.tolist() for t in coarse.places] == [[0, 0], [0, 1], [0, 0], [0, 0]]
    assert len(fine.labels) == 0
    coarse, fine = assign([Boxes.of([((0, 0, 28, 40), 2)])], SCALES, CELLS, IMAGE, several=0.0)
    assert (len(coarse.labels), len(fine.labels)) == (2, 2)
    assert fine.corners.tolist() == [[0, 0, 28, 40]] * 2


def test_a_centre_on_the_edge_lies_in_the_last_cell() -> None:
    _, fine = assign([Boxes.of([((92, 60, 100, 68), 0)])], SCALES, CELLS, IMAGE)
    assert (fine.row.tolist(), fine.column.tolist()) == ([3], [5])


def bce(logit: float, wanted: float) -> float:
    p = sigmoid(logit)
    return -(wanted * math.log(p) + (1 - wanted) * math.log(1 - p))


def by_loops(outputs: list[Tensor], boxes: list[Boxes], ignore: float, several: float) -> tuple[float, float, float]:
    """Box, objectness and classes, place by place."""
    found = assign(boxes, SCALES, CELLS, IMAGE, several=several)
    count = max(1, sum(len(one.labels) for one in found))
    totals = [0.0, 0.0, 0.0]
    for output, scale, mine in zip(outputs, SCALES, found, strict=True):
        corners, _ = decode([output], [scale], IMAGE)
        height, width = output.shape[2:]
        given = {tuple(place): i for i, place in enumerate(torch.stack(mine.places, 1).tolist())}
        for image in range(len(boxes)):
            for anchor in range(2):
                for row in range(height):
                    for column in range(width):
                        values = output[image, 8 * anchor : 8 * anchor + 8, row, column].tolist()
                        box = tuple(corners[image, (anchor * height + row) * width + column].tolist())
                        near = max((naive_iou(box, tuple(b)) for b in boxes[image].corners.tolist()), default=0)
                        at = given.get((image, anchor, row, column))
                        if at is not None:
                            totals[0] += 1 - naive_ciou(box, tuple(mine.corners[at].tolist()))
                            totals[1] += bce(values[4], 1)
                            label = int(mine.labels[at])
                            totals[2] += sum(bce(v, float(i == label)) for i, v in enumerate(values[5:]))
                        elif near <= ignore:
                            totals[1] += bce(values[4], 0)
    return totals[0] / count, totals[1] / count, totals[2] / count


@pytest.mark.parametrize(("ignore", "several"), [(0.2, 1.0), (0.7, 1.0), (0.7, 0.3)])
def test_the_loss_is_what_loops_give(ignore: float, several: float) -> None:
    boxes = [
        Boxes.of([((0, 0, 28, 40), 2), ((50, 30, 66, 41), 0), ((20, 0, 90, 60), 1)]),
        Boxes.of([]),
        Boxes.of([((88, 56, 96, 64), 1), ((0, 0, 50, 50), 1)], ignored=[False, True]),
    ]
    outputs = [torch.randn(3, 16, *cells) for cells in CELLS]
    parts = YoloLoss(SCALES, ignore=ignore, several=several)(outputs, boxes, IMAGE)
    wanted = by_loops(outputs, boxes, ignore, several)
    assert [float(parts.box), float(parts.objectness), float(parts.classes)] == pytest.approx(wanted, rel=1e-4)
    assert float(parts.total) == pytest.approx(2 * wanted[0] + wanted[1] + wanted[2], rel=1e-4)
    other = YoloLoss(SCALES, ignore=ignore, several=several, box=0, objectness=0, classes=3)(outputs, boxes, IMAGE)
    assert float(other.total) == pytest.approx(3 * wanted[2], rel=1e-4)


def test_a_batch_without_objects_has_a_loss_and_a_gradient() -> None:
    outputs = [torch.zeros(2, 16, *cells, requires_grad=True) for cells in CELLS]
    parts = YoloLoss(SCALES)(outputs, [Boxes.of([]), Boxes.of([])], IMAGE)
    parts.total.backward()
    assert float(parts.total.detach()) == pytest.approx(2 * (6 + 24) * 2 * math.log(2), rel=1e-5)
    assert float(parts.box) == 0
    for output in outputs:
        assert output.grad is not None
        assert output.grad.isfinite().all()


def test_two_images_are_learned_by_heart() -> None:
    boxes = [Boxes.of([((2, 3, 16, 20), 0), ((20, 16, 28, 26), 3)]), Boxes.of([((10, 10, 14, 13), 1)])]
    network = Darknet(parse_cfg(RESIDUAL))
    images, loss = torch.rand(2, 3, 32, 32), YoloLoss(network.detections)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(150):
        parts = loss(network(images), boxes, (32, 32))
        optimizer.zero_grad()
        parts.total.backward()
        optimizer.step()
    corners, scores = decode(network(images), network.detections, (32, 32))  # in training mode, as it was trained
    for one, wanted in zip(detections(corners.detach(), scores.detach(), threshold=0.5), boxes, strict=True):
        assert sorted(one.labels.tolist()) == wanted.labels.tolist()
        for corner, label in zip(one.corners.tolist(), one.labels.tolist(), strict=True):
            (there,) = wanted.corners[wanted.labels == label].tolist()
            assert naive_iou(tuple(corner), tuple(there)) > 0.8


def test_wrong_arguments() -> None:
    loss, outputs = YoloLoss(SCALES), [torch.zeros(1, 16, *cells) for cells in CELLS]
    with pytest.raises(InputError, match="2 scales and boxes for every image; got maps of"):
        loss(outputs[:1], [Boxes.of([])], IMAGE)
    with pytest.raises(InputError, match="2 lists of boxes"):
        loss(outputs, [Boxes.of([])] * 2, IMAGE)
    with pytest.raises(InputError, match="the label 3; the network tells 3 classes apart"):
        loss(outputs, [Boxes.of([((0, 0, 8, 8), 3)])], IMAGE)
    with pytest.raises(InputError, match="16 channels; got 14"):
        loss([torch.zeros(1, 14, 2, 3), outputs[1]], [Boxes.of([])], IMAGE)
