"""Detection: anchors, augmentation, the loss of YOLOv3, decoding, suppression and average precision."""

from __future__ import annotations

from secateur.task.detection.anchors import anchor_overlap, find_anchors
from secateur.task.detection.average_precision import AveragePrecision, MeanPrecision
from secateur.task.detection.box_augment import BoxAugment
from secateur.task.detection.decoding import Detections, decode, detections
from secateur.task.detection.deployed import DecodedDetector
from secateur.task.detection.overlap import ciou, iou
from secateur.task.detection.suppression import nms, nms_per_class
from secateur.task.detection.task import Detection
from secateur.task.detection.yolo_loss import YoloLoss, YoloParts, assign

__all__ = [
    "AveragePrecision", "BoxAugment", "DecodedDetector", "Detection", "Detections", "MeanPrecision", "YoloLoss",
    "YoloParts",
    "anchor_overlap", "assign", "ciou", "decode", "detections", "find_anchors", "iou", "nms", "nms_per_class",
]  # fmt: skip
