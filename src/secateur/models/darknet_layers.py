"""The layers of Darknet's ``.cfg`` files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, UnknownNameError
from secateur.models.darknet_cfg import Section

__all__ = ["Convolution", "Detection", "Residual", "Route", "Sum", "detection_of", "layer_of", "weights_of"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "relu": nn.ReLU,
    "mish": nn.Mish,
    "swish": nn.SiLU,
    "logistic": nn.Sigmoid,
}


@dataclass(frozen=True)
class Detection:
    """One detection scale.

    Attributes:
        layer: Number of its ``[yolo]`` section.
        anchors: Widths and heights of its boxes, in pixels of the input.
        classes: How many classes it tells apart.
    """

    layer: int
    anchors: tuple[tuple[int, int], ...]
    classes: int


_SIZES = (("filters", None), ("size", 1), ("groups", 1))
"""Options of a convolution that say how many weights it has, with their defaults."""


class Convolution(nn.Module):
    """Convolution, batch normalisation where the file has it (else a bias), activation."""

    def __init__(self, section: Section, inputs: int) -> None:
        """``inputs`` are the channels of the layer before."""
        super().__init__()
        filters, size, groups = (section.number(key, one) for key, one in _SIZES)
        padding = size // 2 if section.number("pad", 0) else section.number("padding", 0)
        norm = bool(section.number("batch_normalize", 0))
        if groups < 1 or filters < 1 or inputs % groups or filters % groups:
            raise InputError(f"{section.where}: {inputs} → {filters} channels in {groups} groups cannot be built.")
        stride = section.number("stride", 1)
        if not (0 < size < 2**10 and 0 < stride < 2**10 and 0 <= padding < 2**10):
            raise InputError(
                f"{section.where}: a convolution of size {size}, stride {stride} and padding {padding} cannot be built."
            )
        self.conv = nn.Conv2d(inputs, filters, size, stride, padding, groups=groups, bias=not norm)
        self.norm = nn.BatchNorm2d(filters) if norm else nn.Identity()
        self.activation = _activation(section)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, filters, H′, W′)."""
        return self.activation(self.norm(self.conv(x)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A ``[shortcut]`` with the convolutions that it spans."""

    def __init__(self, branch: Sequence[nn.Module], activation: nn.Module) -> None:
        """``activation`` comes after the sum."""
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        return self.activation(x + self.branch(x))  # type: ignore[no-any-return]


class Sum(nn.Module):
    """A ``[shortcut]`` between layers that do not follow one another."""

    def __init__(self, activation: nn.Module) -> None:
        """``activation`` comes after the sum."""
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, H, W) twice → the same shape."""
        return self.activation(x + skip)  # type: ignore[no-any-return]


class Route(nn.Module):
    """Layers one after the other along the channels."""

    def forward(self, *layers: Tensor) -> Tensor:
        """(B, Cᵢ, H, W) each → (B, ΣCᵢ, H, W)."""
        return torch.cat(layers, 1) if len(layers) > 1 else layers[0]


def weights_of(section: Section, inputs: int) -> int:
    """How many weights a layer has."""
    if section.kind != "convolutional":
        return 0
    filters, size, groups = (section.number(key, one) for key, one in _SIZES)
    return abs(filters) * (inputs // max(groups, 1) + 4) * size * size


def layer_of(section: Section, index: int, widths: Mapping[int, int]) -> tuple[nn.Module, tuple[int, ...], int]:
    """One layer, the numbers of the layers that it takes, and its channels."""
    before, one = widths[index - 1], (index - 1,)
    match section.kind:
        case "convolutional":
            return Convolution(section, before), one, section.number("filters")
        case "shortcut":
            inputs = (index - 1, *_places(section, "from", index))
            if len(inputs) != 2 or widths[inputs[1]] != before:
                found = [widths[i] for i in inputs]
                raise InputError(f"{section.where}: [shortcut] wants two layers of equal width; got {found} channels.")
            return Sum(_activation(section)), inputs, before
        case "route":
            inputs = _places(section, "layers", index)
            return Route(), inputs, sum(widths[i] for i in inputs)
        case "upsample":
            return _upsample(section), one, before
        case "maxpool":
            return _maxpool(section), one, before
        case "avgpool":
            return nn.AdaptiveAvgPool2d(1), one, before
        case "yolo" | "softmax":
            return nn.Identity(), one, before
    raise InputError(f"{section.where}: [{section.kind}] stands in the middle of the file.")


def _places(section: Section, key: str, index: int) -> tuple[int, ...]:
    """Numbers of the layers that an option names; negative ones count back from the section itself."""
    found = tuple(index + n if n < 0 else n for n in section.numbers(key))
    if not found or any(not 0 <= n < index for n in found):
        got = section.options[key]
        raise InputError(f"{section.where}: {key}={got} has to name layers before this one, which is number {index}.")
    return found


def _activation(section: Section) -> nn.Module:
    name = section.options.get("activation", "linear" if section.kind == "shortcut" else "logistic")
    if name not in _ACTIVATIONS:
        raise UnknownNameError(f"activation ({section.where})", name, _ACTIVATIONS)
    return _ACTIVATIONS[name]()


def _upsample(section: Section) -> nn.Module:
    stride = section.number("stride", 2)
    if not 0 < stride <= 32:
        raise InputError(f"{section.where}: [upsample] by {stride} cannot be built.")
    return nn.Upsample(scale_factor=stride, mode="nearest")


def _maxpool(section: Section) -> nn.Module:
    """Darknet's pooling: it pads size − 1 pixels, the odd one at the end."""
    stride = section.number("stride", 1)
    size = section.number("size", stride)
    if not 0 < size < 2**10:
        raise InputError(f"{section.where}: [maxpool] of size {size} cannot be built.")
    if section.number("padding", size - 1) == size - 1:
        if size == stride == 2:
            return nn.MaxPool2d(2, ceil_mode=True)
        if stride == 1 and size % 2:
            return nn.MaxPool2d(size, 1, size // 2)
        if (size, stride) == (2, 1):  # the last row and column again: they change no maximum
            return nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1))
    raise InputError(
        f"{section.where}: [maxpool] with size {size} and stride {stride} is not built here (understood: 2 and 2, "
        "2 and 1, odd sizes with stride 1, darknet's own padding)."
    )


def detection_of(section: Section, index: int, channels: int) -> Detection:
    """What a ``[yolo]`` section says of the map before it, which has ``channels``."""
    numbers = section.numbers("anchors")
    anchors = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    mask = section.numbers("mask", tuple(range(len(anchors))))
    classes = section.number("classes", 20)
    if any(not 0 <= i < len(anchors) for i in mask) or channels != len(mask) * (5 + classes):
        raise InputError(
            f"{section.where}: [yolo] with {len(mask)} of {len(anchors)} anchors and {classes} classes wants "
            f"{len(mask) * (5 + classes)} channels from the layer before, which has {channels}."
        )
    return Detection(index, tuple(anchors[i] for i in mask), classes)
