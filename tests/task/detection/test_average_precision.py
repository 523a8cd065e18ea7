"""Average precision: a case worked out by hand, and COCO's own code on real images with disturbed boxes."""

from __future__ import annotations

import contextlib
import io
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from secateur.core.errors import InputError
from secateur.data.boxes import Boxes, BoxSplit, load_boxes
from secateur.task.detection import AveragePrecision, Detections
from secateur.task.detection import average_precision as module

BACKENDS = [name for name in ("faster_coco_eval", "pycocotools") if find_spec(name)]
if not BACKENDS or find_spec("torchmetrics") is None:
    pytest.skip('the extra is not installed: pip install "secateur[detection]"', allow_module_level=True)


def found(*rows: tuple[tuple[float, float, float, float], float, int]) -> Detections:
    corners, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(
        torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )


A, B, C = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_worked_out_by_hand(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three objects of one class. Found, the surest first: right, wrong, right (IoU 0.8), right in another image.

    At 0.5: precisions 1, 1/2, 2/3, 3/4 at recalls 1/3, 1/3, 2/3, 1; made to fall: 1 up to 1/3, then 3/4. Of the 101
    recalls 0, 0.01 … 1, 34 lie at or below 1/3. From 0.85 on the third is wrong too: 1 up to 1/3, and 2/4 up to 2/3.
    """
    monkeypatch.setattr(module, "_BACKENDS", (backend,))
    metric = AveragePrecision(["none", "cell"])
    eight = (20.0, 0.0, 28.0, 10.0)
    metric.update([found((A, 0.9, 1), ((60, 60, 70, 70), 0.8, 1), (eight, 0.7, 1))], [Boxes.of([(A, 1), (B, 1)])])
    metric.update([found((C, 0.6, 1))], [Boxes.of([(C, 1)])])
    half = (34 * 1 + 67 * 0.75) / 101
    high = (34 * 1 + 33 * 0.5) / 101
    score = metric.compute()
    assert score.map50 == pytest.approx(half, abs=1e-6)
    assert score.map == pytest.approx((7 * half + 3 * high) / 10, abs=1e-6)
    assert score.per_class50 == {"cell": pytest.approx(half, abs=1e-6)}
    assert list(score.per_class) == ["cell"]
    metric.reset()
    metric.update([found((A, 0.9, 0))], [Boxes.of([(A, 0)])])
    assert metric.compute().map == pytest.approx(1)


def test_what_is_ignored_counts_neither_way() -> None:
    metric = AveragePrecision(["cell"])
    boxes = Boxes.of([(A, 0), (B, 0)], ignored=[False, True])
    metric.update([found((B, 0.9, 0), (A, 0.5, 0))], [boxes])
    assert metric.compute().map == pytest.approx(1)


def test_nothing_found_and_nothing_there() -> None:
    metric = AveragePrecision(["cell", "dog"])
    metric.update([found()], [Boxes.of([(A, 0)])])
    score = metric.compute()
    assert (score.map50, score.map, dict(score.per_class)) == (0, 0, {"cell": 0})
    metric.reset()
    metric.update([found((A, 0.9, 0))], [Boxes.of([])])
    score = metric.compute()
    assert math.isnan(score.map50)
    assert score.per_class == {}


def test_wrong_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = AveragePrecision(["cell"])
    with pytest.raises(InputError, match="got 1 and 2"):
        metric.update([found()], [Boxes.of([])] * 2)
    with pytest.raises(InputError, match="names for 1 classes, from 0 on; got labels from 1 to 1"):
        metric.update([found((A, 0.9, 1))], [Boxes.of([])])
    monkeypatch.setattr(module, "_BACKENDS", ("no_such_backend",))
    with pytest.raises(InputError, match=r"faster-coco-eval or pycocotools: pip install \"secateur\[detection\]\""):
        AveragePrecision(["cell"])


def disturbed(split: BoxSplit) -> list[Detections]:
    """Each image's boxes moved and scaled a little, some lost, some of another class, some where nothing is."""
    generator = torch.Generator().manual_seed(5)
    results = []
    for boxes, (height, width) in zip(split.boxes, split.sizes, strict=True):
        kept = torch.rand(len(boxes), generator=generator) > 0.15
        corners, labels = boxes.corners[kept], boxes.labels[kept].clone()
        sizes = (corners[:, 2:] - corners[:, :2]).repeat(1, 2)
        corners = corners + 0.12 * sizes * torch.randn(corners.shape, generator=generator)
        corners = torch.cat([torch.minimum(corners[:, :2], corners[:, 2:] - 1), corners[:, 2:]], 1)
        other = torch.rand(len(labels), generator=generator) < 0.1
        labels[other] = (labels[other] + 1) % 80
        extra = torch.rand(3, 4, generator=generator) * torch.tensor([width, height, 40, 40])
        extra[:, 2:] += extra[:, :2] + 1
        corners = torch.cat([corners, extra])
        labels = torch.cat([labels, torch.randint(0, 80, (3,), generator=generator)])
        results.append(Detections(corners, torch.rand(len(labels), generator=generator), labels))
    return results


@pytest.mark.parametrize("backend", BACKENDS)
def test_coco128_as_cocos_own_code_counts(
    shared: Path, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="COCO's own code is not installed: pip install pycocotools")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    monkeypatch.setattr(module, "_BACKENDS", (backend,))
    data = load_boxes(shared / "data/coco128-yolo-416.tar", cache_dir=tmp_path, faulty="mend")
    results = disturbed(data.test)
    metric = AveragePrecision(data.classes)
    metric.update(results, data.test.boxes)
    score = metric.compute()
    there, rows = coco.COCO(), []
    there.dataset = {"images": [], "annotations": [], "categories": [{"id": i} for i in range(80)], "info": {}}
    for image, (one, boxes) in enumerate(zip(results, data.test.boxes, strict=True)):
        there.dataset["images"].append({"id": image})
        for (x1, y1, x2, y2), label in zip(boxes.corners.tolist(), boxes.labels.tolist(), strict=True):
            row = {"image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
            row |= {"id": len(there.dataset["annotations"]) + 1, "area": (x2 - x1) * (y2 - y1)}
            there.dataset["annotations"].append(row)
        for (x1, y1, x2, y2), label, sure in zip(
            one.corners.tolist(), one.labels.tolist(), one.scores.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"image_id": image, "category_id": label, "bbox": box, "score": sure})
    with contextlib.redirect_stdout(io.StringIO()):
        there.createIndex()
        judge = cocoeval.COCOeval(there, there.loadRes(rows), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert score.map == pytest.approx(judge.stats[0], abs=1e-6)
    assert score.map50 == pytest.approx(judge.stats[1], abs=1e-6)
    assert 0.2 < score.map < score.map50 < 0.8, "the disturbance is neither nothing nor everything"
    precision = judge.eval["precision"]
    for label, name in enumerate(data.classes):
        kept = precision[0, :, label, 0, -1]
        if (kept > -1).any():
            assert score.per_class50[name] == pytest.approx(kept[kept > -1].mean(), abs=1e-6)
        else:
            assert name not in score.per_class50


def test_nothing_was_added() -> None:
    metric = AveragePrecision(["cat"])
    assert math.isnan(metric.compute().map)
    metric.update([], [])
    assert math.isnan(metric.compute().map50)
    metric.update([Detections(torch.rand(0, 4), torch.rand(0), torch.zeros(0).long())], [Boxes.of([((0, 0, 4, 4), 0)])])
    assert metric.compute().map == 0
    metric.reset()
    assert metric.compute().per_class == {}


def test_labels_without_a_name_are_named() -> None:
    found = Detections(torch.rand(2, 4), torch.rand(2), torch.tensor([-1, 0]))
    with pytest.raises(InputError, match="1 classes, from 0 on; got labels from -1 to 0"):
        AveragePrecision(["cat"]).update([found], [Boxes.of([])])
