"""XML of strangers: small trees with the line of every element, and no entities, which can unpack to any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from secateur.core.errors import DataError
from secateur.core.reading import read_bytes

__all__ = ["Element", "read_xml"]

_LARGEST = 16 * 2**20  # bytes; an image's annotations have some thousand
_DEEPEST = 50
_MOST = 100_000  # elements; each takes some hundred bytes, and four in the file


@dataclass
class Element:
    """One element.

    Attributes:
        name: Its tag.
        where: File and line.
        text: What stands in it, without the elements in it.
        inner: The elements in it.
    """

    name: str
    where: str
    text: str = ""
    inner: list[Element] = field(default_factory=list)

    def all(self, name: str) -> Iterator[Element]:
        """The elements of that name directly in this one."""
        return (element for element in self.inner if element.name == name)

    def one(self, name: str) -> Element:
        """The first element of that name.

        Raises:
            DataError: There is none.
        """
        for element in self.all(name):
            return element
        raise DataError(f"{self.where}: <{self.name[:80]}> has no <{name}>.")

    def get(self, name: str, default: str = "") -> str:
        """The text of the first element of that name, without spaces around it."""
        return next((element.text.strip() for element in self.all(name)), default)

    def number(self, name: str) -> float:
        """The number in the first element of that name.

        Raises:
            DataError: There is none, or no number in it.
        """
        element = self.one(name)
        try:
            return float(element.text)
        except ValueError as error:
            raise DataError(f"{element.where}: <{name}> wants a number; got {element.text[:60]!r}.") from error


class _Builder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.root: Element | None = None
        self.open: list[Element] = []
        self.count = 0
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.characters
        self.parser.StartDoctypeDeclHandler = self.refuse
        self.parser.EntityDeclHandler = self.refuse

    def where(self) -> str:
        return f"{self.path}, line {self.parser.CurrentLineNumber}"

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self.open) >= _DEEPEST:
            raise DataError(f"{self.where()}: elements lie more than {_DEEPEST} deep in one another.")
        self.count += 1
        if self.count > _MOST:
            raise DataError(
                f"{self.where()}: there are more than {_MOST:,} elements; annotations of one image have fewer."
            )
        element = Element(name, self.where())
        if self.open:
            self.open[-1].inner.append(element)
        else:
            self.root = element
        self.open.append(element)

    def end(self, name: str) -> None:
        self.open.pop()

    def characters(self, text: str) -> None:
        if self.open:
            self.open[-1].text += text

    def refuse(self, *_: object) -> None:
        raise DataError(f"{self.where()}: a document type or entities, which annotations do not have and can do harm.")


def read_xml(path: Path) -> Element:
    """Reads a file's one element.

    Raises:
        DataError: Missing, too large, not well-formed, too many elements or too deep ones, or with a document type.
    """
    content, builder = read_bytes(path, DataError, largest=_LARGEST), _Builder(path)
    try:
        builder.parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # of an encoding that is none
        if isinstance(error, DataError):
            raise
        line = getattr(error, "lineno", 1)
        raise DataError(f"{path}, line {line}: no well-formed XML: {error}.") from error
    assert builder.root is not None  # else the parser said so
    return builder.root
