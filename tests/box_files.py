"""One small data set with boxes, written in each of the three formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

Rows = Mapping[str, Sequence[tuple[str, tuple[float, float, float, float]]]]

CLASSES = ("cat", "dog", "owl")
SIZES = {"a": (40, 64), "b": (32, 32), "c": (48, 40), "d": (16, 80)}  # H, W
ROWS: dict[str, Rows] = {
    "train": {"a": [("cat", (0, 0, 64, 40)), ("owl", (8, 4, 24, 12))], "b": [("dog", (1, 2, 31, 30))]},
    "val": {"c": []},
    "test": {"d": [("owl", (40, 0, 80, 16))]},
}


def picture(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = SIZES[name]
    pixels = np.random.default_rng(ord(name)).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def voc(root: Path, rows: Mapping[str, Rows] = ROWS) -> Path:
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets/Main").mkdir(parents=True)
    for part, images in rows.items():
        (root / f"ImageSets/Main/{part}.txt").write_text("".join(f"{name}\n" for name in images))
        for name, boxes in images.items():
            picture(root / f"JPEGImages/{name}.png", name)
            (root / f"Annotations/{name}.xml").write_text(xml(name, boxes))
    return root


def xml(name: str, boxes: Sequence[tuple[str, tuple[float, float, float, float]]]) -> str:
    height, width = SIZES[name]
    lines = ["<annotation>", f"<filename>{name}.png</filename>"]
    lines.append(f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>")
    for label, (x1, y1, x2, y2) in boxes:
        corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        lines.append(f"<object><name>{label}</name><bndbox>{corners}</bndbox></object>")
    return "\n".join([*lines, "</annotation>"])


def coco_json(images: Rows) -> dict[str, object]:
    numbers = {name: 10 + i for i, name in enumerate(images)}
    pictures = [
        {"id": numbers[n], "file_name": f"{n}.png", "height": SIZES[n][0], "width": SIZES[n][1]} for n in images
    ]
    annotations = [
        {"id": i, "image_id": numbers[name], "category_id": 7 * CLASSES.index(label) + 1, "iscrowd": 0,
         "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for i, (name, label, (x1, y1, x2, y2)) in enumerate((n, *box) for n in images for box in images[n])
    ]  # fmt: skip
    categories = [{"id": 7 * i + 1, "name": name} for i, name in enumerate(CLASSES)]
    return {"info": {}, "images": pictures, "annotations": annotations, "categories": categories[::-1]}


def coco(root: Path, rows: Mapping[str, Rows] = ROWS) -> Path:
    (root / "annotations").mkdir(parents=True)
    for part, images in rows.items():
        for name in images:
            picture(root / f"{part}2017/{name}.png", name)
        (root / f"annotations/instances_{part}2017.json").write_text(json.dumps(coco_json(images)))
        (root / f"annotations/captions_{part}2017.json").write_text("[]")
    return root


def yolo(root: Path, rows: Mapping[str, Rows] = ROWS) -> Path:
    for part, images in rows.items():
        for name, boxes in images.items():
            picture(root / f"images/{part}/{name}.png", name)
            path = root / f"labels/{part}/{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            if boxes:
                path.write_text("".join(line(name, *box) for box in boxes))
    about = {"path": "../somewhere", **{part: f"images/{part}" for part in rows}, "names": dict(enumerate(CLASSES))}
    (root / "data.yaml").write_text(yaml.safe_dump(about))
    return root


def line(name: str, label: str, box: tuple[float, float, float, float]) -> str:
    (height, width), (x1, y1, x2, y2) = SIZES[name], box
    numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return f"{CLASSES.index(label)} {' '.join(f'{n:.8f}' for n in numbers)}\n"


ALL = {"train": {name: boxes for images in ROWS.values() for name, boxes in images.items()}}

WRITERS = {"voc": voc, "coco": coco, "yolo": yolo}
