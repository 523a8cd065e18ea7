"""The built-in Darknet networks as the texts of their ``.cfg`` files, whose layers are numbered from 0.

Darknet-53 and YOLOv3: Redmon & Farhadi, arXiv:1804.02767. YOLOv3-tiny: the public ``yolov3-tiny.cfg``. Mini-YOLOv3
after Mao et al., IEEE Access 7 (2019), doi:10.1109/ACCESS.2019.2941547: built from what its abstract says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from secateur.core.errors import InputError

__all__ = ["Anchors", "darknet53_cfg", "mini_yolov3_cfg", "yolov3_cfg", "yolov3_tiny_cfg"]

Anchors = Sequence[tuple[int, int]]
"""Widths and heights of boxes in pixels of the input, the smallest first."""

_STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
"""Channels and residual blocks of Darknet-53's five stages: 23 blocks."""

_COCO: Anchors = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
_COCO_TINY: Anchors = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))
"""Of the public files: k-means over COCO's boxes."""


class _Text:
    """A text that grows layer by layer; every method returns the number of the layer that it wrote last."""

    def __init__(self, size: int) -> None:
        self.parts: list[str] = []
        self.write("net", width=size, height=size, channels=3)

    def write(self, kind: str, **options: object) -> int:
        self.parts.append("\n".join([f"[{kind}]", *(f"{key}={value}" for key, value in options.items())]))
        return len(self.parts) - 2  # [net] is no layer

    def convolution(self, filters: int, size: int, stride: int = 1, groups: int = 1) -> int:
        more = {"groups": groups} if groups > 1 else {}
        return self.write("convolutional", batch_normalize=1, filters=filters, size=size, stride=stride, pad=1, **more,
                          activation="leaky")  # fmt: skip

    def linear(self, filters: int) -> int:
        return self.write("convolutional", filters=filters, size=1, stride=1, pad=1, activation="linear")

    def pool(self, size: int, stride: int) -> int:
        return self.write("maxpool", size=size, stride=stride)

    def shortcut(self, back: int) -> int:
        return self.write("shortcut", **{"from": -back}, activation="linear")

    def route(self, *layers: int) -> int:
        return self.write("route", layers=", ".join(map(str, layers)))

    def up(self) -> int:
        return self.write("upsample", stride=2)

    def detect(self, which: Sequence[int], anchors: Anchors, classes: int) -> int:
        """The last convolution of a scale, and what its channels mean."""
        self.linear(len(which) * (5 + classes))
        listed = ", ".join(f"{width},{height}" for width, height in anchors)
        mask = ",".join(map(str, which))
        return self.write("yolo", mask=mask, anchors=listed, classes=classes, num=len(anchors))

    def __str__(self) -> str:
        return "\n\n".join(self.parts)


def _checked(name: str, anchors: Anchors | None, own: Anchors) -> Anchors:
    anchors = own if anchors is None else [(int(width), int(height)) for width, height in anchors]
    if len(anchors) != len(own) or min(min(pair) for pair in anchors) < 1:
        raise InputError(
            f"{name}(anchors=…) wants {len(own)} pairs of width and height in pixels, at least 1 each, the smallest "
            f"first; got {str(list(anchors))[:120]}."
        )
    return anchors


# ------------------------------------------------------------------------------------------------------- Darknet-53


def _stages(text: _Text, down: Callable[[int], object], block: Callable[[int], object]) -> list[int]:
    """The five stages behind the first convolution; the numbers of their last layers."""
    ends = []
    for width, blocks in _STAGES:
        down(width)
        for _ in range(blocks):
            block(width)
        ends.append(len(text.parts) - 2)
    return ends


