"""Darknet networks: Darknet-53, YOLOv3 (Redmon & Farhadi, arXiv:1804.02767) and what else a ``.cfg`` file describes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, UnknownNameError
from secateur.core.reading import read_text
from secateur.models.darknet_built_in import Anchors, darknet53_cfg, mini_yolov3_cfg, yolov3_cfg, yolov3_tiny_cfg
from secateur.models.darknet_cfg import Section, parse_cfg

__all__ = [
    "Convolution", "Darknet", "Detection", "Residual", "darknet53", "from_cfg", "mini_yolov3", "yolov3", "yolov3_tiny",
]  # fmt: skip

_LARGEST = 2**20  # bytes of a .cfg; YOLOv3's has 8,000
_MOST_LAYERS, _MOST_WEIGHTS, _MOST_PIXELS = 2000, 200_000_000, 2**25  # YOLOv3 has 107, 62 million and 519,168

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


class _Sum(nn.Module):
    """A ``[shortcut]`` between layers that do not follow one another."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.activation(x + skip)  # type: ignore[no-any-return]


class _Route(nn.Module):
    """Layers one after the other along the channels."""

    def forward(self, *layers: Tensor) -> Tensor:
        return torch.cat(layers, 1) if len(layers) > 1 else layers[0]


class Darknet(nn.Module):
    """The network of a ``.cfg`` file.

    ``layers`` has the file's numbers as names; a residual block has the number of its ``[shortcut]``. A network
    with ``[yolo]`` sections gives their raw maps, (B, boxes · (5 + classes), H, W) each, coarsest first; another
    one what its last layer gives (without the softmax).

    Attributes:
        detections: The detection scales in order.
        image: (C, H, W) that the file is made for.
        sections: What the file says, as it was before anything was cut; :func:`secateur.models.write_darknet` says what
            the network is now.
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        """``sections`` come from :func:`secateur.models.darknet_cfg.parse_cfg`.

        Raises:
            InputError: Layers that do not fit together; names the line.
        """
        super().__init__()
        self.sections = tuple(sections)
        net, *layers = sections
        channels = net.number("channels", 3)
        self.image = (channels, net.number("height", 416), net.number("width", 416))
        if min(self.image) < 1 or prod(self.image) > _MOST_PIXELS or len(layers) > _MOST_LAYERS:
            raise InputError(
                f"{net.where}: {len(layers):,} layers for images of {' × '.join(map(str, self.image))}; built are "
                f"{_MOST_LAYERS:,} layers at most, and images of {_MOST_PIXELS:,} values."
            )
        self.layers = nn.ModuleDict()
        self.steps: list[tuple[int, tuple[int, ...]]] = []
        widths = {-1: channels}
        weights = 0
        for index, section in enumerate(layers):
            weights += _weights(section, widths[index - 1])
            if weights > _MOST_WEIGHTS:  # before any memory is taken for them
                raise InputError(
                    f"{section.where}: up to here the network has {weights:,} weights; built are "
                    f"{_MOST_WEIGHTS:,} at most."
                )
            layer, inputs, widths[index] = _layer(section, index, widths)
            self.layers[str(index)] = layer
            self.steps.append((index, inputs))
        yolo = [(i, s) for i, s in enumerate(layers) if s.kind == "yolo"]
        self.detections = tuple(_detection(s, i, widths[i]) for i, s in yolo)
        self._nest()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
        for detection in self.detections:
            _expect_little(self.layers[str(detection.layer - 1)], detection)

    def _nest(self) -> None:
        """Puts the convolutions that a shortcut spans into one module with it, where nobody else uses them."""
        for index, inputs in list(self.steps):
            layer = self.layers[str(index)]
            if not isinstance(layer, _Sum) or inputs[1] >= index - 1:
                continue
            inner = range(inputs[1] + 1, index)
            users = [(i, source) for i, sources in self.steps for source in sources if source in inner]
            plain = all(str(i) in self.layers and isinstance(self.layers[str(i)], Convolution) for i in inner)
            if plain and users == [(i + 1, i) for i in inner]:
                block = [self.layers.pop(str(i)) for i in inner]
                self.layers[str(index)] = Residual(block, layer.activation)
                self.steps = [(i, s if i != index else s[1:]) for i, s in self.steps if i not in inner]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, C, H, W), sides a multiple of the strides' product → what the class says."""
        values, later = {-1: x}, _last_uses(self.steps)
        outputs = {detection.layer for detection in self.detections}
        found = []
        for index, inputs in self.steps:
            x = values[index] = self.layers[str(index)](*(values[i] for i in inputs))
            found += [x] if index in outputs else []
            for done in [i for i in values if later.get(i, -1) <= index and i != index]:
                del values[done]  # large maps, of which only few are used again
        return tuple(found) if found else x.flatten(1) if x.shape[2:] == (1, 1) else x


