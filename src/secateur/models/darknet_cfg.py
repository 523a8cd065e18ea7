"""Darknet's ``.cfg`` files: sections of ``key=value`` lines that describe a network layer by layer.

The built-in YOLOs and Darknet-53 are such texts too (:mod:`secateur.models.darknet_built_in`), so that there is one way
to a network, and one from it (:mod:`secateur.models.darknet_writing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from secateur.core.errors import InputError, UnknownNameError

__all__ = ["Section", "parse_cfg", "write_cfg"]

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


def write_cfg(sections: Iterable[Section]) -> str:
    """The text of a ``.cfg`` file: what :func:`parse_cfg` reads as the same sections.

    >>> sections = parse_cfg("[net]\\nchannels = 3  # colours\\n[avgpool]")
    >>> print(write_cfg(sections), end="")
    [net]
    channels=3
    <BLANKLINE>
    [avgpool]
    """
    texts = ["\n".join([f"[{s.kind}]", *(f"{key}={value}" for key, value in s.options.items())]) for s in sections]
    return "\n\n".join(texts) + "\n"
