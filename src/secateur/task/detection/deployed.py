"""A detector with its decoding in the graph: what an exported file gives is boxes and scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.models.darknet import Detection
from secateur.task.detection.decoding import decode

__all__ = ["DecodedDetector"]


class DecodedDetector(nn.Module):
    """A network of the YOLOv3 family that takes images and gives boxes; for ``secateur.export``.

    What stays outside is the letterbox before it, and the choice of boxes by score and overlap behind it
    (:func:`secateur.task.detection.detections`), which every place where a network runs has its own operator for.

    Attributes:
        network: Gives the raw maps.
        scales: What they mean.

    >>> from secateur.models import create
    >>> network = create("yolov3_tiny", classes=2)
    >>> corners, scores = DecodedDetector(network)(torch.zeros(1, 3, 64, 64))
    >>> tuple(corners.shape), tuple(scores.shape)
    ((1, 60, 4), (1, 60, 2))
    """

    def __init__(self, network: nn.Module, scales: Sequence[Detection] | None = None) -> None:
        """``scales`` are needed for networks that do not have ``detections`` themselves, such as graphs of a cut.

        Raises:
            InputError: The network says nothing of its scales, and they are not given.
        """
        super().__init__()
        network = network if isinstance(network, nn.Module) else getattr(network, "model", network)
        scales = getattr(network, "detections", None) if scales is None else scales
        if not isinstance(network, nn.Module) or not scales:
            raise InputError(
                f"DecodedDetector(scales=…) is needed for {type(network).__name__}, which has no detections itself: "
                "give those of the dense network, scales=dense.detections."
            )
        self.network, self.scales = network, tuple(scales)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) → corners in pixels of the input, (B, N, 4), and scores, (B, N, C)."""
        outputs = self.network(images)
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)
        return decode(outputs, self.scales, (images.shape[2], images.shape[3]))
