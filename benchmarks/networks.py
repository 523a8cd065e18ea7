"""Networks that the benchmarks share: by name, with random weights and randomised batch-norm statistics."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur import models

SHARED = Path(__file__).resolve().parents[2] / "shared"


class UNet(nn.Module):
    """Four levels, skip connections by concatenation, transposed convolutions on the way up."""

    def __init__(self, width: int = 32, classes: int = 2) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(_double(i, o) for i, o in zip([3, *sizes], sizes, strict=False))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * n, n, 2, 2) for n in reversed(sizes[:-1]))
        self.up = nn.ModuleList(_double(2 * n, n) for n in reversed(sizes[:-1]))
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            seen.append(x)
        for grow, block, skip in zip(self.grow, self.up, reversed(seen[:-1]), strict=True):
            x = block(torch.cat([skip, grow(x)], 1))
        return self.out(x)


def _double(i: int, o: int) -> nn.Sequential:
    parts = [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, nn.Conv2d(o, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(inplace=True))


def autoencoder(width: int = 32) -> nn.Module:
    """Strided convolutions down, transposed convolutions up."""
    w = (width, 2 * width, 4 * width)
    down = [
        m for i, o in zip((3, *w), w, strict=False) for m in (nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())
    ]
    up = [
        m
        for i, o in ((w[2], w[1]), (w[1], w[0]))
        for m in (nn.ConvTranspose2d(i, o, 4, 2, 1), nn.BatchNorm2d(o), nn.ReLU())
    ]
    return nn.Sequential(*down, *up, nn.ConvTranspose2d(w[0], 3, 4, 2, 1), nn.Sigmoid())


OPTIONS = {"torchvision:googlenet": {"aux_logits": False, "init_weights": False}}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Returns the network in eval mode and an input for it."""
    torch.manual_seed(0)
    if name == "resnet56":
        weights = SHARED / "models/resnet56-cifar10.safetensors"
        return models.create(name, weights=weights if weights.exists() else None).eval(), torch.randn(1, 3, 32, 32)
    if name in ("unet", "autoencoder"):
        return randomised(UNet() if name == "unet" else autoencoder()), torch.randn(1, 3, 128, 128)
    return randomised(models.create(name, **OPTIONS.get(name, {}))), torch.randn(1, 3, 224, 224)


def randomised(model: nn.Module) -> nn.Module:
    """Batch-norm statistics and scales away from zero and one, so that a wrong cut shows."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            n = len(module.running_mean)
            module.running_mean.copy_(torch.randn(n, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(n, generator=generator) + 0.5)
            with torch.no_grad():
                module.weight.copy_(torch.rand(n, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(n, generator=generator) * 0.1)
    return model.eval()
