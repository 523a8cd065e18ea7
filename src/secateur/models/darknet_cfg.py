"""Darknet's ``.cfg`` files: sections of ``key=value`` lines that describe a network layer by layer.

The built-in YOLOv3 and Darknet-53 (Redmon & Farhadi, arXiv:1804.02767, table 1) are such texts too, so that there is
one way to a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secateur.core.errors import InputError, UnknownNameError

__all__ = ["Section", "darknet53_cfg", "parse_cfg", "yolov3_cfg"]

KINDS = ("net", "convolutional", "shortcut", "route", "upsample", "maxpool", "avgpool", "softmax", "yolo")

_REFUSED = {
    "convolutional": {"dilation": "1", "xnor": "0", "binary": "0", "antialiasing": "0", "share_index": ""},
    "shortcut": {"weights_type": "none", "weights_normalization": "none"},
    "route": {"groups": "1"},
    "upsample": {"scale": "1"},
    "softmax": {"groups": "1"},
}
"""Options that would change what is computed, with the only value that is understood."""


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        kind: ``convolutional``, ``shortcut`` …
        options: Keys and values as they stand in the file.
        where: File and line, for errors.
    """

    kind: str
    options: Mapping[str, str]
    where: str

    def number(self, key: str, default: int | None = None) -> int:
        """An option that is a whole number."""
        (value, *more) = self.numbers(key, None if default is None else (default,))
        if more:
            raise InputError(f"{self.where}: {key} of [{self.kind}] wants one number; got {self.options[key][:60]!r}.")
        return value

    def numbers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """An option that is a list of whole numbers."""
        text = self.options.get(key)
        if text is None and default is not None:
            return default
        if text is None:
            raise InputError(f"{self.where}: [{self.kind}] has no {key!r}.")
        try:
            return tuple(int(part) for part in text.split(",") if part.strip())
        except ValueError as error:
            raise InputError(f"{self.where}: {key} of [{self.kind}] wants whole numbers; got {text[:60]!r}.") from error


def parse_cfg(text: str, source: str = "the .cfg") -> list[Section]:
    """Reads the sections of a ``.cfg`` file; the first one is ``[net]``.

    Training options are passed over; what would change the computation in a way that is not built here is refused.

    Raises:
        InputError: A line that is none, an option that is not understood; names the line.
        UnknownNameError: A section of an unknown kind, with the nearest ones.

    >>> [s.kind for s in parse_cfg("[net]\\nchannels=3\\n[avgpool]")]
    ['net', 'avgpool']
    """
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#")[0].split(";")[0].strip()
        if line.startswith("["):
            sections.append(_section(line, f"{source}, line {number}"))
        elif line:
            _option(line, sections, f"{source}, line {number}")
    if not sections or sections[0].kind != "net":
        raise InputError(f"{source} does not start with a [net] section, so it describes no Darknet network.")
    for section in sections:
        _check(section)
    return sections


def _section(line: str, where: str) -> Section:
    kind = line.strip("[] ")
    kind = {"network": "net"}.get(kind, kind)
    if not line.endswith("]") or kind not in KINDS:
        raise UnknownNameError(f"section ({where})", kind, KINDS, f"Understood: {', '.join(KINDS)}.")
    return Section(kind, {}, where)


def _option(line: str, sections: list[Section], where: str) -> None:
    key, equals, value = line.partition("=")
    if not equals or not sections:
        raise InputError(f"{where}: wanted [section] or key=value inside one; got {line[:60]!r}.")
    assert isinstance(sections[-1].options, dict)  # made above; nobody else has it yet
    options, key, value = sections[-1].options, key.strip(), value.strip()
    if options.get(key, value) != value:  # Darknet takes the first, others the last
        raise InputError(f"{where}: {key[:60]} is given twice in one section, with different values.")
    options[key] = value


def _check(section: Section) -> None:
    for key, only in _REFUSED.get(section.kind, {}).items():
        if section.options.get(key, only) != only:
            raise InputError(
                f"{section.where}: {key}={section.options[key][:60]} of [{section.kind}] is not built here "
                f"(understood: {only or 'without it'})."
            )


# ---------------------------------------------------------------------------------------------------- built in

_STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
"""Channels and residual blocks of Darknet-53's five stages: 23 blocks."""

_ANCHORS = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"


def _write(kind: str, **options: object) -> str:
    return "\n".join([f"[{kind}]", *(f"{key}={value}" for key, value in options.items())])


def _convolution(filters: int, size: int, stride: int = 1) -> str:
    return _write(
        "convolutional", batch_normalize=1, filters=filters, size=size, stride=stride, pad=1, activation="leaky"
    )


def _backbone(size: int) -> list[str]:
    parts = [_write("net", width=size, height=size, channels=3), _convolution(32, 3)]
    for width, blocks in _STAGES:
        parts.append(_convolution(width, 3, 2))
        for _ in range(blocks):
            block = [_convolution(width // 2, 1), _convolution(width, 3)]
            parts += [*block, _write("shortcut", **{"from": -3}, activation="linear")]
    return parts


def darknet53_cfg(classes: int = 1000) -> str:
    """Darknet-53 as a classifier of 256×256 images."""
    last = _write("convolutional", filters=classes, size=1, stride=1, pad=1, activation="linear")
    return "\n\n".join([*_backbone(256), _write("avgpool"), last, _write("softmax", groups=1)])


def yolov3_cfg(classes: int = 80) -> str:
    """YOLOv3 for 416×416: Darknet-53 and three detection scales, layers numbered as in the public file."""
    parts = _backbone(416)
    for scale, (width, skip) in enumerate(((512, None), (256, 61), (128, 36))):
        if skip is not None:
            parts += [_write("route", layers=-4), _convolution(width, 1), _write("upsample", stride=2)]
            parts.append(_write("route", layers=f"-1, {skip}"))
        parts += [_convolution(width, 1), _convolution(2 * width, 3)] * 3
        filters = 3 * (5 + classes)
        parts.append(_write("convolutional", filters=filters, size=1, stride=1, pad=1, activation="linear"))
        mask = ",".join(str(3 * (2 - scale) + k) for k in range(3))
        parts.append(_write("yolo", mask=mask, anchors=_ANCHORS, classes=classes, num=9))
    return "\n\n".join(parts)
