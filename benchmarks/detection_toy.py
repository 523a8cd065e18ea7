"""Toy: YOLOv3-tiny in small squares, for a minute on one thread: the loss falls, average precision rises.

    python benchmarks/detection_toy.py                       BCCD, 60 seconds at 160×160, about 80 s in all
    python benchmarks/detection_toy.py --data digits --square 64      digits on a canvas

No claim of accuracy: it shows that the parts of detection fit together. Writes results/detection_toy.json,
by data set.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.data.boxes import Boxes, BoxSplit, Letterboxed, collate, digits_on_canvas, load_boxes
from secateur.models import create
from secateur.task.detection import (
    AveragePrecision,
    BoxAugment,
    YoloLoss,
    anchor_overlap,
    decode,
    detections,
    find_anchors,
)  # fmt: skip

HERE = Path(__file__).resolve().parent
BATCH = 8


def scaled(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def batches(data: BoxSplit, augment: BoxAugment, generator: torch.Generator) -> Iterator[tuple[Tensor, list[Boxes]]]:
    """One epoch in an order of its own."""
    order = torch.randperm(len(data), generator=generator).tolist()
    for start in range(0, len(order) - BATCH + 1, BATCH):
        images = []
        for index in order[start : start + BATCH]:
            chosen = torch.randint(len(data), (3,), generator=generator).tolist()
            images.append(augment(data[index], generator, [data[i] for i in chosen]))
        yield collate(images)


@torch.no_grad()
def score(network: nn.Module, data: BoxSplit, classes: tuple[str, ...]) -> dict[str, Any]:
    metric = AveragePrecision(classes)
    network.eval()
    for start in range(0, len(data), BATCH):
        pixels, boxes = collate([data[i] for i in range(start, min(start + BATCH, len(data)))])
        size = (pixels.shape[2], pixels.shape[3])
        corners, scores = decode(network(scaled(pixels)), network.detections, size)
        metric.update(detections(corners, scores, threshold=0.001), boxes)
    network.train()
    found = metric.compute()
    return {"map50": found.map50, "map": found.map, "per_class50": dict(found.per_class50)}


def train(data: Path, seconds: float, square: int, cache: Path | None) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    found = digits_on_canvas() if str(data) == "digits" else load_boxes(data, faulty="mend", cache_dir=cache)
    images, test = (Letterboxed(split, square).in_memory() for split in (found.train, found.test))
    anchors = find_anchors(images.boxes, 6)
    network = create("yolov3_tiny", classes=len(found.classes), anchors=anchors)
    loss = YoloLoss(network.detections)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    augment = BoxAugment(flip=0.0 if str(data) == "digits" else 0.5, colour=0.1, mosaic=0.2, scale=0.2)
    before, losses, steps, began = score(network, test, found.classes), [], 0, time.monotonic()
    while time.monotonic() - began < seconds:
        epoch = []
        for pixels, boxes in batches(images, augment, generator):
            share = min(1.0, (time.monotonic() - began) / seconds)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1.0, (steps + 1) / 20) * max(0.02, 1 - share)
            parts = loss(network(scaled(pixels)), boxes, (square, square))
            optimizer.zero_grad()
            parts.total.backward()
            optimizer.step()
            epoch.append(float(parts.total.detach()))
            steps += 1
        losses.append(sum(epoch) / len(epoch))
        print(f"epoch {len(losses)}: loss {losses[-1]:.3f}", flush=True)
    return {
        "seconds": round(time.monotonic() - began, 1), "square": square, "steps": steps, "anchors": anchors,
        "anchor_overlap": round(anchor_overlap(images.boxes, anchors), 3), "losses": [round(x, 3) for x in losses],
        "before": before, "after": score(network, test, found.classes), "test_images": len(test),
        "machine": platform.processor() or platform.machine(), "torch": torch.__version__,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data/bccd-voc.tar")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--square", type=int, default=160)
    parser.add_argument("--cache", type=Path)
    given = parser.parse_args()
    result = train(given.data, given.seconds, given.square, given.cache)
    path = HERE / "results/detection_toy.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known[given.data.name.removesuffix(".tar")] = result
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
