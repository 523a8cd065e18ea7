"""FastestDet (COCO, 352×352) cut without labels: what is left of mAP@.5 at 70 % and 50 % of the multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
SIDE = 352


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, relu: bool = True) -> list[nn.Module]:
    """A convolution with batch norm; one of more than one pixel keeps the channels apart."""
    depthwise = inputs if kernel > 1 and inputs == outputs else 1
    made = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=depthwise, bias=False)
    return [made, nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else [])]


class Block(nn.Module):
    """A block of ShuffleNetV2: one that halves the map works on all channels twice, the others on every second one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.branch_main = nn.Sequential(
            *conv(inputs, half), *conv(half, half, 3, stride, relu=False), *conv(half, outputs - inputs)
        )
        if stride == 2:
            self.branch_proj = nn.Sequential(*conv(inputs, inputs, 3, 2, relu=False), *conv(inputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "branch_proj"):
            return torch.cat([self.branch_proj(x), self.branch_main(x)], 1)
        kept, changed = x.unflatten(1, (-1, 2)).unbind(2)
        return torch.cat([kept, self.branch_main(changed)], 1)


class Backbone(nn.Module):
    """ShuffleNetV2 with 48, 96 and 192 channels; gives the maps at strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(*conv(3, 24, 3, 2))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 24
        for stage, (blocks, outputs) in enumerate([(4, 48), (8, 96), (4, 192)], start=2):
            later = [Block(outputs // 2, outputs, 1) for _ in range(blocks - 1)]
            setattr(self, f"stage{stage}", nn.Sequential(Block(inputs, outputs, 2), *later))
            inputs = outputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.stage2(self.maxpool(self.first_conv(x)))
        middle = self.stage3(fine)
        return fine, middle, self.stage4(middle)


class Named(nn.Module):
    """Layers under one name, as the weights file has them."""

    def __init__(self, name: str, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = getattr(self, self.name)(x)
        return found


class Pyramid(nn.Module):
    """One, two and three depthwise 5×5 convolutions side by side, and a shortcut."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.Conv1x1 = Named("conv1x1", conv(inputs, width))
        self.S1, self.S2, self.S3 = (
            nn.Sequential(*(layer for _ in range(depth) for layer in conv(width, width, 5))) for depth in (1, 2, 3)
        )
        self.output = nn.Sequential(*conv(3 * width, width, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv1x1(x)
        return torch.relu(x + self.output(torch.cat([self.S1(x), self.S2(x), self.S3(x)], 1)))


class Head(nn.Module):
    """Objectness in 0…1, four numbers of a box, shares of the classes: (B, 1 + 4 + classes, H, W)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = Named("conv1x1", conv(width, width))
        self.obj_layers, self.reg_layers, self.cls_layers = (
            Named("conv5x5", [*conv(width, width, 5), *conv(width, outputs, relu=False)]) for outputs in (1, 4, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1x1(x)
        return torch.cat([self.obj_layers(x).sigmoid(), self.reg_layers(x), self.cls_layers(x).softmax(1)], 1)


class FastestDet(nn.Module):
    """The detector: three maps of the backbone at stride 16, a pyramid, a head of one scale without anchors."""

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.upsample = nn.Upsample(scale_factor=2)
        self.avg_pool = nn.AvgPool2d(3, 2, 1)
        self.SPP = Pyramid(48 + 96 + 192, 96)
        self.detect_head = Head(96, classes)

    def forward(self, x: Tensor) -> Tensor:
        fine, middle, coarse = self.backbone(x)
        found: Tensor = self.detect_head(self.SPP(torch.cat([self.avg_pool(fine), middle, self.upsample(coarse)], 1)))
        return found