def _darknet53(size: int) -> tuple[_Text, list[int]]:
    text = _Text(size)

    def block(width: int) -> None:
        text.convolution(width // 2, 1)
        text.convolution(width, 3)
        text.shortcut(3)

    text.convolution(32, 3)
    return text, _stages(text, lambda width: text.convolution(width, 3, 2), block)


def darknet53_cfg(classes: int = 1000) -> str:
    """Darknet-53 as a classifier of 256×256 images."""
    text, _ = _darknet53(256)
    text.write("avgpool")
    text.linear(classes)
    text.write("softmax", groups=1)
    return str(text)


def yolov3_cfg(classes: int = 80, anchors: Anchors | None = None) -> str:
    """YOLOv3 for 416×416: Darknet-53 and three detection scales, layers numbered as in the public file."""
    anchors = _checked("yolov3", anchors, _COCO)
    text, ends = _darknet53(416)
    for scale, (width, skip) in enumerate(((512, None), (256, ends[3]), (128, ends[2]))):
        if skip is not None:
            text.route(-4)
            text.convolution(width, 1)
            text.up()
            text.route(-1, skip)
        for _ in range(3):
            text.convolution(width, 1)
            text.convolution(2 * width, 3)
        text.detect([3 * (2 - scale) + k for k in range(3)], anchors, classes)
    return str(text)


# ------------------------------------------------------------------------------------------------------- small ones


def yolov3_tiny_cfg(classes: int = 80, anchors: Anchors | None = None) -> str:
    """YOLOv3-tiny for 416×416: seven convolutions with pooling between them, and two detection scales."""
    anchors = _checked("yolov3_tiny", anchors, _COCO_TINY)
    text = _Text(416)
    for width in (16, 32, 64, 128, 256, 512):
        text.convolution(width, 3)
        text.pool(2, 1 if width == 512 else 2)
    text.convolution(1024, 3)
    neck = text.convolution(256, 1)
    text.convolution(512, 3)
    text.detect((3, 4, 5), anchors, classes)
    text.route(neck - len(text.parts) + 1)
    text.convolution(128, 1)
    text.up()
    text.route(-1, 8)
    text.convolution(256, 3)
    text.detect((0, 1, 2), anchors, classes)
    return str(text)


_GROUPS = 2
"""Of the pointwise convolutions that widen; those that narrow have one, so that all channels meet in every block."""


def mini_yolov3_cfg(classes: int = 80, anchors: Anchors | None = None) -> str:
    """Darknet-53's stages of depthwise and grouped pointwise convolutions, and a pyramid that goes down, up and down.

    As in Mini-YOLOv3 the backbone has about a sixth of Darknet-53's parameters and the whole less than a quarter of
    YOLOv3's. The paper's own widths are not public, so its accuracy is not to be expected of this one.
    """
    anchors = _checked("mini_yolov3", anchors, _COCO)
    text = _Text(416)

    def separable(width: int, into: int, stride: int = 1) -> int:
        text.convolution(width, 3, stride, groups=width)
        return text.convolution(into, 1)

    def block(width: int) -> None:
        text.convolution(width // 2, 1)
        text.convolution(width // 2, 3, groups=width // 2)
        text.convolution(width, 1, groups=_GROUPS)
        text.shortcut(4)

    text.convolution(32, 3)
    fine, middle, coarse = _stages(text, lambda width: separable(width // 2, width, 2), block)[2:]
    assert coarse == len(text.parts) - 2
    top = text.convolution(512, 1)
    upper = []  # coarse to fine, each with what the stage of its size found
    for width, skip in ((256, middle), (128, fine)):
        text.convolution(width, 1)
        text.up()
        text.route(-1, skip)
        text.convolution(width, 1)
        upper.append(separable(width, width))
    lower = [upper[1]]  # and back to coarse
    for width, beside in ((256, upper[0]), (512, top)):
        separable(width // 2, width, 2)
        text.route(-1, beside)
        lower.append(text.convolution(width, 1))
    for scale, source in zip((2, 1, 0), lower[::-1], strict=True):
        text.route(source)
        text.convolution(256 << scale, 3)
        text.detect([3 * scale + k for k in range(3)], anchors, classes)
    return str(text)
