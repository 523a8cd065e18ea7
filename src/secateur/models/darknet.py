"""Darknet networks: Darknet-53, YOLOv3 (Redmon & Farhadi, arXiv:1804.02767) and what else a ``.cfg`` file describes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.reading import read_text
from secateur.models.darknet_built_in import Anchors, darknet53_cfg, mini_yolov3_cfg, yolov3_cfg, yolov3_tiny_cfg
from secateur.models.darknet_cfg import Section, parse_cfg
from secateur.models.darknet_layers import Convolution, Detection, Residual, Sum, detection_of, layer_of, weights_of

__all__ = [
    "Convolution", "Darknet", "Detection", "Residual", "darknet53", "from_cfg", "mini_yolov3", "yolov3", "yolov3_tiny",
]  # fmt: skip

_LARGEST = 2**20  # bytes of a .cfg; YOLOv3's has 8,000
_MOST_LAYERS, _MOST_WEIGHTS, _MOST_PIXELS = 2000, 200_000_000, 2**25  # YOLOv3 has 107, 62 million and 519,168


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
            weights += weights_of(section, widths[index - 1])
            if weights > _MOST_WEIGHTS:  # before any memory is taken for them
                raise InputError(
                    f"{section.where}: up to here the network has {weights:,} weights; built are "
                    f"{_MOST_WEIGHTS:,} at most."
                )
            layer, inputs, widths[index] = layer_of(section, index, widths)
            self.layers[str(index)] = layer
            self.steps.append((index, inputs))
        yolo = [(i, s) for i, s in enumerate(layers) if s.kind == "yolo"]
        self.detections = tuple(detection_of(s, i, widths[i]) for i, s in yolo)
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
            if not isinstance(layer, Sum) or inputs[1] >= index - 1:
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


def _last_uses(steps: Sequence[tuple[int, tuple[int, ...]]]) -> dict[int, int]:
    """By layer, the last one that takes its output."""
    return {source: index for index, inputs in steps for source in inputs}


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
