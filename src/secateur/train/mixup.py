"""Mixup: training on blends of two images and of their labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.train.extras import Extra

__all__ = ["Mixup"]


class Mixup(Extra):
    """Blends every batch with itself in another order: x = λ·xᵢ + (1 − λ)·xⱼ, λ ~ Beta(α, α), labels alike.

    Source: Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization, arXiv:1710.09412, §2.

    Args:
        alpha: α; 0.2 blends little, 1 draws λ uniformly.
        classes: Number of classes.

    Raises:
        InputError: α is not positive.
    """

    def __init__(self, alpha: float, classes: int) -> None:
        """Random numbers come from the global generator, which every epoch seeds."""
        if not alpha > 0:
            raise InputError(f"The alpha of mixup is a positive number; got {alpha}.")
        self.alpha, self.classes = alpha, classes

    def settings(self) -> dict[str, Any]:
        """The strength."""
        return {"extra": "Mixup", "alpha": self.alpha}

    def batch(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Blended images (B, C, H, W) and class probabilities (B, classes)."""
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        order = torch.randperm(len(inputs)).to(inputs.device)
        targets = F.one_hot(labels, self.classes).float() if labels.ndim == 1 else labels
        return torch.lerp(inputs[order], inputs, share), torch.lerp(targets[order], targets, share)