_RARE = 0.01
"""How likely an object is where nothing is known: most boxes hold none, and else their loss is all that is learned at
first (Lin et al., arXiv:1708.02002, section 4.1)."""


def _expect_little(layer: nn.Module, detection: Detection) -> None:
    """Begins a detection scale at its anchors: small weights, no biases but one that says that objects are rare."""
    if isinstance(layer, Convolution) and layer.conv.bias is not None:
        biases = torch.zeros(len(detection.anchors), 5 + detection.classes)
        biases[:, 4] = math.log(_RARE / (1 - _RARE))
        nn.init.normal_(layer.conv.weight, std=0.01)
        with torch.no_grad():
            layer.conv.bias.copy_(biases.flatten())


def _weights(section: Section, inputs: int) -> int:
    """How many weights a layer has."""
    if section.kind != "convolutional":
        return 0
    filters, size, groups = (section.number(key, one) for key, one in _SIZES)
    return abs(filters) * (inputs // max(groups, 1) + 4) * size * size


def _last_uses(steps: Sequence[tuple[int, tuple[int, ...]]]) -> dict[int, int]:
    """By layer, the last one that takes its output."""
    return {source: index for index, inputs in steps for source in inputs}


def _layer(section: Section, index: int, widths: Mapping[int, int]) -> tuple[nn.Module, tuple[int, ...], int]:
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
            return _Sum(_activation(section)), inputs, before
        case "route":
            inputs = _places(section, "layers", index)
            return _Route(), inputs, sum(widths[i] for i in inputs)
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


def _detection(section: Section, index: int, channels: int) -> Detection:
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


# ---------------------------------------------------------------------------------------------------- by name


def from_cfg(path: str | Path) -> Darknet:
    """Builds the network of a ``.cfg`` file.

    Raises:
        InputError: The file is missing or no text, or describes what cannot be built; names the line.
    """
    path = Path(path)
    return Darknet(parse_cfg(read_text(path, InputError, largest=_LARGEST), path.name))


def darknet53(classes: int = 1000) -> Darknet:
    """Darknet-53, a classifier of 256×256 images."""
    return Darknet(parse_cfg(darknet53_cfg(classes), "darknet53"))


def yolov3(classes: int = 80, anchors: Anchors | None = None) -> Darknet:
    """YOLOv3 for 416×416 (or any multiple of 32); 61,949,149 parameters with 80 classes.

    Args:
        classes: How many it tells apart.
        anchors: Nine pairs of width and height in pixels of the input, the smallest first
            (:func:`secateur.task.detection.find_anchors`); COCO's if not given.
    """
    return Darknet(parse_cfg(yolov3_cfg(classes, anchors), "yolov3"))


def yolov3_tiny(classes: int = 80, anchors: Anchors | None = None) -> Darknet:
    """YOLOv3-tiny for 416×416 (or any multiple of 32); 8,852,366 parameters with 80 classes; six anchors."""
    return Darknet(parse_cfg(yolov3_tiny_cfg(classes, anchors), "yolov3_tiny"))


def mini_yolov3(classes: int = 80, anchors: Anchors | None = None) -> Darknet:
    """A network after Mini-YOLOv3 for 416×416 (or any multiple of 32); nine anchors. See ``darknet_built_in.py``."""
    return Darknet(parse_cfg(mini_yolov3_cfg(classes, anchors), "mini_yolov3"))
