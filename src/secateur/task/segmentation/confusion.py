"""How often pixels of one class are taken for another: what mean intersection over union is computed from."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Confusion"]


class Confusion:
    """Sums over pixels: loss, counted pixels, and the confusion matrix; float64 on the CPU.

    IoU of a class: TP / (TP + FP + FN), over all pixels of all images; mIoU: the mean over the classes that occur in
    masks or predictions. Source: Everingham et al. 2015, The PASCAL VOC Challenge: A Retrospective, IJCV 111, §3.4.
    """

    def __init__(self, classes: int) -> None:
        """Nothing is added yet."""
        self._classes = classes
        self.sums: Tensor | None = torch.zeros(2 + classes * classes, dtype=torch.float64)

    def add(self, scores: Tensor, mask: Tensor, loss: float, pixels: int) -> None:
        """Adds a batch.

        Args:
            scores: (B, classes, H, W).
            mask: int64, (B, H, W); pixels beyond the classes are left out.
            loss: The mean over the counted pixels.
            pixels: How many these are.
        """
        assert self.sums is not None
        predicted, wanted = scores.argmax(1).flatten().cpu(), mask.flatten().cpu()
        counted = wanted < self._classes
        pairs = wanted[counted] * self._classes + predicted[counted]
        self.sums[:2] += torch.tensor([loss * pixels, pixels], dtype=torch.float64)
        self.sums[2:] += torch.bincount(pairs, minlength=self._classes**2).double()

    @property
    def matrix(self) -> Tensor:
        """float64, (classes, classes): pixels by their class (rows) and what they are taken for (columns)."""
        assert self.sums is not None
        return self.sums[2:].reshape(self._classes, self._classes)

    def iou(self) -> Tensor:
        """float64, (classes,): IoU of every class in 0…1, NaN for those that do not occur."""
        matrix = self.matrix
        hits = matrix.diagonal()
        return hits / (matrix.sum(0) + matrix.sum(1) - hits)

    def compute(self) -> dict[str, float]:
        """Mean IoU and pixel accuracy in percent, and the mean loss."""
        assert self.sums is not None
        loss, pixels = self.sums[:2].tolist()
        right = float(self.matrix.diagonal().sum()) / max(1.0, float(self.matrix.sum()))
        iou = self.iou()
        mean = float(iou[~iou.isnan()].mean()) if pixels else 0.0
        return {"miou": 100 * mean, "pixel_accuracy": 100 * right, "loss": loss / max(1.0, pixels)}
