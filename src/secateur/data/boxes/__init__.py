"""Images with boxes: COCO JSON, Pascal VOC XML and YOLO text, as folder, tar or zip."""

from __future__ import annotations

from secateur.data.boxes.annotated import Boxes, BoxSet, BoxSplit, Image
from secateur.data.boxes.canvas import digits_on_canvas
from secateur.data.boxes.letterbox import Letterboxed, Placement, collate, letterbox, placement
from secateur.data.boxes.load import FORMATS, load_boxes

__all__ = [
    "FORMATS", "BoxSet", "BoxSplit", "Boxes", "Image", "Letterboxed", "Placement", "collate", "digits_on_canvas",
    "letterbox", "load_boxes", "placement",
]  # fmt: skip
