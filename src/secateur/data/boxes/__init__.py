"""Images with boxes: COCO JSON, Pascal VOC XML and YOLO text, as folder, tar or zip."""

from __future__ import annotations

from secateur.data.boxes.annotated import Boxes, BoxSet, BoxSplit
from secateur.data.boxes.load import FORMATS, load_boxes

__all__ = ["FORMATS", "BoxSet", "BoxSplit", "Boxes", "load_boxes"]
