"""MobileNetV3, small and large (Howard et al., arXiv:1905.02244, tables 1 and 2); parameter names as in torchvision.

The CIFAR form is the same network without the first two strides, for 32×32 pixels; the digits form is a short and
narrow one for 8×8.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

__all__ = ["LAYOUTS", "MobileNetV3"]


@dataclass(frozen=True)
class _Row:
    """A line of the paper's table: kernel, expanded and output channels, squeeze-and-excite, hard swish, stride."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    swish: bool
    stride: int


def _rows(text: str) -> tuple[_Row, ...]:
    """Lines ``kernel expanded out SE|- HS|RE stride``, as in the paper."""
    fields = [line.split() for line in text.strip().splitlines()]
    return tuple(_Row(int(k), int(e), int(o), se == "SE", nl == "HS", int(s)) for k, e, o, se, nl, s in fields)


LAYOUTS: dict[str, tuple[tuple[_Row, ...], int]] = {
    "large": (
        _rows("""
        3  16  16  -  RE 1
        3  64  24  -  RE 2
        3  72  24  -  RE 1
        5  72  40  SE RE 2
        5 120  40  SE RE 1
        5 120  40  SE RE 1
        3 240  80  -  HS 2
        3 200  80  -  HS 1
        3 184  80  -  HS 1
        3 184  80  -  HS 1
        3 480 112  SE HS 1
        3 672 112  SE HS 1
        5 672 160  SE HS 2
        5 960 160  SE HS 1
        5 960 160  SE HS 1
        """),
        1280,
    ),
    "small": (
        _rows("""
        3  16  16 SE RE 2
        3  72  24 -  RE 2
        3  88  24 -  RE 1
        5  96  40 SE HS 2
        5 240  40 SE HS 1
        5 240  40 SE HS 1
        5 120  48 SE HS 1
        5 144  48 SE HS 1
        5 288  96 SE HS 2
        5 576  96 SE HS 1
        5 576  96 SE HS 1
        """),
        1024,
    ),
    "tiny": (
        _rows("""
        3  16 16 SE RE 2
        3  48 24 -  RE 1
        5  64 24 SE HS 2
        5  96 24 SE HS 1
        """),
        64,
    ),
}
"""Form → (lines of the table, width of the classifier's hidden layer)."""


def _divisible(channels: float) -> int:
    """The nearest multiple of 8 that is not more than 10 % below.

    >>> _divisible(18)
    24
    """
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _activation(swish: bool) -> nn.Module:
    return nn.Hardswish(inplace=True) if swish else nn.ReLU(inplace=True)


class SqueezeExcitation(nn.Module):
    """Scales every channel by what two 1×1 convolutions make of all channel means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        """``squeezed`` is the width between the two convolutions."""
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        scale = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return scale * x  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project; a skip where the shape stays."""

    def __init__(self, inputs: int, row: _Row, stride: int, norm: partial[nn.BatchNorm2d]) -> None:
        """``stride`` is the row's own, or 1 where small images are not reduced yet."""
        super().__init__()
        parts: list[nn.Module] = []
        if row.expanded != inputs:
            parts.append(_convolution(inputs, row.expanded, 1, 1, 1, norm, _activation(row.swish)))
        deep = _convolution(row.expanded, row.expanded, row.kernel, stride, row.expanded, norm, _activation(row.swish))
        parts.append(deep)
        if row.squeeze:
            parts.append(SqueezeExcitation(row.expanded, _divisible(row.expanded // 4)))
        parts.append(_convolution(row.expanded, row.out, 1, 1, 1, norm, None))
        self.block = nn.Sequential(*parts)
        self.use_res_connect = stride == 1 and inputs == row.out

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, out, ⌈H/stride⌉, ⌈W/stride⌉)."""
        out: Tensor = self.block(x)
        return x + out if self.use_res_connect else out


def _convolution(
    inputs: int, out: int, kernel: int, stride: int, groups: int, norm: partial[nn.BatchNorm2d],
    activation: nn.Module | None,
) -> nn.Sequential:  # fmt: skip
    conv = nn.Conv2d(inputs, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, norm(out), *([] if activation is None else [activation]))


class MobileNetV3(nn.Module):
    """MobileNetV3; with 1000 classes the small form has 2,542,856 and the large one 5,483,032 parameters.

    >>> sum(p.numel() for p in MobileNetV3("small").parameters())
    2542856
    """

    def __init__(
        self, form: str, classes: int = 1000, *, strides: int = 5, in_channels: int = 3, dropout: float = 0.2
    ) -> None:
        """Builds the network.

        Args:
            form: ``small``, ``large`` or ``tiny``.
            classes: Outputs.
            strides: How many of the five (tiny: three) reductions by 2 are left, the last ones; 5 for 224×224
                (as published), 3 for 32×32, 1 or 2 for 8×8.
            in_channels: Channels of the images.
            dropout: Share dropped before the last layer.
        """
        super().__init__()
        if form not in LAYOUTS:
            raise ValueError(f"form is one of {', '.join(LAYOUTS)}; got {form!r}")
        rows, hidden = LAYOUTS[form]
        total = 1 + sum(row.stride == 2 for row in rows)
        if not 0 <= strides <= total:
            raise ValueError(f"the {form} form has up to {total} strides; got {strides}")
        # Published: momentum 0.01, for a hundred thousand steps. Short training on small images never gets there.
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01 if strides == total else 0.1)
        width = rows[-1].out
        self.features = _features(rows, total - strides, in_channels, norm)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * width, hidden), nn.Hardswish(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, classes)."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


def _features(rows: tuple[_Row, ...], dropped: int, in_channels: int, norm: partial[nn.BatchNorm2d]) -> nn.Sequential:
    """Stem, inverted residuals and the last 1×1 convolution, without the first ``dropped`` strides."""
    layers: list[nn.Module] = [_convolution(in_channels, 16, 3, 1 if dropped else 2, 1, norm, _activation(True))]
    width, seen = 16, 1
    for row in rows:
        seen += row.stride == 2
        layers.append(InvertedResidual(width, row, row.stride if seen > dropped else 1, norm))
        width = row.out
    return nn.Sequential(*layers, _convolution(width, 6 * width, 1, 1, 1, norm, _activation(True)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
