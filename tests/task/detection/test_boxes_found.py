"""Overlap, suppression and decoding against plain Python in double precision."""

from __future__ import annotations

import math
import random

import pytest
import torch

from secateur.core.errors import InputError
from secateur.models import create
from secateur.models.darknet import Detection
from secateur.task.detection import Detections, ciou, decode, detections, iou, nms, nms_per_class, suppression
from secateur.task.detection.suppression import plain_nms

Box = tuple[float, float, float, float]


def naive_iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(one[2] - one[0]) * (one[3] - one[1]) for one in (a, b)]
    return width * height / (sum(areas) - width * height)


def naive_ciou(a: Box, b: Box) -> float:
    overlap = naive_iou(a, b)
    centres = [((one[0] + one[2]) / 2, (one[1] + one[3]) / 2) for one in (a, b)]
    wide, high = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    rho = math.dist(*centres) ** 2 / (wide**2 + high**2)
    angles = [math.atan((one[2] - one[0]) / (one[3] - one[1])) for one in (a, b)]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    return overlap - rho - v * v / ((1 - overlap) + v) if v else overlap - rho


def naive_nms(boxes: list[Box], scores: list[float], threshold: float) -> list[int]:
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    for i in order:
        if all(naive_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def drawn(count: int, seed: int, side: float = 100) -> list[Box]:
    """Random boxes on quarters of a pixel, so that float32 holds all numbers exactly."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        x, y = (rng.randrange(int(side * 4)) / 4 for _ in range(2))
        found.append((x, y, x + rng.randrange(4, 160) / 4, y + rng.randrange(4, 160) / 4))
    return found


def test_overlap() -> None:
    one, other = drawn(20, 1), drawn(15, 2)
    wanted = [[naive_iou(a, b) for b in other] for a in one]
    torch.testing.assert_close(iou(torch.tensor(one), torch.tensor(other)).double(), torch.tensor(wanted).double())
    pairs = list(zip(one, drawn(20, 3), strict=True))
    found = ciou(*(torch.tensor(boxes, dtype=torch.float64) for boxes in zip(*pairs, strict=True)))
    torch.testing.assert_close(found, torch.tensor([naive_ciou(a, b) for a, b in pairs], dtype=torch.float64))
    assert iou(torch.empty(0, 4), torch.tensor(one)).shape == (0, 20)


def test_complete_overlap_leads_to_the_box_from_anywhere() -> None:
    """Where boxes are apart, IoU is flat and CIoU is not; at the box both are 1."""
    wanted = torch.tensor([[10.0, 10, 30, 50]])
    box = torch.tensor([[60.0, 70, 90, 80]], requires_grad=True)
    optimizer = torch.optim.Adam([box], lr=1.0)
    for _ in range(400):
        optimizer.zero_grad()
        (1 - ciou(box, wanted)).sum().backward()
        assert box.grad is not None
        assert box.grad.isfinite().all()
        optimizer.step()
    assert float(iou(box.detach(), wanted)) > 0.9
    assert float(ciou(wanted, wanted)) == pytest.approx(1)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [0, 1, 60, 400])
def test_suppression(count: int, threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, rng = drawn(count, count), random.Random(7)
    scores = [rng.randrange(1, 40) / 64 for _ in boxes]  # many are equal
    wanted = naive_nms(boxes, scores, threshold)
    given = torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores)
    assert nms(*given, threshold).tolist() == wanted
    assert plain_nms(*given, threshold).tolist() == wanted
    monkeypatch.setattr(suppression, "_BLOCK", 7)
    assert plain_nms(*given, threshold).tolist() == wanted


def test_suppression_is_torchvisions_where_that_is_compiled() -> None:
    if not suppression.has_compiled():
        pytest.skip("torchvision is without its compiled operators here")
    boxes, scores = torch.tensor(drawn(300, 5)), torch.rand(300)
    assert torch.equal(nms(boxes, scores, 0.5), plain_nms(boxes, scores, 0.5))


def test_classes_leave_each_other_alone() -> None:
    boxes, labels, rng = drawn(200, 4, side=30), [i % 3 for i in range(200)], random.Random(3)
    scores = [rng.random() for _ in boxes]
    wanted = []
    for label in range(3):
        members = [i for i in range(200) if labels[i] == label]
        kept = naive_nms([boxes[i] for i in members], [scores[i] for i in members], 0.4)
        wanted += [members[i] for i in kept]
    wanted.sort(key=lambda i: -scores[i])
    found = nms_per_class(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels), 0.4)
    assert found.tolist() == wanted
    assert len(wanted) > len(naive_nms(boxes, scores, 0.4))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_decoding_is_the_papers_formula() -> None:
    scales = (Detection(0, ((10, 20), (30, 40)), 2), Detection(1, ((5, 6),), 2))
    outputs = [torch.randn(2, 14, 2, 3), torch.randn(2, 7, 4, 6)]
    corners, scores = decode(outputs, scales, (64, 96))
    assert corners.shape == (2, 2 * 2 * 3 + 4 * 6, 4)
    at = 0
    for output, scale in zip(outputs, scales, strict=True):
        height, width = output.shape[2:]
        for anchor, (wide, high) in enumerate(scale.anchors):
            for row in range(height):
                for column in range(width):
                    values = output[1, 7 * anchor : 7 * anchor + 7, row, column].tolist()
                    x, y = (
                        (sigmoid(v) + n) * s
                        for v, n, s in zip(values[:2], (column, row), (96 / width, 64 / height), strict=True)
                    )
                    w, h = wide * math.exp(values[2]), high * math.exp(values[3])
                    wanted = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
                    assert corners[1, at].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-3)
                    sure = [sigmoid(values[4]) * sigmoid(v) for v in values[5:]]
                    assert scores[1, at].tolist() == pytest.approx(sure, rel=1e-4)
                    at += 1


def test_wild_outputs_stay_finite() -> None:
    corners, scores = decode([torch.full((1, 7, 1, 1), 1e4)], (Detection(0, ((300, 300),), 2),), (32, 32))
    assert corners.isfinite().all()
    assert scores.eq(1).all()


def test_what_is_reported() -> None:
    corners = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]]] * 2)
    scores = torch.tensor([[[0.9, 0.3], [0.8, 0.6], [0.2, 0.1]], [[0.0, 0], [0, 0], [0, 0]]])
    first, second = detections(corners, scores, threshold=0.25)
    assert list(zip(first.labels.tolist(), first.scores.tolist(), strict=True)) == [
        (0, pytest.approx(0.9)),
        (1, pytest.approx(0.6)),
    ]
    assert len(second) == 0
    assert second.corners.shape == (0, 4)
    (most,) = detections(corners[:1], scores[:1], threshold=0, most=2, overlap=1.0)
    assert most.scores.tolist() == pytest.approx([0.9, 0.8])
    assert isinstance(most, Detections)


def test_wrong_arguments() -> None:
    network = create("yolov3_tiny", classes=2)
    with pytest.raises(InputError, match="one map a scale; got 1 maps and 2"):
        decode([torch.zeros(1, 21, 2, 2)], network.detections, (64, 64))
    with pytest.raises(InputError, match="3 anchors and 2 classes has 21 channels; got 24"):
        decode([torch.zeros(1, 24, 2, 2)] * 2, network.detections, (64, 64))
    with pytest.raises(InputError, match=r"boxes \(N, 4\) and one score"):
        nms(torch.zeros(3, 4), torch.zeros(2))
    with pytest.raises(InputError, match="an IoU in"):
        nms(torch.zeros(2, 4), torch.zeros(2), 1.5)
    with pytest.raises(InputError, match=r"corners \(B, N, 4\)"):
        detections(torch.zeros(1, 3, 4), torch.zeros(1, 2, 4))
    with pytest.raises(InputError, match="a score in"):
        detections(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), threshold=7.0)
