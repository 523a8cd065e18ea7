"""A small network as a Darknet file, and statistics that keep an untrained one's values near 1."""

from __future__ import annotations

import torch
from torch import nn


def settled(model: nn.Module) -> nn.Module:
    """A network whose batch normalisations have statistics that keep values near 1."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, low, high in (("weight", 0.4, 0.8), ("bias", -0.3, 0.3), ("running_mean", -0.3, 0.3)):
                nn.init.uniform_(getattr(module, name), low, high, generator=generator)
            nn.init.uniform_(module.running_var, 0.7, 1.3, generator=generator)
    return model.eval()


def blocks(kind: str, *options: str) -> str:
    return "\n".join([f"[{kind}]", *options]) + "\n\n"


def convolution(filters: int, size: int = 3, stride: int = 1) -> str:
    sizes = (f"filters={filters}", f"size={size}", f"stride={stride}", "pad=1")
    return blocks("convolutional", "batch_normalize=1", *sizes, "activation=leaky")


def yolo(filters: int, mask: str) -> str:
    last = blocks("convolutional", f"filters={filters}", "size=1", "stride=1", "pad=1", "activation=linear")
    return last + blocks("yolo", f"mask={mask}", "anchors=4,4, 8,8, 16,16", "classes=4", "num=3", "ignore_thresh=.7")


BLOCK = convolution(8, 1) + convolution(16) + blocks("shortcut", "from=-3", "activation=linear")
RESIDUAL = "".join([
    blocks("net", "width=32", "height=32", "channels=3", "learning_rate=0.001"),
    convolution(8), convolution(16, 3, 2), BLOCK, BLOCK, BLOCK,  # layers 0 to 10
    convolution(32, 3, 2), convolution(16, 1), convolution(32), blocks("shortcut", "from=-3", "activation=linear"),
    yolo(18, "1,2"), blocks("route", "layers=-3"), convolution(8, 1), blocks("upsample", "stride=2"),
    blocks("route", "layers=-1, 10"), convolution(16), yolo(9, "0"),
])  # fmt: skip
"""Four residual blocks, routes that count back and one that names layer 10, two detection scales."""
