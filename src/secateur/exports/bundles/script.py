"""The script of a bundle, put together from what the kind of task and the runtime say; it needs NumPy and Pillow."""

from __future__ import annotations

from secateur.data.preprocessing import Preprocessing
from secateur.runtimes import Runtime

__all__ = ["script"]

_HEAD = '''"""{summary}: python run.py IMAGE…"""

import json
import sys
from pathlib import Path

import numpy as np
{imports}
from PIL import Image

HERE = Path(__file__).resolve().parent
HOW = json.loads((HERE / "preprocessing.json").read_text("utf-8"))
LABELS = (HERE / "labels.txt").read_text("utf-8").splitlines()
FILE = str(HERE / "{file}")
{opening}


{prepare}


{results}
'''

# Pillow's own filters, as in training; `draft` lets JPEG files be decoded smaller.
_CROP = """def prepare(path):
    image, width, height = Image.open(path), HOW["width"], HOW["height"]
    image.draft(None, (width, height))
    image = image.convert(HOW["channels"])
    zoom = min(image.width / width, image.height / height)
    left, top = (image.width - width * zoom) / 2, (image.height - height * zoom) / 2
    image = image.resize((width, height), box=(left, top, left + width * zoom, top + height * zoom))
    pixels = np.asarray(image, np.float32).reshape(height, width, -1) / HOW["scale"]
    return ((pixels - HOW["mean"]) / HOW["std"]).transpose(2, 0, 1)[None].astype(np.float32)"""

_LETTERBOX = """def prepare(path):
    image, side = Image.open(path).convert(HOW["channels"]), HOW["width"]
    size = [max(1, round(length * (side / max(image.size)))) for length in image.size]
    place = tuple((side - length) // 2 for length in size)
    square = Image.new(image.mode, (side, side), (HOW["fill"],) * 3)
    square.paste(image.resize(size, Image.Resampling.BILINEAR), place)
    pixels = (np.asarray(square, np.float32) / HOW["scale"] - HOW["mean"]) / HOW["std"]
    prepare.back = np.array(place * 2), np.divide(size, image.size).tolist() * 2
    return pixels.transpose(2, 0, 1)[None].astype(np.float32)"""

_CLASSES = """if __name__ == "__main__":
    for path in sys.argv[1:]:
        scores = network(prepare(path))[0][0]
        odds = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        print(path, *(f"{LABELS[i]} {odds[i]:.1%}" for i in np.argsort(-odds)[:3]), sep="\\t")"""

_BOXES = """def overlap(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = np.prod(np.clip(high - low, 0, None))
    return both / max(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both, 1e-9)


def boxes(corners, scores, threshold=0.25, most_overlap=0.45):
    rows, labels = np.nonzero(scores > threshold)
    found = []
    for i in np.argsort(-scores[rows, labels], kind="stable"):
        box, label = corners[rows[i]], labels[i]
        if all(label != other or overlap(box, kept) <= most_overlap for other, kept, _ in found):
            found.append((label, box, scores[rows[i], label]))
    return found[:100]


if __name__ == "__main__":
    for path in sys.argv[1:]:
        corners, scores = network(prepare(path))
        (left_top, zoom), found = prepare.back, boxes(corners[0], scores[0])
        for label, box, score in found:
            print(path, LABELS[label], f"{score:.1%}", *np.round((box - left_top) / zoom, 1).tolist(), sep="\\t")"""

_KINDS = {
    "classification": ("Prints the most probable classes of images", _CLASSES),
    "detection": ("Prints the objects in images: class, score, left, top, right and bottom edge in pixels", _BOXES),
}


def script(kind: str, how: Preprocessing, runtime: Runtime, file: str) -> str:
    """The text of ``run.py``.

    Args:
        kind: Of the task: ``classification`` or ``detection``.
        how: How images are prepared.
        runtime: What runs the file.
        file: The file's name.
    """
    summary, results = _KINDS[kind]
    imports, _, opening = runtime.script.partition("\n\n")
    prepare = _LETTERBOX if how.fit == "letterbox" else _CROP
    return _HEAD.format(
        summary=summary, imports=imports, opening=opening, file=file, prepare=prepare, results=results
    )  # fmt: skip
