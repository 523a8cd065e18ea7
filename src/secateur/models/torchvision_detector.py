"""torchvision's detectors as networks of one tensor: images in, the maps of their heads out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.core import arguments
from secateur.core.checks import is_torchvision_detector
from secateur.core.errors import InputError
from secateur.core.modes import evaluating

__all__ = ["TorchvisionDetector"]


@arguments.checked
class TorchvisionDetector(nn.Module):
    """A detector of torchvision, which can be cut, timed and exported as one network with its heads.

    torchvision's own call takes lists of images and gives losses, or boxes whose number only the images decide, which
    no graph describes. This one takes a tensor too, and gives what the heads say before any box is chosen: the maps,
    in the order in which torchvision computes them. Given a list it does what torchvision does.

    Of two-stage detectors (Faster R-CNN, Mask R-CNN, Keypoint R-CNN) the second stage sees as many regions as the
    first one leaves at most (``rpn.post_nms_top_n``), so that its cost counts as it does in use; what is in the regions
    is the pooled whole image, level after level, as no box has been chosen.

    Args:
        detector: torchvision's network; it is held, not copied.
        regions: Regions of an image that the second stage sees; by default as many as the detector leaves at most.

    Raises:
        InputError: Another network.

    >>> from secateur.models import create
    >>> network = create("torchvision:ssdlite320_mobilenet_v3_large", classes=3).eval()
    >>> boxes, scores = network(torch.zeros(1, 3, 64, 64))  # raw, (B, anchors, 4) and (B, anchors, classes)
    >>> boxes.shape[2], scores.shape[2], len(network.detector.state_dict()) == len(network.state_dict())
    (4, 4, True)
    """

    detector: Any

    def __init__(self, detector: nn.Module, regions: int | None = None) -> None:
        """Reads nothing but the kind."""
        super().__init__()
        if not is_torchvision_detector(detector):
            raise InputError(
                f"TorchvisionDetector wants a detector of torchvision (Faster R-CNN, RetinaNet, FCOS, SSD and their "
                f"kin); got {type(detector).__name__}."
            )
        self.detector, self.regions = detector, regions

    def forward(self, images: Tensor | Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        """The maps of all heads for a tensor (B, 3, H, W) in 0…1; for a list of images, what torchvision gives."""
        if not isinstance(images, Tensor):
            return self.detector(list(images), None if targets is None else [dict(one) for one in targets])
        features = self.detector.backbone(self._prepared(images))
        named: dict[str, Tensor] = {"0": features} if isinstance(features, Tensor) else dict(features)
        levels = list(named.values())
        if not hasattr(self.detector, "roi_heads"):
            return tuple(_tensors(self.detector.head(levels)))
        return (*_tensors(self.detector.rpn.head(levels)), *self._second_stage(named))

    def found(self, maps: Sequence[Tensor], images: Sequence[Tensor]) -> list[dict[str, Tensor]] | None:
        """The boxes that torchvision makes of maps which a file of this network gave for these images.

        ``None`` for two-stage detectors: their second stage has to see the regions that the first one chose.
        """
        if hasattr(self.detector, "roi_heads"):
            return None
        head, own = self.detector.head, self.detector.head.forward
        told = mock.patch.object(head, "forward", lambda levels: dict(zip(own(levels), maps, strict=True)))
        with told, torch.no_grad(), evaluating(self.detector):
            boxes: list[dict[str, Tensor]] = self.detector(list(images))
        return boxes

    def _prepared(self, images: Tensor) -> Tensor:
        """What torchvision's ``transform`` does in evaluation mode, for images of one size."""
        transform = self.detector.transform
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (transform.image_mean, transform.image_std))
        height, width = images.shape[-2:]
        if transform.fixed_size is not None:
            size = (transform.fixed_size[1], transform.fixed_size[0])
        else:
            scale = min(transform.min_size[-1] / min(height, width), transform.max_size / max(height, width))
            size = (math.floor(height * scale), math.floor(width * scale))
        images = F.interpolate((images - mean) / std, size=size, mode="bilinear", align_corners=False)
        down, right = (-side % transform.size_divisible for side in size)
        return F.pad(images, (0, right, 0, down)) if down or right else images

    def _second_stage(self, features: dict[str, Tensor]) -> list[Tensor]:
        """What the heads of regions say: classes and boxes, then masks and key points where there are any."""
        heads: Any = self.detector.roi_heads
        regions = self.regions or self.detector.rpn._post_nms_top_n["testing"]
        pooled = _pooled(features, heads.box_roi_pool, regions)
        found = _tensors(heads.box_predictor(heads.box_head(pooled)))
        for kind in ("mask", "keypoint"):
            if getattr(heads, f"{kind}_roi_pool", None) is not None:
                boxes = min(regions, heads.detections_per_img)
                pooled = _pooled(features, getattr(heads, f"{kind}_roi_pool"), boxes)
                hidden = getattr(heads, f"{kind}_head")(pooled)
                found += _tensors(getattr(heads, f"{kind}_predictor")(hidden))
        return found


def _pooled(features: dict[str, Tensor], pool: Any, regions: int) -> Tensor:
    """(B · regions, C, h, w): the whole image's features of every level, over and over."""
    levels = [features[name] for name in pool.featmap_names if name in features]
    maps = [F.adaptive_avg_pool2d(level, tuple(pool.output_size)) for level in levels]
    share, more = divmod(regions, len(maps))
    counts = [share + (number < more) for number in range(len(maps))]
    wide = [one.unsqueeze(1).expand(-1, count, -1, -1, -1) for one, count in zip(maps, counts, strict=True) if count]
    return torch.cat(wide, 1).flatten(0, 1)


def _tensors(value: Any) -> list[Tensor]:
    """All tensors of what a head gives: a tensor, or tuples, lists and dicts of them."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value
    return [tensor for part in parts for tensor in _tensors(part)]
